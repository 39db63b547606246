"""Certificates from the calibration split with their test results, and the operating point."""

import jax
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy import stats

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


@pytest.mark.parametrize("runs", [1, 7])
def test_certificates_of_all_runs_are_at_a_share_of_delta(runs):
    guarantee = certification.certify(CALIBRATION, TEST, risk=0.15, delta=0.05, runs=runs)

    def expected(risk, delta):
        certificate = selective.learn_then_test(*CALIBRATION, risk=risk, delta=delta)
        return certificate.coverage, selective.accept_at(*TEST, certificate.threshold)[0]

    def coverages(certificate):
        return certificate["coverage"], certificate["test_coverage"]

    assert guarantee["runs"] == runs and guarantee["all_runs"]["delta"] == 0.05 / runs
    assert coverages(guarantee["all_runs"]) == expected(0.15, 0.05 / runs)
    assert "simultaneous" not in guarantee  # the ladder has those of all risks


def test_number_of_runs_below_one_is_rejected():
    with pytest.raises(InputError, match="runs 0: must be at least 1"):
        certification.certify(CALIBRATION, TEST, risk=0.1, delta=0.05, runs=0)


@pytest.mark.parametrize(
    ("risk", "delta", "n"), [(0.05, 0.1, 45), (0.5, 0.1, 30), (0.02, 0.05, 149)]
)
def test_least_examples_are_those_that_certify_without_an_error(risk, delta, n):
    assert certification.least_examples(risk, delta) == n
    for examples, coverage in ((n - 1, 0), (n, 1)):
        certificate = selective.learn_then_test(
            np.arange(examples), np.ones(examples), risk=risk, delta=delta
        )
        assert certificate.coverage == coverage


@pytest.mark.slow
def test_choosing_the_run_with_the_largest_certificate_needs_the_share_of_delta():
    """Seven runs on the same calibration split; see experiments/certificates.py."""
    rng, risk, runs, draws, n = np.random.default_rng(0), 0.02, 7, 150, 1000
    violations = {"single": 0, "all runs": 0}
    for _ in range(draws):
        common = rng.normal(size=n)
        guarantees = []
        for _ in range(runs):
            rank = stats.norm.cdf(np.sqrt(0.6) * common + np.sqrt(0.4) * rng.normal(size=n))
            correct = rng.random(n) >= 0.47 * rank**5
            sample = -rank, correct
            guarantees.append(
                (
                    selective.learn_then_test(*sample, risk=risk, delta=0.05),
                    selective.learn_then_test(*sample, risk=risk, delta=0.05 / runs),
                )
            )
        for index, name in enumerate(violations):
            chosen = max((pair[index] for pair in guarantees), key=lambda each: each.coverage)
            coverage = min(-chosen.threshold, 1) if chosen.coverage else 0
            violations[name] += 0.47 * coverage**5 / 6 > risk  # the true risk at this coverage
    # A frequency of 5 % exceeds `most` with probability 1e-3.
    most = stats.binom.ppf(1 - 1e-3, draws, 0.05)
    assert violations["all runs"] <= most < violations["single"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_decisions_are_those_of_float64_in_numpy_and_jax(dtype):
    low, high = np.float32(0.5), np.nextafter(np.float32(0.5), np.float32(1))
    for threshold in (0.5, float(low) / 2 + float(high) / 2, float(high), np.inf):
        point = certification.OperatingPoint("margin", 2.0, threshold, "certificate", None)
        confidence = np.array([low, high], dtype)
        expected = confidence.astype(np.float64) >= threshold
        assert_array_equal(point.accepts(confidence), expected)
        assert_array_equal(jax.jit(point.accepts)(confidence.astype(np.float32)), expected)


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


@pytest.mark.slow
def test_confidence_of_the_operating_point_uses_its_pnorm():
    logits = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    results = {**results_with(None), "best_score": "max_logit_pnorm", "pnorm": 3.0}
    point = certification.operating_point({**results, "scores": {}})
    assert_array_equal(
        point.confidence(logits), selective.max_logit_pnorm(logits, p=3.0, abstention=True)
    )
