"""Training on real images, if they are available beside the project."""

import importlib.util
import io
import json
import os
import pathlib
import runpy
import types
import zipfile
from collections.abc import Iterable

import numpy as np
import PIL.Image
import pytest
from support.runs import final_arrays
from support.tiny_network import TINY_NETWORK

from kdjax import config, pipeline
from kdjax.data import Dataset, Split, deployment_views
from kdjax.data.deployment_views import View
from kdjax.evaluation import evaluate
from kdjax.training.external import onnx_teacher

ROOT = pathlib.Path(__file__).parents[1]
PREPARE = ROOT.parent / "shared" / "data" / "prepare.py"
TEACHERS = ROOT.parent / "shared" / "teachers"


needs_images = pytest.mark.skipif(not PREPARE.exists(), reason="needs ../shared/data: real images")


@pytest.mark.slow
@needs_images
def test_svhn_config_runs_on_real_images(tmp_path: pathlib.Path) -> None:
    runpy.run_path(str(PREPARE))["main"]("svhn_sample", tmp_path)
    fields = runpy.run_path(str(ROOT / "configs" / "svhn.py"))["get_config"]()
    fields.update_from_flattened_dict(
        {"smoke": True, "data.dir": str(tmp_path), "teacher.width": 4, "student.width": 4}
    )
    resolved = config.resolve(fields)
    assert (resolved.teacher.model, resolved.student.model) == ("resnet18", "alexnet")
    fields.teacher.model = fields.student.model = TINY_NETWORK  # the others take long to compile
    dataset = pipeline.train(config.resolve(fields), tmp_path / "run")
    assert dataset.image_shape == (32, 32, 3) and dataset.num_classes == 10
    # Photographs: the mean is far from black and from white.
    assert all(0.3 < value < 0.6 for value in dataset.mean)
    results = evaluate.evaluate(tmp_path / "run", dataset)
    assert results["test"]["examples"] == results["teacher"]["test"]["examples"] == 64


def read_cifar10(split: str, sheets: Iterable[int]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Returns the images and labels on some sheets of 100 images, and the names of the classes."""
    with zipfile.ZipFile(PREPARE.with_name("cifar10-lossless-webp.zip")) as archive:
        grids = [
            np.asarray(
                PIL.Image.open(io.BytesIO(archive.read(f"{split}/{i:03d}.webp"))).convert("RGB")
            )
            for i in sheets
        ]
        labels = np.load(io.BytesIO(archive.read(f"{split}_labels.npy"))).reshape(-1, 100)
        names = json.loads(archive.read("meta.json"))["classes"]
    images = np.stack(grids).reshape(-1, 10, 32, 10, 32, 3).swapaxes(2, 3).reshape(-1, 32, 32, 3)
    return images, labels[list(sheets)].ravel().astype(np.int32), names


def prepare_some_of_cifar10(data_dir: pathlib.Path) -> None:
    """Prepares the first 1,000 training images and 100 test images of each class."""
    *train, names = read_cifar10("train", range(10))
    *test, _ = read_cifar10("test", range(0, 100, 10))
    splits = {"train": train, "test": test}
    builder = runpy.run_path(str(PREPARE))["builder_class"]("cifar10", splits, {"classes": names})
    builder(data_dir=data_dir, file_format="array_record").download_and_prepare()


@pytest.mark.slow
@needs_images
def test_streamed_epoch_of_cifar10_is_bit_identical_to_resident(
    tmp_path: pathlib.Path,
) -> None:
    prepare_some_of_cifar10(tmp_path)
    fields = runpy.run_path(str(ROOT / "configs" / "cifar10.py"))["get_config"]()
    fields.update_from_flattened_dict(
        {"data.dir": str(tmp_path), "student.model": TINY_NETWORK, "student.epochs": 1,
         "student.warmup_epochs": 0,
         "objective.method": "ce", "objective.pretrain_epochs": 0,
         "student.schedule": "cosine", "selective.risk": 0.2}
    )  # fmt: skip
    for name in ("resident", "stream"):
        fields.data.pipeline = name
        dataset = pipeline.train(config.resolve(fields), tmp_path / name)
        assert (dataset.image_shape, len(dataset.train.labels)) == ((32, 32, 3), 800)
    (steps, expected), (streamed_steps, actual) = (
        final_arrays(tmp_path / name) for name in ("resident", "stream")
    )
    assert steps == streamed_steps == 800 // 128
    for expected_leaf, leaf in zip(expected, actual, strict=True):
        np.testing.assert_array_equal(leaf, expected_leaf)


@pytest.mark.slow
@pytest.mark.skipif(not TEACHERS.exists(), reason="needs ../shared/teachers: published networks")
@needs_images
def test_published_onnx_teachers_classify_real_images() -> None:
    """The first 200 test images of CIFAR-10; on all 10,000 the errors are 8.27 and 6.61 %."""
    images, labels, names = read_cifar10("test", (0, 50))  # the archive is sorted by class
    split = Split(images, labels)
    dataset = Dataset(
        **dict.fromkeys(("train", "dev", "calibration", "test"), split),
        name="cifar10", version="3.0.2", class_names=tuple(names),
        mean=np.full(3, 0.5, np.float32), std=np.full(3, 0.25, np.float32),
    )  # fmt: skip
    for name in ("cifar10_resnet20", "cifar10_resnet56"):
        fields = config.base()
        fields.teacher.onnx = str(TEACHERS / f"{name}.onnx")
        source, note = onnx_teacher.describe_source(config.resolve(fields).teacher, dataset)
        assert source["input"]["layout"] == "nhwc"
        accuracy = float(note.partition(" classifies ")[2].partition(" %")[0])
        assert 85 <= accuracy <= 100


def load_experiment(name: str) -> types.ModuleType:
    path = ROOT / "experiments" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


published_teachers = load_experiment("published_teachers")


def published(name: str, every: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the logits of a published network for images and mirror images, and the labels.

    Args:
        name: of the network.
        every: 1 for all images, which are sorted by class; 10 for every tenth.
    """
    test = published_teachers.read_images(PREPARE.with_name("cifar10-lossless-webp.zip"))
    test = test._replace(images=test.images[::every], labels=test.labels[::every])
    path = TEACHERS / f"cifar10_{name}.onnx"
    mirrored = np.asarray(deployment_views.apply_view(test.images, View(mirrored=True)))
    plain, mirror = (
        published_teachers.network_logits(path, images) for images in (test.images, mirrored)
    )
    averaged = published_teachers.network_logits(path, test.images[:50], "flip")
    expected = deployment_views.mean_logits([plain[:50], mirror[:50]])
    np.testing.assert_allclose(averaged, expected, atol=1e-4)
    return plain, mirror, test.labels


# All images take half a minute of a CPU with ResNet20, and more than a minute with ResNet56.
all_images = pytest.mark.skipif(
    "KDJAX_TEST_ALL" not in os.environ, reason="minutes: with KDJAX_TEST_ALL=1"
)
each_network = pytest.mark.parametrize(
    ("name", "every", "figures", "averaged_figures", "ones"),
    [
        ("resnet20", 10, (8.7, 10.79, 1.88), (7.9, 8.69, 1.25), 32.6),
        pytest.param(
            "resnet20", 1, (8.27, 10.57, 1.76), (7.23, 8.09, 1.21), 33.0, marks=all_images
        ),
        pytest.param(
            "resnet56", 1, (6.61, 7.73, 1.19), (5.82, 5.82, 0.74), 31.3, marks=all_images
        ),
    ],
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(not TEACHERS.exists(), reason="needs ../shared/teachers: published networks")
@needs_images
@each_network
def test_mirror_views_and_log_odds_have_the_recorded_figures(
    name: str,
    every: int,
    figures: tuple[float, ...],
    averaged_figures: tuple[float, ...],
    ones: float,
) -> None:
    """All images: the tables of experiments/results/published_teachers.md."""
    plain, mirror, labels = published(name, every)
    for logits, expected in (
        (plain, figures),
        (deployment_views.mean_logits([plain, mirror]), averaged_figures),
    ):
        right = published_teachers.correct(logits, labels)
        measured = published_teachers.ranking(published_teachers.log_odds(logits), right)
        assert tuple(round(value, 2) for value in measured.values()) == expected
    saturated = published_teachers.saturation(plain)
    assert round(saturated["ones"], 1) == round(saturated["smallest_coverage"], 1) == ones
    assert saturated["largest_tie"] <= 2 and saturated["log_odds_groups"] >= 0.999 * len(labels)
