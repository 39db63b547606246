"""The section of a report on coverage and selective risk by class."""

import numpy as np
import pytest
from support import sample_runs
from support.blaker import blaker_interval
from support.pages import Page, assert_valid, plain_text

from kdjax import selective
from kdjax.evaluation.predictions import Predictions
from kdjax.report import page
from kdjax.report.page import classes, formatting, tables


def test_classes_are_sorted_by_coverage_with_exact_intervals(written):
    run = written.run
    true_table, predicted_table = classes.section(run)["tables"]
    for table, codes in ((true_table, run.test.labels), (predicted_table, run.predicted)):
        rows = {row[0]: row[1:] for row in table.rows}
        shares = {}
        for index, name in enumerate(run.classes):
            kept = run.accepted & (codes == index)
            wrong, images = int((kept & ~run.correct).sum()), int((codes == index).sum())
            assert rows[name][2:] == [str(images), str(kept.sum()), str(wrong)]
            for cell, count, total in zip(
                rows[name], (int(kept.sum()), wrong), (images, int(kept.sum())), strict=False
            ):
                low, high = (f"{100 * end:.2f}" for end in blaker_interval(count, total))
                assert cell == f"{100 * count / total:.2f}\n{low}{formatting.NONE}{high}"
            shares[name] = kept.sum() / images
        order = [row[0] for row in table.rows]
        assert order == sorted(order, key=shares.__getitem__)


def rarely_accepted(run):
    """Returns a run whose class 1 is never recognized, and is taken for class 0 if accepted."""
    labels = np.repeat(np.arange(4), 300).astype(np.int32)
    logits = np.zeros((1200, 5), np.float32)
    logits[np.arange(1200), labels] = np.where(labels == 1, 0.01, 9.0)
    logits[300:306, 0] = 9.0
    guarantee = {
        "risk": 0.1,
        "certificates": [{"risk": 0.1, "learn_then_test": {"threshold": 0.5}}],
    }
    results = {**run.results, "best_score": "margin", "guarantee": guarantee}
    return run._replace(results=results, test=Predictions(logits, labels))


def test_a_class_that_is_rarely_accepted_and_then_wrong_has_warnings(written):
    section = classes.section(rarely_accepted(written.run))
    name = written.run.classes[1]
    assert section["certified"] and section["warnings"] == [
        f"6 of 300 images of class {name} are accepted (2.0 %), of all 75.5 %",
        f"6 of 6 accepted images of class {name} are wrong (100.0 %): significantly more than the "
        "limit of 10 %",
        f"0 of 294 predictions of class {name} are accepted (0.0 %), of all 75.5 %",
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_warnings_are_in_the_summary_and_in_the_section_with_escaped_names(written, monkeypatch):
    section = classes.section(rarely_accepted(written.run))
    warning = "6 of 300 images of class <b>&amp are accepted"
    monkeypatch.setattr(classes, "section", lambda run: {**section, "warnings": [warning]})
    html = page.write(written.run, out=written.folder.parent / "warnings.html").read_text()
    parsed = assert_valid(html)
    assert "b>&amp" not in {tag for tag, _ in parsed.elements}
    assert plain_text(html).count(warning) == 2
    assert [tag for tag in parsed.all("ul") if tag.get("class") == "warnings"]


def test_the_section_says_what_the_certificate_does_not_promise(written):
    text = plain_text(written.html)
    assert "it promises neither a risk nor a coverage within a class" in text
    assert "No class is (nearly) never accepted" in text
    assert any(link.get("href") == "#classes" for link in Page(written.html).all("a"))


def test_an_uncertified_run_shows_the_threshold_from_dev(written):
    guarantee = {
        "risk": 0.1,
        "certificates": [{"risk": 0.1, "learn_then_test": {"threshold": None}}],
    }
    run = written.run._replace(results={**written.run.results, "guarantee": guarantee})
    section = classes.section(run)
    thresholds = run.results["scores"][run.results["best_score"]]["thresholds"]
    threshold = thresholds["90"]["threshold"]
    assert section["threshold"] == selective.shown_threshold(run.best_score, threshold)
    assert (section["certified"], section["source"]) == (False, "dev, 90 % coverage")


@pytest.mark.slow
def test_of_many_classes_the_worst_are_shown_first_and_all_in_a_list(written):
    names = [f"class {index}" for index in range(30)]
    dataset = {**written.run.metadata["dataset"], "class_names": names}
    test = sample_runs.split(900, 0, classes=30)
    run = written.run._replace(metadata={**written.run.metadata, "dataset": dataset}, test=test)
    section = classes.section(run)
    for short, complete in zip(section["tables"], section["complete"], strict=True):
        assert len(complete.rows) == 30
        assert list(short.rows) == complete.rows[: tables.MAX_CLASSES]


def with_class_thresholds(run):
    """Returns a run with the promise for each predicted class; class 3 has no threshold."""
    predicted = run.predicted
    kept = predicted < 3
    values = {
        "risk": 0.1,
        "delta": 0.05,
        "threshold": [0.25, 0.5, 0.75, None],
        "test": {
            "examples": np.bincount(predicted, minlength=4).tolist(),
            "accepted": np.bincount(predicted[kept], minlength=4).tolist(),
            "errors": np.bincount(predicted[kept & ~run.correct], minlength=4).tolist(),
        },
    }
    results = {**run.results, "best_score": "margin", "promises": {"by_class": values}}
    return run._replace(results=results, operating_point=margin_point(run)), values


def margin_point(run):
    return run.operating_point._replace(score="margin", threshold=0.5)


def test_predicted_classes_have_their_own_thresholds_and_what_they_accept(written):
    run, values = with_class_thresholds(written.run)
    true_table, predicted_table = classes.section(run)["tables"]
    assert len(true_table.head) == 6 and len(predicted_table.head) == 9
    rows = {row[0]: row[6:] for row in predicted_table.rows}
    for index, name in enumerate(run.classes[:3]):
        expected = ["0.25", "0.5", "0.75"][index], "100.00", str(values["test"]["errors"][index])
        assert tuple(rows[name]) == expected
    assert tuple(rows[run.classes[3]]) == ("none", "0.00", formatting.NONE)
    assert "at most 10" in predicted_table.note and "for all classes together" in (
        predicted_table.note
    )


def test_results_of_an_earlier_version_have_no_thresholds_of_classes(written):
    results = {name: value for name, value in written.run.results.items() if name != "promises"}
    tables_of_old = classes.section(written.run._replace(results=results))["tables"]
    assert [len(table.head) for table in tables_of_old] == [6, 6]
