"""The sample of real SVHN that may lie beside the project, through its config."""

import pathlib
import runpy
import subprocess
import sys

import pytest

from kdjax import assess, config, train

ROOT = pathlib.Path(__file__).parents[1]
PREPARE = ROOT.parent / "shared" / "data" / "prepare.py"


@pytest.mark.skipif(not PREPARE.exists(), reason="needs ../shared/data: real SVHN images")
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
