"""Reading a run from its files, and rejecting invalid ones."""

import json
import re

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from support import sample_runs

from kdjax.errors import InputError
from kdjax.evaluation import predictions, summary
from kdjax.report import page
from kdjax.report.page import runs
from kdjax.selective.scales import LOG_FORMS


@pytest.fixture
def folder(tmp_path):
    return sample_runs.write(tmp_path / "run")


def error_line(folder, **options):
    """Returns the one-line message with which reading fails."""
    with pytest.raises(InputError) as raised:
        page.read(folder, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def resave(folder, split, change):
    path = folder / "predictions" / f"{split}.npz"
    predictions.save(path, change(predictions.load(path)))


def test_predictions_agree_with_the_results(written):
    run, results = written.run, written.run.results
    assert run.correct.mean() == results["test"]["accuracy"]
    assert set(run.confidence) == set(results["scores"])
    labels, logits = run.test.labels, run.test.logits
    assert_array_equal(run.predicted, logits[:, :-1].argmax(axis=1))
    assert_array_equal(run.correct, run.predicted == labels)
    error = results["scores"][run.best_score]["error_at_coverage"]["70"]
    most_confident = np.argsort(-run.confidence[run.best_score])[: round(0.7 * len(labels))]
    assert (~run.correct)[most_confident].mean() == pytest.approx(error, abs=1e-12)


@pytest.mark.parametrize("name", ["config.json", "results.json", "predictions/test.npz"])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated"])
def test_a_missing_or_damaged_file_is_named_in_the_error(folder, name, damage):
    path = folder / name
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"")
    line = error_line(folder)
    assert str(folder) in line and path.name in line


@pytest.mark.parametrize("content", ["[]", "{}", '{"classes": 4}', "3"])
def test_results_with_invalid_content_are_rejected(folder, content):
    (folder / "results.json").write_text(content)
    line = error_line(folder)
    assert "results.json" in line and "kdjax evaluate --workdir=" in line


def test_results_of_other_predictions_are_rejected(folder):
    resave(
        folder,
        "test",
        lambda old: old._replace(logits=old.logits[:9], labels=old.labels[:9]),
    )
    line = error_line(folder)
    assert "200 test images" in line and "predictions/test.npz 9" in line


def test_results_of_another_number_of_classes_are_rejected(folder):
    edit(folder / "results.json", lambda results: results.update(classes=7))
    assert "7 classes" in error_line(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_rejected(folder, value):
    def set_value(old):
        old.logits[3, 1] = value
        return old

    resave(folder, "test", set_value)
    assert "test.npz" in (line := error_line(folder)) and "not finite" in line


@pytest.mark.parametrize(
    "labels", [np.full(200, 4), np.full(200, -1), np.zeros(200)], ids=["high", "low", "floats"]
)
def test_labels_out_of_range_are_rejected(folder, labels):
    resave(folder, "test", lambda old: old._replace(labels=labels))
    assert "labels must be integers 0..3" in error_line(folder)


@pytest.mark.parametrize("columns", [3, 6])
def test_logits_of_another_number_of_classes_are_rejected(folder, columns):
    resave(folder, "test", lambda old: old._replace(logits=np.zeros((200, columns), np.float32)))
    assert f"(200, {columns}) for 4 classes" in error_line(folder)


def test_empty_predictions_are_rejected(folder):
    resave(
        folder,
        "test",
        lambda old: old._replace(logits=old.logits[:0], labels=old.labels[:0]),
    )
    assert "contain no example" in error_line(folder)


def test_certifying_another_risk_needs_the_calibration_predictions(folder):
    (folder / "predictions" / "calibration.npz").unlink()
    assert page.read(folder).operating_point.guarantee["risk"] == 0.1  # from results.json
    assert "calibration.npz" in error_line(folder, risk=0.2)


@pytest.mark.parametrize("option", [{"risk": 7}, {"risk": 0}, {"delta": 1}, {"delta": np.nan}])
def test_a_risk_or_delta_out_of_range_is_rejected(folder, option):
    assert f"{next(iter(option))} must lie in (0, 1)" in error_line(folder, **option)


def test_a_run_of_a_version_without_calibration_split_is_read(folder):
    (folder / "predictions" / "calibration.npz").unlink()

    def make_old(results):
        for key in ("guarantee", "pnorm", "correction", "calibration"):
            del results[key]

    new = page.read(folder)
    edit(folder / "results.json", make_old)
    old = page.read(folder)
    point = old.operating_point
    assert point.guarantee is None and point.certificate == {} and not point.certified
    assert point.threshold == np.inf and not old.accepted.any()
    for name, values in new.confidence.items():
        assert_array_equal(old.confidence[name], values)


def test_a_teacher_without_abstention_logit_is_read(folder):
    for split in sample_runs.SPLITS:
        resave(folder, split, lambda old: old._replace(logits=old.logits[:, :-1]))
    edit(
        folder / "results.json",
        lambda results: [results["scores"].pop(name, None) for name in summary.ABSTENTION_SCORES],
    )
    edit(folder / "results.json", lambda results: results.update(best_score="margin_log"))
    assert set(page.read(folder).confidence) == {
        "softmax_response_log_odds",
        "negative_entropy",
        "margin_log",
        "max_logit_pnorm",
        "doctor",
        "energy",
    }


def test_results_of_a_version_that_ranked_by_probabilities_are_read(folder):
    new = page.read(folder)

    def rename(results):
        for name, form in LOG_FORMS.items():
            results["scores"][name] = results["scores"].pop(form)
        results.update(best_score="margin", combination=None)
        results["scores"].pop("combination")

    edit(folder / "results.json", rename)
    old = page.read(folder)
    assert old.best_score == "margin" and old.operating_point.combination is None
    assert np.all((old.confidence["margin"] >= 0) & (old.confidence["margin"] <= 1))
    assert old.response_metrics == new.response_metrics
    assert_array_equal(old.response_ranking, new.response_ranking)


def test_truncated_lines_of_the_history_are_ignored(folder):
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('\n[1]\n{"step": 99}\n{"step": "9", "split": "dev"}\n{"step": 40, "split": "tra')
    assert runs.read_history(folder) == sample_runs.history()
    assert runs.read_history(folder / "teacher") == []


def test_shift_json_is_optional_and_checked(folder):
    assert runs.read_shift(folder) is None
    for content in ("{", "[]", '{"clean": 1}'):
        (folder / "shift.json").write_text(content)
        with pytest.raises(InputError, match=re.escape(str(folder / "shift.json"))):
            runs.read_shift(folder)
