"""What is read of a run, and what is refused."""

import json
import re

import numpy as np
import pytest
import sample_runs
from numpy.testing import assert_array_equal

from kdjax.errors import InputError
from kdjax.report import page, predictions
from kdjax.report.page import runs


@pytest.fixture
def folder(tmp_path):
    return sample_runs.write(tmp_path / "run")


def refused(folder, **asked):
    """The one line that says why."""
    with pytest.raises(InputError) as raised:
        page.read(folder, **asked)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def edit(path, change):
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


def resave(folder, split, change):
    path = folder / "predictions" / f"{split}.npz"
    predictions.save(path, change(predictions.load(path)))


def test_what_is_read_is_what_the_results_tell_of(written):
    run, found = written.run, written.run.results
    assert run.right.mean() == found["test"]["accuracy"]
    assert set(run.confidence) == set(found["scores"])
    labels, logits = run.test.labels, run.test.logits
    assert_array_equal(run.predicted, logits[:, :-1].argmax(axis=1))
    assert_array_equal(run.right, run.predicted == labels)
    error = found["scores"][run.best]["error_at_coverage"]["70"]
    most = np.argsort(-run.confidence[run.best])[: round(0.7 * len(labels))]
    assert (~run.right)[most].mean() == pytest.approx(error, abs=1e-12)


@pytest.mark.parametrize("name", ["config.json", "results.json", "predictions/test.npz"])
@pytest.mark.parametrize("harm", ["missing", "empty", "cut"])
def test_a_missing_or_damaged_file_is_named(folder, name, harm):
    path = folder / name
    content = path.read_bytes()
    path.unlink()
    if harm != "missing":
        path.write_bytes(content[: len(content) // 2] if harm == "cut" else b"")
    line = refused(folder)
    assert str(folder) in line and path.name in line


@pytest.mark.parametrize("content", ["[]", "{}", '{"classes": 4}', "3"])
def test_results_of_another_kind_are_refused(folder, content):
    (folder / "results.json").write_text(content)
    line = refused(folder)
    assert "results.json" in line and "kdjax.evaluate --workdir=" in line


def test_results_of_other_predictions_are_refused(folder):
    resave(
        folder,
        "test",
        lambda found: found._replace(logits=found.logits[:9], labels=found.labels[:9]),
    )
    line = refused(folder)
    assert "200 test images" in line and "of 9" in line


def test_results_of_other_classes_are_refused(folder):
    edit(folder / "results.json", lambda found: found.update(classes=7))
    assert "7 classes" in refused(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(folder, value):
    def spoil(found):
        found.logits[3, 1] = value
        return found

    resave(folder, "test", spoil)
    assert "test.npz" in (line := refused(folder)) and "not finite" in line


@pytest.mark.parametrize(
    "labels", [np.full(200, 4), np.full(200, -1), np.zeros(200)], ids=["high", "low", "no integers"]
)
def test_labels_that_are_no_class_are_refused(folder, labels):
    resave(folder, "test", lambda found: found._replace(labels=labels))
    assert "labels must be integers 0..3" in refused(folder)


@pytest.mark.parametrize("columns", [3, 6])
def test_logits_of_other_classes_are_refused(folder, columns):
    resave(
        folder, "test", lambda found: found._replace(logits=np.zeros((200, columns), np.float32))
    )
    assert f"(200, {columns}) of 4 classes" in refused(folder)


def test_no_example_is_refused(folder):
    resave(
        folder,
        "test",
        lambda found: found._replace(logits=found.logits[:0], labels=found.labels[:0]),
    )
    assert "hold no example" in refused(folder)


def test_a_risk_asked_for_needs_a_calibration_split(folder):
    (folder / "predictions" / "calibration.npz").unlink()
    assert page.read(folder).guarantee["risk"] == 0.1  # certified when it was there
    assert "calibration.npz" in refused(folder, risk=0.2)


@pytest.mark.parametrize("asked", [{"risk": 7}, {"risk": 0}, {"delta": 1}, {"delta": np.nan}])
def test_a_risk_or_delta_out_of_range_is_refused(folder, asked):
    assert f"{next(iter(asked))} must lie in (0, 1)" in refused(folder, **asked)


def test_a_run_of_before_there_was_calibration_is_read(folder):
    (folder / "predictions" / "calibration.npz").unlink()

    def age(found):
        for key in ("guarantee", "pnorm", "correction", "calibration"):
            del found[key]

    new = page.read(folder)
    edit(folder / "results.json", age)
    old = page.read(folder)
    assert old.guarantee is None and old.threshold is None and not old.accepted.any()
    for name, values in new.confidence.items():
        assert_array_equal(old.confidence[name], values)


def test_a_teacher_is_read_though_its_logits_have_no_abstention(folder):
    write = predictions.Predictions
    for split in sample_runs.SPLITS:
        resave(folder, split, lambda found: write(found.logits[:, :-1], found.labels))
    edit(
        folder / "results.json",
        lambda found: [found["scores"].pop(n) for n in ("reservation", "max_probability")],
    )
    edit(folder / "results.json", lambda found: found.update(best_score="margin"))
    assert set(page.read(folder).confidence) == {
        "softmax_response",
        "negative_entropy",
        "margin",
        "max_logit_pnorm",
    }


def test_what_a_kill_has_cut_short_is_no_line_of_the_history(folder):
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('\n[1]\n{"step": 99}\n{"step": 40, "split": "tra')
    assert runs.history(folder) == sample_runs.history()
    assert runs.history(folder / "teacher") == []


def test_shifts_are_read_where_there_are_any(folder):
    assert runs.shift(folder) is None
    for content in ("{", "[]", '{"clean": 1}'):
        (folder / "shift.json").write_text(content)
        with pytest.raises(InputError, match=re.escape(str(folder / "shift.json"))):
            runs.shift(folder)
