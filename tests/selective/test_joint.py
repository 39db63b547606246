"""Risk and coverage together: bounds by their definitions, and events that they may not exceed."""

import doctest
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import special, stats

from kdjax.errors import InputError
from kdjax.selective import joint, joint_certificate, learn_then_test


def sample(n, *, seed=0, ties=10**9, rate=lambda u: 0.3 * u**3):
    """Returns confidences, and predictions that are wrong with probability rate(1 - confidence)."""
    rng = np.random.default_rng(seed)
    rank = np.floor(rng.random(n) * ties) / ties
    return 1 - rank, rng.random(n) >= rate(rank)


def counts(confidence, correct, threshold):
    kept = confidence >= threshold
    return int(kept.sum()), int((kept & ~correct).sum())


def test_examples_in_docstrings_hold():
    result = doctest.testmod(joint)
    assert result.attempted > 0 and result.failed == 0


@pytest.mark.parametrize("total", [1, 7, 200, 5_000])
@pytest.mark.parametrize("coverage", [0.01, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("delta", [0.001, 0.05, 0.3])
def test_least_accepted_is_the_first_count_that_is_too_large_for_a_smaller_coverage(
    total, coverage, delta
):
    counts = np.arange(1, total + 1)
    small = stats.binom.sf(counts - 1, total, coverage) <= delta
    expected = int(counts[small][0]) if small.any() else total + 1
    assert joint.least_accepted(total, coverage, delta) == expected


def smirnov(n, d):
    """P(sup (F_n - F) >= d), by Smirnov's sum in exact fractions."""
    d = Fraction(d)
    terms = (
        Fraction(math.comb(n, k))
        * (1 - d - Fraction(k, n)) ** (n - k)
        * (d + Fraction(k, n)) ** k
        / (d + Fraction(k, n))
        for k in range(math.floor(n * (1 - d)) + 1)
    )
    return float(d * sum(terms))


@pytest.mark.parametrize("n", [40, 120])
@pytest.mark.parametrize("delta", [0.05, 0.3])
def test_coverage_without_a_request_is_below_that_of_the_sample_by_smirnovs_quantile(n, delta):
    result = joint_certificate(np.arange(n), np.ones(n), risk=0.3, coverage=0, delta=delta)
    distance = 1 - result.at_risk.coverage
    assert result.both and result.at_coverage is None
    assert_allclose(smirnov(n, distance), delta / 2, rtol=1e-6)


@pytest.mark.parametrize("ties", [10**9, 12])
@pytest.mark.parametrize(("risk", "coverage"), [(0.05, 0.4), (0.05, 0.8), (0.1, 0.05), (0.02, 0.6)])
def test_bounds_are_those_of_the_definitions(ties, risk, coverage):
    confidence, correct = sample(1000, ties=ties, seed=3)
    delta = 0.06
    result = joint_certificate(confidence, correct, risk=risk, coverage=coverage, delta=delta)
    needed = joint.least_accepted(1000, coverage, delta / 3)

    loosest = learn_then_test(confidence, correct, risk=risk, delta=delta / 3)
    accepted, errors = counts(confidence, correct, loosest.threshold)
    assert result.both == (accepted >= needed and accepted > 0)
    assert result.threshold == (loosest.threshold if result.both else math.inf)
    if accepted:
        at_risk = result.at_risk
        assert (at_risk.threshold, at_risk.risk) == (loosest.threshold, risk)
        assert (at_risk.accepted, at_risk.errors) == (accepted, errors)
        anywhere = accepted / 1000 - stats.ksone.isf(delta / 6, 1000)
        expected = max(anywhere, coverage if result.both else 0)
        assert_allclose(at_risk.coverage, expected, atol=1e-9)

    at_coverage = result.at_coverage
    accepted, errors = counts(confidence, correct, at_coverage.threshold)
    # The tie group that has the needed one belongs to it as a whole.
    without = counts(confidence, correct, np.min(confidence[confidence >= at_coverage.threshold]))
    above = confidence > np.min(confidence[confidence >= at_coverage.threshold])
    assert np.sum(above) < needed <= accepted == without[0]
    assert (at_coverage.accepted, at_coverage.errors) == (accepted, errors)
    bound = stats.beta.isf(delta / 6, errors + 1, accepted - errors)
    assert_allclose(at_coverage.risk, bound, rtol=1e-9)
    assert at_coverage.coverage == coverage


def test_without_a_certified_threshold_only_the_pair_of_the_coverage_remains():
    confidence, correct = sample(200, rate=lambda u: np.full_like(u, 0.5))
    result = joint_certificate(confidence, correct, risk=0.01, coverage=0.5)
    assert not result.both and result.at_risk is None and result.threshold == math.inf
    assert result.at_coverage.risk > 0.5


def test_a_coverage_that_the_sample_cannot_show_has_no_pair():
    result = joint_certificate(np.arange(100), np.ones(100), risk=0.2, coverage=0.999)
    assert not result.both and result.at_coverage is None
    assert result.at_risk.accepted == 100


def test_examples_that_are_never_accepted_lower_the_coverage():
    confidence, correct = sample(600, rate=lambda u: 0 * u)
    all_of_them = joint_certificate(confidence, correct, risk=0.05, coverage=0.9)
    some = joint_certificate(confidence, correct, risk=0.05, coverage=0.9, total=700)
    assert all_of_them.both and not some.both
    expected = 600 / 700 - stats.ksone.isf(0.05 / 6, 700)
    assert_allclose(some.at_risk.coverage, expected, atol=1e-9)
    # As many as are needed of 700: more than the sample has.
    assert joint.least_accepted(700, 0.9, 0.05 / 3) > 600 and some.at_coverage is None


@pytest.mark.parametrize("true_coverage", [0.3, 0.72])
def test_no_choice_of_the_threshold_breaks_a_requested_coverage(true_coverage):
    """The threshold is chosen by somebody who knows the true coverage of each.

    A claim is false if a threshold with a lower true coverage accepts the needed number.
    """
    draws, n, delta = 2_000, 300, 0.1
    needed = joint.least_accepted(n, true_coverage, delta)
    rank = np.random.default_rng(0).random((draws, n))
    # The loosest threshold with a coverage below the requested one accepts all these.
    accepted = np.sum(rank < true_coverage - 1e-9, axis=1)
    frequency = np.mean(accepted >= needed)
    assert frequency <= delta + 3 * math.sqrt(delta * (1 - delta) / draws)
    assert frequency > delta / 2  # it is not far below either


def test_the_bound_for_one_threshold_would_fail_if_the_threshold_is_chosen():
    """Why the coverage that was not requested beforehand needs a bound for all thresholds."""
    draws, n, delta = 1_000, 300, 0.1
    rank = np.sort(np.random.default_rng(1).random((draws, n)), axis=1)
    accepted = np.arange(1, n + 1)
    single = stats.beta.ppf(delta, accepted, n - accepted + 1)
    uniform = accepted / n - stats.ksone.isf(delta, n)
    limit = delta + 3 * math.sqrt(delta * (1 - delta) / draws)
    assert np.mean((rank < single).any(axis=1)) > 2 * limit
    assert np.mean((rank < uniform).any(axis=1)) <= limit


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"risk": 0.0}, r"risk must lie in \(0, 1\)"),
        ({"delta": 1.0}, r"delta must lie in \(0, 1\)"),
        ({"coverage": 1.0}, r"coverage must lie in \[0, 1\): got 1.0"),
        ({"coverage": -0.1}, r"coverage must lie in \[0, 1\)"),
        ({"coverage": float("nan")}, r"coverage must lie in \[0, 1\)"),
        ({"total": 2}, "total 2: the sample has 3 examples"),
        ({"total": 3.5}, "total: need an integer"),
        ({"correct": [1, 0]}, "need"),
        ({"correct": [1, 0, 2]}, "correct must be boolean"),
        ({"confidence": [1.0, np.nan, 0.0]}, "confidence must not be NaN"),
        ({"confidence": [1.0, np.inf, 0.0]}, "confidence must be below infinity"),
    ],
)
def test_bad_values_are_named(changes, message):
    values = {"confidence": [3.0, 2.0, 1.0], "correct": [1, 1, 0], "risk": 0.1, "coverage": 0.5}
    with pytest.raises(InputError, match=message):
        joint_certificate(**(values | changes))


PROPERTIES = settings(deadline=None, max_examples=30)
SAMPLES = {
    "n": st.sampled_from([1, 20, 80, 300]),
    "ties": st.sampled_from([1, 4, 10**9]),
    "seed": st.integers(0, 10**6),
}


@PROPERTIES
@given(**SAMPLES, coverages=st.tuples(st.floats(0.01, 0.99), st.floats(0.01, 0.99)))
def test_a_higher_coverage_is_never_easier(n, ties, seed, coverages):
    confidence, correct = sample(n, ties=ties, seed=seed)
    low, high = (
        joint_certificate(confidence, correct, risk=0.1, coverage=coverage, delta=0.2)
        for coverage in sorted(coverages)
    )
    assert low.both or not high.both
    if low.at_coverage is None:
        assert high.at_coverage is None
    elif high.at_coverage:
        assert low.at_coverage.accepted <= high.at_coverage.accepted


@PROPERTIES
@given(**SAMPLES, coverage=st.sampled_from([0.0, 0.3, 0.8]), risk=st.sampled_from([0.05, 0.3]))
def test_the_bounds_of_a_pair_are_beyond_what_the_sample_shows(n, ties, seed, coverage, risk):
    confidence, correct = sample(n, ties=ties, seed=seed)
    found = joint_certificate(confidence, correct, risk=risk, coverage=coverage, delta=0.2)
    for pair in filter(None, (found.at_risk, found.at_coverage)):
        assert (pair.accepted, pair.errors) == counts(confidence, correct, pair.threshold)
        assert pair.coverage <= pair.accepted / n
        assert pair.risk >= pair.errors / pair.accepted
        assert 0 <= pair.coverage < 1 and 0 < pair.risk <= 1
    assert found.both == (found.threshold < math.inf)


@PROPERTIES
@given(**SAMPLES, shift=st.floats(-100, 100), scale=st.floats(0.01, 100))
def test_only_the_order_of_the_confidences_counts(n, ties, seed, shift, scale):
    confidence, correct = sample(n, ties=ties, seed=seed)
    options = {"risk": 0.1, "coverage": 0.5, "delta": 0.2}
    found = joint_certificate(confidence, correct, **options)
    other = joint_certificate(np.round(confidence, 9) * scale + shift, correct, **options)
    assert found.both == other.both
    for name in ("at_risk", "at_coverage"):
        pair, changed = getattr(found, name), getattr(other, name)
        assert (pair is None) == (changed is None)
        if pair:
            assert pair._replace(threshold=0) == changed._replace(threshold=0)


@PROPERTIES
@given(n=st.integers(1, 400), coverage=st.floats(0.01, 0.99), delta=st.floats(0.001, 0.5))
def test_the_needed_number_is_that_of_the_lower_bound_of_clopper_and_pearson(n, coverage, delta):
    needed = joint.least_accepted(n, coverage, delta)
    assert needed > n * coverage - 1
    for count, enough in ((needed - 1, False), (needed, True)):
        if 1 <= count <= n:
            bound = stats.beta.ppf(delta, count, n - count + 1)
            assert (bound >= coverage * (1 - 1e-9)) if enough else (bound <= coverage * (1 + 1e-9))


def test_the_needed_number_of_calibration_images_for_everything():
    """All accepted: the coverage c is shown by n images with c^n <= delta / 3."""
    for n, both in ((38, False), (39, True)):
        found = joint_certificate(np.arange(n), np.ones(n), risk=0.2, coverage=0.9)
        assert (0.9**n <= 0.05 / 3) == both == found.both


@pytest.mark.parametrize("delta", [0.001, 0.01, 0.05, 0.4])
def test_band_of_a_large_sample_is_slightly_wider_than_the_exact_one(delta):
    n, size = 30_000, joint.EXACT_UP_TO
    exact = special.smirnovi(n, delta)
    correct = np.arange(n) % 50 > 0
    found = joint_certificate(-np.arange(n), correct, risk=0.1, delta=2 * delta)
    width = found.at_risk.accepted / n - found.at_risk.coverage
    assert n > size and exact < width < 1.01 * exact
