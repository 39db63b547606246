"""The sentences of the conclusion against the numbers that they describe."""

import math

import numpy as np
import pytest
from support import sample_runs
from support.blaker import blaker_interval

from kdjax.evaluation.certification import operating_point
from kdjax.report import page
from kdjax.report.page import formatting
from kdjax.report.page.conclusion import ASSUMPTIONS, conclude


def with_plain_spaces(text):
    return text.replace("\N{NO-BREAK SPACE}", " ")


def concluded(run):
    """Returns lead, evidence as one text, and assumptions."""
    conclusion = conclude(run)
    lead, evidence = conclusion.lead, " ".join(conclusion.evidence)
    return with_plain_spaces(lead), with_plain_spaces(evidence), conclusion.assumptions


def make_results(*, accepted, wrong, total=1000, risk=0.05, certified=True, examples=500):
    """Returns the parts of `results.json` that the conclusion uses."""
    threshold = float(total - accepted + 1)
    entry = {"threshold": threshold, "coverage": 0.75, "test_coverage": 0.5, "test_error": 0.25}
    none = {**entry, "threshold": None}
    certificates = [
        {"risk": 0.1, "sgr": none, "learn_then_test": entry},
        {"risk": risk, "sgr": none, "learn_then_test": entry if certified else none},
        {"risk": 0.001, "sgr": none, "learn_then_test": none},
    ]
    return {
        "best_score": "margin",
        "pnorm": 2.0,
        "scores": {"margin": {"thresholds": {"90": {"test_coverage": 0.9, "test_error": 0.2}}}},
        "test": {"accuracy": 1 - wrong / total, "examples": total},
        "guarantee": {
            "risk": risk,
            "delta": 0.1,
            "examples": examples,
            "certificates": certificates,
        },
    }


def make_run(results, *, wrong, total=1000):
    """Returns a run with these results; the wrong predictions are the most confident ones."""
    return page.Run(
        folder=None,
        metadata={},
        results=results,
        operating_point=operating_point(results),
        test=None,
        predicted=None,
        correct=np.arange(total) >= wrong,
        confidence={"margin": np.arange(total, 0, -1.0)},
    )


def make(*, wrong, **options):
    return make_run(make_results(wrong=wrong, **options), wrong=wrong)


def test_certified_run_states_coverage_risk_and_probability():
    lead, evidence, assumptions = concluded(make(accepted=800, wrong=20))
    assert lead == (
        "This model accepts 80.0 % of the test images (its coverage) and abstains on the rest. On "
        "new images its selective risk (error among accepted) is at most 5 %, with a probability "
        "of at least 90 %."
    )
    assert "the calibration split, 500 images that are used for nothing else" in evidence
    assert "its coverage there is 75.0 %" in evidence
    assert "The certificate fails for at most 10 % of such splits." in evidence
    assert "accepted if its confidence score, the margin, is at least 201." in evidence
    low, high = (100 * end for end in blaker_interval(20, 800))
    assert "it accepted 800 of 1,000 images with a selective risk of 2.5 %" in evidence
    assert f"(95 % interval {low:.1f} % to {high:.1f} %): within the certified risk." in evidence
    assert "accuracy on test is 98.0 % (95 % interval" in evidence
    assert assumptions == ASSUMPTIONS


@pytest.mark.parametrize(
    ("wrong", "comparison"),
    [
        (40, "within the certified risk"),  # 5 % of 800
        (41, "above the certified risk, but not significantly"),
        (80, "do not rely on the certificate"),
    ],
)
def test_certified_risk_is_compared_with_the_risk_on_test(wrong, comparison):
    assert comparison in concluded(make(accepted=800, wrong=wrong))[1]


def test_run_without_abstentions_has_coverage_100_percent():
    lead, evidence, _ = concluded(make(accepted=1000, wrong=0))
    assert "accepts all test images: its coverage is 100 %" in lead
    assert "accepted 1,000 of 1,000 images with a selective risk of 0 %" in evidence


def test_certified_run_that_accepts_no_test_image_has_no_risk_on_test():
    assert "It accepted none of the 1,000 test images." in concluded(make(accepted=0, wrong=3))[1]


def test_uncertified_run_states_the_smallest_certified_risk():
    lead, evidence, assumptions = concluded(make(accepted=0, wrong=3, certified=False))
    assert "No threshold could be certified to have a selective risk (error among acc" in lead
    assert "of at most 5 % with a probability of at least 90 %" in lead
    assert "abstains on every image" in lead
    assert "smallest risk that could be certified is 10 %" in evidence
    assert "of 50.0 % on test, and a selective risk of 25.0 % there" in evidence
    assert "--risk=0.1" in evidence
    assert assumptions == ()


@pytest.mark.parametrize(("risk", "needed"), [(0.05, 45), (0.002, 1151), (0.5, 30)])
def test_too_small_calibration_split_states_the_needed_size(risk, needed):
    # 0.95^44 > 0.1 >= 0.95^45
    for examples, too_small in ((needed - 1, True), (needed, False)):
        run = make(accepted=0, wrong=0, certified=False, risk=risk, examples=examples)
        evidence = concluded(run)[1]
        assert (f"even without an error at least {needed:,} are needed." in evidence) == too_small


def test_without_any_certificate_all_risks_are_listed():
    results = make_results(accepted=0, wrong=3, certified=False)
    del results["guarantee"]["certificates"][0]
    evidence = concluded(make_run(results, wrong=3))[1]
    assert "None of these risks could be certified: 5 % and 0.1 %." in evidence


def test_without_a_calibration_split_nothing_is_guaranteed():
    results = {**make_results(accepted=0, wrong=100), "guarantee": None}
    lead, evidence, assumptions = concluded(make_run(results, wrong=100))
    assert "trained without a calibration split" in lead
    assert "coverage (share of accepted images) of 90.0 % on test" in evidence
    assert "selective risk (error among accepted) of 20.0 % there" in evidence
    assert "not a guarantee" in evidence
    assert assumptions == ()


def test_conclusion_of_a_run_has_its_numbers(written):
    run = written.run
    certificate = run.operating_point.certificate
    accepted = run.confidence[run.best_score] >= certificate["threshold"]
    lead, evidence, _ = concluded(run)
    assert 0 < accepted.sum() < len(accepted)
    assert f"{100 * accepted.mean():.1f} %" in lead and "at most 10 %" in lead
    assert certificate["test_coverage"] == accepted.mean()
    assert f"accepted {accepted.sum()} of {len(accepted)} images" in evidence
    teacher_accuracy = 100 * run.results["teacher"]["test"]["accuracy"]
    assert f"that of its teacher is {teacher_accuracy:.1f} %" in evidence


def test_another_risk_gives_another_conclusion(written):
    run = page.read(written.folder, risk=0.2, delta=0.01)
    assert "at most 20 %, with a probability of at least 99 %" in concluded(run)[0]
    assert run.operating_point.threshold < written.run.operating_point.threshold
    guarantee = written.run.operating_point.guarantee
    same_risk = page.read(written.folder, risk=guarantee["risk"])
    assert same_risk.operating_point.guarantee == guarantee


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
def test_percent_has_more_digits_near_0_and_100(share, text):
    assert with_plain_spaces(formatting.percent(share)) == text


@pytest.mark.parametrize(("risk", "text"), [(0.05, "5 %"), (0.005, "0.5 %"), (1 - 0.05, "95 %")])
def test_requested_risks_are_not_rounded(risk, text):
    assert with_plain_spaces(formatting.exact_percent(risk)) == text


def test_uncertified_operating_point_accepts_nothing():
    run = make(accepted=0, wrong=3, certified=False)
    assert run.operating_point.threshold == math.inf and not run.accepted.any()


def test_sample_run_has_the_sample_classes(written):
    assert written.run.classes == list(sample_runs.CLASSES)


def test_a_collapsed_student_is_named_in_the_evidence():
    results = make_results(accepted=500, wrong=10)
    assert "collapsed" not in concluded(make_run(results, wrong=10))[1]
    results["collapse"] = "has collapsed: it abstains"
    assert "The student has collapsed: it abstains." in concluded(make_run(results, wrong=10))[1]
