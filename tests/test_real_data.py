"""Training on real images, if they are available beside the project."""

import pathlib
import runpy
import subprocess
import sys

import numpy as np
import pytest
from support.runs import final_arrays

from kdjax import config, pipeline
from kdjax.evaluation import evaluate

ROOT = pathlib.Path(__file__).parents[1]
PREPARE = ROOT.parent / "shared" / "data" / "prepare.py"


needs_images = pytest.mark.skipif(not PREPARE.exists(), reason="needs ../shared/data: real images")


@needs_images
def test_svhn_config_runs_on_real_images(tmp_path: pathlib.Path) -> None:
    subprocess.run([sys.executable, PREPARE, "svhn_sample", tmp_path], check=True)
    fields = runpy.run_path(str(ROOT / "configs" / "svhn.py"))["get_config"]()
    fields.update_from_flattened_dict(
        {"smoke": True, "data.dir": str(tmp_path), "teacher.width": 4, "student.width": 4}
    )
    resolved = config.resolve(fields)
    assert (resolved.teacher.model, resolved.student.model) == ("resnet18", "alexnet")
    dataset = pipeline.train(resolved, tmp_path / "run")
    assert dataset.image_shape == (32, 32, 3) and dataset.num_classes == 10
    # Photographs: the mean is far from black and from white.
    assert all(0.3 < value < 0.6 for value in dataset.mean)
    results = evaluate.evaluate(tmp_path / "run", dataset)
    assert results["test"]["examples"] == results["teacher"]["test"]["examples"] == 64


@needs_images
def test_streamed_epoch_of_cifar10_is_bit_identical_to_resident(
    tmp_path: pathlib.Path,
) -> None:
    subprocess.run([sys.executable, PREPARE, "cifar10", tmp_path], check=True)
    fields = runpy.run_path(str(ROOT / "configs" / "cifar10.py"))["get_config"]()
    fields.update_from_flattened_dict(
        {"data.dir": str(tmp_path), "size": "laptop", "student.width": 2, "student.epochs": 1,
         "objective.method": "ce", "objective.pretrain_epochs": 0,
         "student.schedule": "cosine"}
    )  # fmt: skip
    for name in ("resident", "stream"):
        fields.data.pipeline = name
        dataset = pipeline.train(config.resolve(fields), tmp_path / name)
        assert (dataset.image_shape, len(dataset.train.labels)) == ((32, 32, 3), 40000)
    (steps, expected), (streamed_steps, actual) = (
        final_arrays(tmp_path / name) for name in ("resident", "stream")
    )
    assert steps == streamed_steps == 40000 // 128
    for expected_leaf, leaf in zip(expected, actual, strict=True):
        np.testing.assert_array_equal(leaf, expected_leaf)
