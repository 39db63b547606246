"""The real images that may lie beside the project."""

import pathlib
import runpy
import subprocess
import sys

import numpy as np
import pytest
from test_train import arrays

from kdjax import assess, config, train

ROOT = pathlib.Path(__file__).parents[1]
PREPARE = ROOT.parent / "shared" / "data" / "prepare.py"


needs_images = pytest.mark.skipif(not PREPARE.exists(), reason="needs ../shared/data: real images")


@needs_images
def test_the_svhn_config_runs_on_real_pixels(tmp_path: pathlib.Path) -> None:
    subprocess.run([sys.executable, PREPARE, "svhn_sample", tmp_path], check=True)
    fields = runpy.run_path(str(ROOT / "configs" / "svhn.py"))["get_config"]()
    fields.update_from_flattened_dict(
        {"smoke": True, "data.dir": str(tmp_path), "teacher.width": 4, "student.width": 4}
    )
    resolved = config.resolve(fields)
    assert (resolved.teacher.model, resolved.student.model) == ("resnet18", "alexnet")
    dataset = train.run(resolved, tmp_path / "run")
    assert dataset.image_shape == (32, 32, 3) and dataset.num_classes == 10
    # Photos, not noise: what the normalization was made of is far from black and white.
    assert all(0.3 < value < 0.6 for value in dataset.mean)
    found = assess.assess(tmp_path / "run", dataset)
    assert found["test"]["examples"] == found["teacher"]["test"]["examples"] == 64


@needs_images
def test_an_epoch_of_cifar10_from_a_stream_ends_in_the_same_bits_as_in_memory(
    tmp_path: pathlib.Path,
) -> None:
    subprocess.run([sys.executable, PREPARE, "cifar10", tmp_path], check=True)
    fields = runpy.run_path(str(ROOT / "configs" / "cifar10.py"))["get_config"]()
    fields.update_from_flattened_dict(
        {"data.dir": str(tmp_path), "size": "laptop", "student.width": 2, "student.epochs": 1,
         "objective.method": "ce", "objective.pretrain_epochs": 0,
         "student.schedule": "cosine"}
    )  # fmt: skip
    for pipeline in ("resident", "stream"):
        fields.data.pipeline = pipeline
        dataset = train.run(config.resolve(fields), tmp_path / pipeline)
        assert (dataset.image_shape, len(dataset.train.labels)) == ((32, 32, 3), 40000)
    (steps, expected), (again, found) = (arrays(tmp_path / name) for name in ("resident", "stream"))
    assert steps == again == 40000 // 128
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one, other)
