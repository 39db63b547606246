"""The sentences against the numbers that they are about."""

import numpy as np
import pytest
import sample_runs
from scipy.stats import binomtest

from kdjax.report import guarantees, page
from kdjax.report.page import words
from kdjax.report.page.verdict import ASSUMPTIONS, verdict


def read(text):
    """The text as a reader sees it: no-break spaces are spaces."""
    return text.replace("\N{NO-BREAK SPACE}", " ")


def said(run):
    found = verdict(run)
    return read(found.lead), read(" ".join(found.evidence)), found.assumptions


def made(*, answered, wrong, total=1000, risk=0.05, promised=True, examples=500):
    """A run of which only the numbers of the verdict are known."""
    confidence = np.arange(total, 0, -1.0)
    right = np.arange(total) >= wrong  # the wrong ones are the most confident
    threshold = float(total - answered + 1)
    entry = {"threshold": threshold, "coverage": 0.75, "test_coverage": 0.5, "test_error": 0.25}
    none = {**entry, "threshold": None}
    certificates = [
        {"risk": 0.1, "sgr": none, "learn_then_test": entry},
        {"risk": risk, "sgr": none, "learn_then_test": entry if promised else none},
        {"risk": 0.001, "sgr": none, "learn_then_test": none},
    ]
    shown = {"risk": risk, "delta": 0.1, "examples": examples, "certificates": certificates}
    results = {
        "best_score": "margin",
        "scores": {"margin": {"thresholds": {"90": {"test_coverage": 0.9, "test_error": 0.2}}}},
        "test": {"accuracy": 1 - wrong / total, "examples": total},
    }
    return page.Run(None, {}, results, shown, None, None, right, {"margin": confidence})


def test_a_promise_says_how_much_is_answered_how_wrong_and_how_surely():
    lead, evidence, assumptions = said(made(answered=800, wrong=20))
    assert lead == (
        "This model answers on 80.0 % of images like those of the test set and abstains on the "
        "rest. Among its answers at most 5 % are wrong, with 90 % certainty."
    )
    assert "on 500 calibration images, of which it answers 75.0 %" in evidence
    assert "its margin is at least 201." in evidence
    low, high = (100 * end for end in binomtest(20, 800).proportion_ci(0.95, "exact"))
    assert "answered 800 of 1,000 images, and 2.5 % of these answers were wrong" in evidence
    assert f"(95 % interval {low:.1f} % to {high:.1f} %): the promise held" in evidence
    assert "right on 98.0 % (95 % interval" in evidence
    assert assumptions == ASSUMPTIONS


@pytest.mark.parametrize(
    ("wrong", "judged"),
    [
        (40, "the promise held"),  # 5 % of 800: not more than promised
        (41, "more than promised, but no more than chance explains"),
        (80, "do not rely on the promise"),
    ],
)
def test_a_promise_that_the_test_set_does_not_bear_out_is_called_so(wrong, judged):
    assert judged in said(made(answered=800, wrong=wrong))[1]


def test_a_model_that_never_abstains_is_said_to():
    lead, evidence, _ = said(made(answered=1000, wrong=0))
    assert "answers on every image it was tested on" in lead
    assert "answered 1,000 of 1,000 images, and 0 % of these" in evidence


def test_a_promise_on_answers_that_never_come_has_no_error():
    assert "Of the 1,000 test images it answered none." in said(made(answered=0, wrong=3))[1]


def test_without_a_certificate_the_smallest_promise_is_named():
    lead, evidence, assumptions = said(made(answered=0, wrong=3, promised=False))
    assert "No threshold could be certified to keep wrong answers at or below 5 %" in lead
    assert "with 90 % certainty" in lead and "abstains on every image" in lead
    assert "smallest error rate that could be certified is 10 %" in evidence
    assert "answer 50.0 % of the test images, 25.0 % of these answers being wrong" in evidence
    assert "--risk=0.1" in evidence
    assert assumptions == ()


@pytest.mark.parametrize(("risk", "needed"), [(0.05, 45), (0.002, 1151), (0.5, 30)])
def test_too_few_calibration_images_are_counted(risk, needed):
    # 0.95^44 > 0.1 >= 0.95^45
    for examples, few in ((needed - 1, True), (needed, False)):
        evidence = said(made(answered=0, wrong=0, promised=False, risk=risk, examples=examples))[1]
        assert (f"even without a single error it takes {needed:,}." in evidence) == few


def test_without_any_certificate_all_that_were_tried_are_named():
    run = made(answered=0, wrong=3, promised=False)
    del run.guarantee["certificates"][0]
    assert "None of the error rates tried could be certified: 5 % and 0.1 %." in said(run)[1]


def test_without_a_calibration_split_nothing_is_promised():
    run = made(answered=0, wrong=100)._replace(guarantee=None)
    lead, evidence, assumptions = said(run)
    assert "trained without a calibration split" in lead
    assert "90.0 % of the test images, and 20.0 % of these answers were wrong" in evidence
    assert "no promise" in evidence
    assert assumptions == ()


def test_a_real_run_is_told_by_its_own_numbers(written):
    run = written.run
    operating = guarantees.operating(run.results["guarantee"])
    answered = run.confidence[run.best] >= operating["threshold"]
    lead, evidence, _ = said(run)
    assert 0 < answered.sum() < len(answered)
    assert f"{100 * answered.mean():.1f} %" in lead and "at most 10 %" in lead
    assert operating["test_coverage"] == answered.mean()
    assert f"answered {answered.sum()} of {len(answered)} images" in evidence
    assert f"its teacher, on {100 * run.results['teacher']['test']['accuracy']:.1f} %" in evidence


def test_another_risk_is_another_verdict(written):
    run = page.read(written.folder, risk=0.2, delta=0.01)
    assert "at most 20 % are wrong, with 99 % certainty" in said(run)[0]
    assert run.threshold < written.run.threshold
    again = page.read(written.folder, risk=written.run.guarantee["risk"])
    assert again.guarantee == written.run.guarantee


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (None, "\N{EN DASH}"),
        (0, "0 %"),
        (1, "100 %"),
        (0.8123, "81.2 %"),
        (0.0028, "0.28 %"),
        (0.99957, "99.96 %"),
    ],
)
def test_a_share_keeps_the_digits_that_matter(share, text):
    assert read(words.percent(share)) == text


@pytest.mark.parametrize(("risk", "text"), [(0.05, "5 %"), (0.005, "0.5 %"), (1 - 0.05, "95 %")])
def test_what_was_asked_for_is_not_rounded(risk, text):
    assert read(words.exactly(risk)) == text


def test_a_list_ends_in_and():
    assert [words.listed(items) for items in (["a"], ["a", "b"], "abc")] == [
        "a",
        "a and b",
        "a, b and c",
    ]


def test_the_sample_run_abstains_on_some(written):
    assert written.run.classes == list(sample_runs.CLASSES)
