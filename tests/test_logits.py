"""The command that lists the images of a run, and checks a file of logits."""

import numpy as np
import pytest
from support.commands import assert_refused, command
from support.own_teachers import fit_linear, predict

from kdjax import data

pytestmark = pytest.mark.slow


@pytest.fixture
def flags(data_dir):
    return ("--config=digits", f"--config.data.dir={data_dir}", "--config.data.pad=0")


def test_index_is_written_and_logits_in_its_order_pass_the_check(flags, data_dir, tmp_path):
    index, logits = tmp_path / "index.npz", tmp_path / "logits.npz"
    done = command("logits", *flags, f"--write-index={index}", "--images")
    assert done.returncode == 0, done.stderr
    counts, views = done.stdout.splitlines()
    assert counts == (
        f"index of 1,797 images in {index}: 1,150 train, 144 dev, 144 calibration, 359 test"
    )
    assert views == "training images are not augmented: store logits [n, m]"
    with np.load(index) as arrays:
        content = dict(arrays)
    dataset = data.load("digits", data_dir=data_dir)
    np.testing.assert_array_equal(content["images"][:1150], dataset.train.images)
    linear = fit_linear(dataset.train)
    # One product of matrices or one for each split: some processors round them differently.
    np.testing.assert_allclose(
        predict(dataset, linear, content), linear.logits(content.pop("images")), atol=1e-5
    )
    np.savez(logits, logits=predict(dataset, linear, content), **content)
    done = command("logits", *flags, f"--check={logits}")
    assert done.returncode == 0, done.stderr
    assert "of the 1,150 training images correctly" in done.stdout
    assert "splits with logits: train, dev, calibration, test" in done.stdout


def test_bad_arguments_are_one_line(flags, tmp_path):
    cases = {
        (): "give either --write-index=FILE or --check=FILE",
        (f"--write-index={tmp_path / 'x.npz'}", "--splits=trian"): "did you mean 'train'",
        (f"--check={tmp_path / 'x.npz'}",): "there is no such file",
        (f"--check={tmp_path / 'x.npz'}", "--images"): "--splits and --images are for --write-",
        (f"--check={tmp_path / 'x.npz'}", "--splits=test"): "not for --check",
    }
    for arguments, message in cases.items():
        assert_refused(command("logits", *flags, *arguments), message)
