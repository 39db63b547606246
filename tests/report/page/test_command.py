"""The command `python -m kdjax.report`."""

import shutil

import numpy as np
import pytest
from support import sample_runs
from support.commands import assert_refused, command

from kdjax import data
from kdjax.evaluation.predictions import Predictions
from kdjax.runs import restore, workdir


@pytest.fixture(scope="module")
def runs(data_dir, tmp_path_factory):
    """Returns a folder with two runs on the digits, with predictions for all test images."""
    labels = data.load("digits", data_dir=data_dir).test.labels

    def draw(n, seed, **options):
        predicted = sample_runs.split(n, seed, **options)
        if n != len(labels):
            return predicted
        logits = predicted.logits.copy()
        logits[np.arange(n), labels] += 4
        return Predictions(logits, labels)

    root = tmp_path_factory.mktemp("command")
    sizes = {**sample_runs.SPLITS, "test": len(labels)}
    fields = {"name": "digits", "classes": tuple("0123456789")}
    for name in ("a", "b"):
        sample_runs.write(root / name, draw=draw, sizes=sizes, **fields)
        metadata, config = workdir.read_metadata(root / name), restore.load_config(root / name)
        config.data.dir = str(data_dir)
        metadata["dataset"] = data.dataset_metadata(restore.load_data(config))
        sample_runs.write_json(root / name / "config.json", metadata)
    return root


@pytest.mark.slow
def test_report_of_a_run_has_galleries(runs, data_dir):
    done = command("report", "a", f"--data_dir={data_dir}", cwd=runs)
    assert (done.returncode, done.stdout, done.stderr) == (0, "a/report.html\n", "")
    text = (runs / "a" / "report.html").read_text()
    assert text.count("<img ") > 24  # in both galleries


@pytest.mark.slow
def test_without_the_data_set_the_report_has_no_galleries_and_a_warning_is_printed(runs):
    arguments = ("a", "--data_dir=gs://bucket", "--out=mine.html", "--risk=0.3")
    done = command("report", *arguments, cwd=runs)
    assert (done.returncode, done.stdout) == (0, "mine.html\n")
    (line,) = done.stderr.splitlines()
    assert line.startswith("kdjax: warning: no galleries: ") and "gs://bucket" in line
    text = (runs / "mine.html").read_text()
    assert "<img " not in text and "test split was not available" in text
    assert "selective risk (error among accepted) is at most 30\N{NO-BREAK SPACE}%" in text


@pytest.mark.slow
def test_images_of_another_version_are_not_shown(runs, data_dir, tmp_path):
    folder = shutil.copytree(runs / "a", tmp_path / "run")
    metadata = workdir.read_metadata(folder)
    metadata["dataset"]["version"] = "9.9.9"
    sample_runs.write_json(folder / "config.json", metadata)
    done = command("report", folder, f"--data_dir={data_dir}")
    assert done.returncode == 0 and "no galleries" in done.stderr and "9.9.9" in done.stderr
    assert "<img " not in (folder / "report.html").read_text()


@pytest.mark.slow
def test_several_runs_are_compared_on_one_page(runs):
    done = command("report", "a", "b", cwd=runs)
    assert (done.returncode, done.stdout, done.stderr) == (0, "comparison.html\n", "")
    assert "2 runs on digits" in (runs / "comparison.html").read_text()


@pytest.mark.slow
def test_report_of_a_workdir_of_several_students_compares_them(runs):
    folder, students = runs / "several", ("seed=2", "seed=1")
    metadata = sample_runs.metadata("students", name="digits", classes=tuple("0123456789"))
    metadata["config"]["students"] = [{"seed": 2}, {"seed": 1}]
    sample_runs.write_json(folder / "config.json", metadata)
    (folder / "students").mkdir()
    for name, run in zip(students, ("a", "b"), strict=True):
        (folder / "students" / name).symlink_to(runs / run)
    done = command("report", "several", cwd=runs)
    assert (done.returncode, done.stdout, done.stderr) == (0, "several/comparison.html\n", "")
    text = (folder / "comparison.html").read_text()
    assert "1: seed=2" in text and "2: seed=1" in text  # in the order of the config


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "RUN..."),
        (["nowhere"], "'nowhere' is not a workdir"),
        (["a", "nowhere"], "'nowhere' is not a workdir"),
        (["a", "--risk=2"], "risk must lie in (0, 1): got 2"),
    ],
)
def test_invalid_arguments_give_a_one_line_error_and_write_nothing(runs, tmp_path, arguments, part):
    (tmp_path / "a").symlink_to(runs / "a")
    before = sorted(runs.rglob("*"))
    done = command("report", *arguments, cwd=tmp_path)
    assert_refused(done, part)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert sorted(runs.rglob("*")) == before
