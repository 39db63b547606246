"""Certificates from the calibration split with their test results, and the operating point."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from kdjax import selective
from kdjax.errors import InputError
from kdjax.evaluation import certification


def sample(n, seed):
    """Returns uniform confidences u, and predictions that are correct with probability u."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(size=n)
    return confidence, rng.uniform(size=n) < confidence


CALIBRATION, TEST = sample(2000, 0), sample(500, 1)


@pytest.fixture(scope="module")
def guarantee():
    return certification.certify(CALIBRATION, TEST, risk=0.15, delta=0.05)


def test_the_requested_risk_is_added_to_the_standard_risks(guarantee):
    risks = [entry["risk"] for entry in guarantee["certificates"]]
    assert risks == sorted({0.15, *certification.RISKS}, reverse=True)
    assert (guarantee["risk"], guarantee["delta"], guarantee["examples"]) == (0.15, 0.05, 2000)
    standard = certification.certify(CALIBRATION, TEST, risk=0.05, delta=0.05)
    assert [entry["risk"] for entry in standard["certificates"]] == list(certification.RISKS)


@pytest.mark.parametrize("certify", [selective.sgr, selective.learn_then_test])
def test_thresholds_are_certified_on_calibration_and_evaluated_on_test(guarantee, certify):
    confidence, correct = TEST
    for entry in guarantee["certificates"]:
        expected = certify(*CALIBRATION, risk=entry["risk"], delta=0.05)
        certificate = entry[certify.__name__]
        accepted = confidence >= expected.threshold
        assert certificate["coverage"] == expected.coverage
        assert certificate["risk_bound"] == expected.risk_bound
        assert certificate["test_coverage"] == np.mean(accepted)
        if np.isfinite(expected.threshold):
            assert certificate["threshold"] == expected.threshold
            assert certificate["test_error"] == np.mean(~correct[accepted])
        else:
            assert (certificate["threshold"], certificate["test_error"]) == (None, None)


def test_requested_certificate_is_that_of_learn_then_test_at_the_requested_risk(guarantee):
    expected = selective.learn_then_test(*CALIBRATION, risk=0.15)
    assert np.isfinite(expected.threshold)
    assert certification.requested_certificate(guarantee)["threshold"] == expected.threshold


@pytest.mark.parametrize(("risk", "delta"), [(0, 0.1), (1, 0.1), (0.1, 0), (0.1, 1)])
def test_risk_or_delta_out_of_range_is_rejected(risk, delta):
    with pytest.raises(InputError, match=r"must lie in \(0, 1\)"):
        certification.certify(CALIBRATION, TEST, risk=risk, delta=delta)


def results_with(guarantee):
    thresholds = {"90": {"threshold": 0.25}}
    scores = {"margin": {"thresholds": thresholds}}
    return {"best_score": "margin", "pnorm": 2.0, "scores": scores, "guarantee": guarantee}


def test_operating_point_uses_the_requested_certificate(guarantee):
    point = certification.operating_point(results_with(guarantee), fallback_coverage="90")
    expected = selective.learn_then_test(*CALIBRATION, risk=0.15)
    assert (point.score, point.threshold, point.source) == (
        "margin",
        expected.threshold,
        "certificate",
    )
    assert point.certified and point.guarantee == guarantee
    assert point.certificate == certification.requested_certificate(guarantee)
    coverage, _ = selective.accept_at(*TEST, point.threshold)
    assert np.mean(point.accepts(TEST[0])) == point.certificate["test_coverage"] == coverage


@pytest.mark.parametrize("calibrated", [True, False])
def test_operating_point_without_certified_threshold(calibrated):
    # 100 examples cannot certify a risk of 0.1 %.
    small = tuple(values[:100] for values in CALIBRATION)
    guarantee = certification.certify(small, TEST, risk=0.001, delta=0.05) if calibrated else None
    results = results_with(guarantee)
    point = certification.operating_point(results)
    assert (point.threshold, point.source, point.certified) == (np.inf, "none", False)
    assert not point.accepts(TEST[0]).any()
    point = certification.operating_point(results, fallback_coverage="90")
    assert (point.threshold, point.source) == (0.25, "dev, 90 % coverage")
    assert not point.certified


def test_confidence_of_the_operating_point_uses_its_pnorm():
    logits = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    results = {**results_with(None), "best_score": "max_logit_pnorm", "pnorm": 3.0}
    point = certification.operating_point({**results, "scores": {}})
    assert_array_equal(point.confidence(logits), selective.max_logit_pnorm(logits, p=3.0))
