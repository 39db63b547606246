"""The certification procedures against exact binomial tails, simulation and their definitions."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import stats

from kdjax import selective
from kdjax.errors import InputError
from kdjax.selective import learn_then_test, sgr

NOTHING = (math.inf, 0, 1)
both = pytest.mark.parametrize("certify", [sgr, learn_then_test])


def sample(n, ties=10**9, seed=0):
    """Returns calibrated confidences: predictions are correct with probability confidence."""
    rng = np.random.default_rng(seed)
    confidence = np.ceil(rng.random(n) * ties) / ties
    return confidence, rng.random(n) < confidence


def one_tie_group(n, errors):
    return np.ones(n), np.arange(n) >= errors


def tail(n, errors, p):
    """Returns P(Bin(n, p) <= errors), summed term by term."""
    return math.fsum(math.comb(n, j) * p**j * (1 - p) ** (n - j) for j in range(errors + 1))


def upper_bound(n, errors, delta):
    """Returns the largest p with tail(n, errors, p) >= delta, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if tail(n, errors, middle) >= delta else (low, middle)
    return low


COUNTS = [(30, 0), (100, 0), (100, 3), (100, 60), (2000, 40), (50_000, 20)]


@pytest.mark.parametrize(("n", "errors"), COUNTS)
@pytest.mark.parametrize("delta", [0.3, 0.05, 1e-6])
def test_sgr_reports_the_exact_binomial_bound(n, errors, delta):
    bound = sgr(*one_tie_group(n, errors), risk=0.999, delta=delta).risk_bound
    level = delta / math.ceil(math.log2(n))
    assert_allclose(bound, stats.beta.ppf(1 - level, errors + 1, n - errors), rtol=1e-9)
    assert_allclose(tail(n, errors, bound), level, rtol=1e-9)


@pytest.mark.parametrize(("n", "errors"), COUNTS)
def test_learn_then_test_uses_the_exact_binomial_tail(n, errors):
    risk = 1.2 * upper_bound(n, errors, 0.1)
    p_value = tail(n, errors, risk)
    assert_allclose(p_value, stats.binom.cdf(errors, n, risk), rtol=1e-9)
    passed = learn_then_test(*one_tie_group(n, errors), risk=risk, delta=p_value * (1 + 1e-9))
    assert passed == (1 - 2**-10, 1, risk)
    failed = learn_then_test(*one_tie_group(n, errors), risk=risk, delta=p_value * (1 - 1e-9))
    assert failed == NOTHING


# The procedures as their papers describe them, threshold by threshold.


def accepted_and_errors(confidence, correct, threshold):
    accepted = [hit for c, hit in zip(confidence, correct, strict=True) if c >= threshold]
    return len(accepted), len(accepted) - sum(accepted)


def half_way(confidence, threshold):
    """Returns the middle between a confidence and the next smaller one of a sample."""
    smaller = [c for c in confidence if c < threshold]
    if smaller:
        return (threshold + max(smaller)) / 2
    levels = set(confidence)
    if len(levels) == 1:
        return threshold - max(1, abs(threshold)) / 1024
    return threshold - (max(levels) - threshold) / (len(levels) - 1) / 2


def reference_sgr(confidence, correct, risk, delta):
    thresholds = sorted(set(confidence), reverse=True)
    steps = max(1, math.ceil(math.log2(len(confidence))))
    best, low, high = NOTHING, 0, min(len(thresholds), 2**steps - 1)
    for _ in range(steps):
        if low < high:
            middle = (low + high) // 2
            accepted, errors = accepted_and_errors(confidence, correct, thresholds[middle])
            bound = upper_bound(accepted, errors, delta / steps)
            if bound <= risk:
                threshold = half_way(confidence, thresholds[middle])
                best = (threshold, accepted / len(confidence), bound)
                low = middle + 1
            else:
                high = middle
    assert low == high
    return best


def reference_learn_then_test(confidence, correct, risk, delta):
    n, best = len(confidence), NOTHING

    def least_passing(errors):
        return next(k for k in itertools.count(30) if k > n or tail(k, errors, risk) <= delta)

    first = max(least_passing(0), min(least_passing(10), n // 4))
    for threshold in sorted(set(confidence), reverse=True):
        accepted, errors = accepted_and_errors(confidence, correct, threshold)
        if accepted >= first:
            if tail(accepted, errors, risk) > delta:
                break
            best = (half_way(confidence, threshold), accepted / n, risk)
    return best


@pytest.mark.parametrize(
    ("certify", "reference"), [(sgr, reference_sgr), (learn_then_test, reference_learn_then_test)]
)
@settings(deadline=None, max_examples=80)
@given(
    n=st.one_of(st.integers(1, 130), st.sampled_from([1, 2, 4, 64, 128])),
    ties=st.sampled_from([1, 3, 12, 10**9]),
    seed=st.integers(0, 10**6),
    risk=st.sampled_from([0.1, 0.3, 0.6, 0.9]),
    delta=st.sampled_from([0.01, 0.1, 0.5]),
)
def test_procedures_equal_a_direct_implementation(certify, reference, n, ties, seed, risk, delta):
    confidence, correct = sample(n, ties, seed)
    expected = reference(confidence.tolist(), correct.tolist(), risk, delta)
    assert_allclose(certify(confidence, correct, risk=risk, delta=delta), expected, rtol=1e-9)


DRAWS, N, RISK, DELTA = 2000, 400, 0.1, 0.1
# By family: the number of distinct confidences, and the error rate at rank u in (0, 1], where small
# ranks are the most confident. The risk of the last two is just above the target at every
# threshold, so that nothing may be certified.
FAMILIES = {
    "continuous": (10**6, lambda u: 0.6 * u**2),
    "tied": (12, lambda u: 0.6 * u**2),
    "just above the target": (10**6, lambda u: 0.1001 + 0 * u),
    "just above the target, tied": (4, lambda u: 0.1001 + 0 * u),
}


def draw_samples(family):
    """Returns calibration samples and the true risk of every threshold; rank u is -confidence."""
    levels, error = FAMILIES[family]
    ranks = np.arange(1, levels + 1) / levels
    true_risk = np.cumsum(error(ranks)) / np.arange(1, levels + 1)
    rng = np.random.default_rng(0)
    u = rng.integers(1, levels + 1, (DRAWS, N)) / levels
    return -u, rng.random(u.shape) >= error(u), true_risk


def simulated(certify, family):
    """Returns the coverage, and whether the true risk exceeds the bound, of each sample."""
    confidence, correct, true_risk = draw_samples(family)
    certificates = [
        certify(*rows, risk=RISK, delta=DELTA) for rows in zip(confidence, correct, strict=True)
    ]
    threshold, coverage, bound = np.array(certificates).T
    certified = coverage > 0
    # The last level that is accepted; -threshold lies half-way between two levels, or above 1.
    level = np.floor(-threshold[certified] * true_risk.size + 1e-9).astype(int) - 1
    level = np.minimum(level, true_risk.size - 1)
    exceeds = np.zeros(DRAWS, bool)
    exceeds[certified] = true_risk[level] > bound[certified]
    return coverage, exceeds


def best_on_sample(confidence, correct, risk, delta):
    """Returns the largest coverage at the target risk on the sample itself, without a guarantee."""
    curve = selective.risk_coverage_curve(confidence, correct)
    last = np.flatnonzero(curve.risk <= risk)[-1:]
    return (
        (*(a[last].item() for a in (curve.threshold, curve.coverage)), risk)
        if last.size
        else NOTHING
    )


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_true_risk_exceeds_the_bound_in_at_most_delta_of_the_samples(family):
    # A procedure that fails with probability delta exceeds this with probability 1e-6.
    most = stats.binom.ppf(1 - 1e-6, DRAWS, DELTA)
    sgr_coverage, sgr_failed = simulated(sgr, family)
    ltt_coverage, ltt_failed = simulated(learn_then_test, family)
    _, uncertified_failed = simulated(best_on_sample, family)
    assert sgr_failed.sum() <= most and ltt_failed.sum() <= most < uncertified_failed.sum()
    assert ltt_coverage.mean() >= sgr_coverage.mean()


@both
@pytest.mark.parametrize("ties", [5, 10**9])
def test_coverage_is_the_accepted_fraction_of_the_sample(certify, ties):
    confidence, correct = sample(2000, ties)
    certificate = certify(confidence, correct, risk=0.3)
    coverage, error = selective.accept_at(confidence, correct, certificate.threshold)
    assert coverage == certificate.coverage > 0
    assert error < certificate.risk_bound <= 0.3


@both
@pytest.mark.parametrize("n", [1000, 1024])
def test_all_correct_certifies_full_coverage_and_all_wrong_nothing(certify, n):
    confidence = np.random.default_rng(0).random(n)
    certificate = certify(confidence, np.ones(n), risk=0.02)
    # The ten steps of SGR cannot reach the loosest of 1,024 thresholds.
    assert certificate.coverage == (1 if n == 1000 or certify is learn_then_test else 1023 / 1024)
    assert certify(confidence, np.zeros(n), risk=0.99) == NOTHING


def test_small_samples_certify_only_what_their_size_allows():
    assert_allclose(sgr([0.5], [True], risk=0.951), (0.5 - 2**-10, 1, 0.95))
    assert sgr([0.5], [True], risk=0.949) == sgr([0.5], [False], risk=0.999) == NOTHING
    assert learn_then_test(np.arange(29), np.ones(29), risk=0.99) == NOTHING
    assert learn_then_test(np.arange(30), np.ones(30), risk=0.99) == (-0.5, 1, 0.99)
    # P(0 errors in n) at 1 % risk: 0.99^298 > 0.05 > 0.99^299.
    assert learn_then_test(*one_tie_group(298, 0), risk=0.01) == NOTHING
    assert learn_then_test(*one_tie_group(299, 0), risk=0.01) == (1 - 2**-10, 1, 0.01)


@both
def test_a_tie_group_is_certified_completely_or_not_at_all(certify):
    confidence, correct = np.repeat([2.0, 1.0], [200, 200]), np.arange(400) < 240
    assert certify(confidence, correct, risk=0.1)[:2] == (1.5, 0.5)
    assert certify(confidence[200:], correct[200:], risk=0.1) == NOTHING


@both
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounding_of_a_confidence_does_not_change_what_is_accepted(certify, dtype):
    confidence, correct = sample(500)
    confidence = confidence.astype(dtype)
    certificate = certify(confidence, correct, risk=0.3)
    accepted = confidence.astype(np.float64) >= certificate.threshold
    assert 0 < accepted.sum() < 500
    gap = confidence[accepted].min() - confidence[~accepted].max()
    for error in (-0.49 * gap, 0.49 * gap):
        assert np.array_equal(confidence + error >= certificate.threshold, accepted)


@both
def test_minus_infinity_is_accepted_only_if_it_is_certified(certify):
    confidence, correct = np.repeat([1.0, 0.5, -np.inf], 100), np.arange(300) < 200
    assert certify(confidence, correct, risk=0.1)[:2] == (0.25, 2 / 3)
    assert certify(confidence, np.ones(300), risk=0.1)[:2] == (-np.inf, 1)


def test_neighbouring_floats_are_separated():
    high = 1.0
    low = np.nextafter(high, 0)
    confidence, correct = np.repeat([high, low], [200, 200]), np.arange(400) < 200
    assert learn_then_test(confidence, correct, risk=0.1)[:2] == (high, 0.5)


def test_one_early_error_does_not_end_the_sequence():
    # The 40 most confident of 2,000 contain an error; 1 of 40 does not show a risk below 5 %.
    confidence, correct = -np.arange(2000), np.arange(2000) != 30
    assert learn_then_test(confidence, correct, risk=0.05).coverage == 1


@both
@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(1, 600),
    seed=st.integers(0, 10**6),
    risks=st.tuples(st.floats(0.001, 0.999), st.floats(0.001, 0.999)),
)
def test_coverage_does_not_decrease_with_the_risk(certify, n, seed, risks):
    confidence, correct = sample(n, seed=seed)
    assume(np.unique(confidence).size == n)
    low, high = (certify(confidence, correct, risk=risk).coverage for risk in sorted(risks))
    assert low <= high


@both
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"risk": 0}, InputError, r"risk must lie in \(0, 1\): got 0"),
        ({"risk": 1.0}, InputError, r"risk must lie in \(0, 1\): got 1"),
        ({"risk": np.nan}, InputError, "risk.*got nan"),
        ({"risk": [0.1, 0.2]}, InputError, r"risk of shape \(2,\): need one number"),
        ({"delta": 0}, InputError, r"delta must lie in \(0, 1\): got 0"),
        ({"delta": 5}, InputError, r"delta must lie in \(0, 1\): got 5"),
        ({"delta": "small"}, TypeError, "delta of dtype <U5"),
        ({"correct": [True]}, InputError, r"correct of shape \(1,\).*\(2,\)"),
        ({"confidence": [], "correct": []}, InputError, r"\(0,\)"),
        ({"confidence": [0.0, np.nan]}, InputError, "got nan"),
        ({"confidence": [0.0, np.inf]}, InputError, "below infinity.*: got inf"),
    ],
)
def test_bad_input_raises_an_error_with_its_value(certify, change, error, message):
    given_ = {"confidence": [0.0, 1.0], "correct": [True, False], "risk": 0.1, **change}
    with pytest.raises(error, match=message):
        certify(given_.pop("confidence"), given_.pop("correct"), **given_)


def test_sgr_reproduces_the_published_row_of_vgg_16_on_cifar_10():
    """arXiv 1705.08500, CIFAR-10, r = .02, delta = .001, 5,000 calibration images.

    Published: train risk about .0121, coverage .84, bound .0199. Here 51 of the 4,200 most
    confident are errors, most of them at the end as for a good score, and a quarter of the others.
    """
    confidence, correct = np.arange(5_000, 0, -1), np.ones(5_000, bool)
    correct[(4_199 * (np.arange(1, 52) / 51) ** 0.25).astype(int)] = False
    correct[4_200::4] = False
    found = sgr(confidence, correct, risk=0.02, delta=0.001)
    accepted = confidence >= found.threshold
    assert found.coverage == pytest.approx(0.84, abs=0.005)
    assert np.mean(~correct[accepted]) == pytest.approx(0.0121, abs=0.0002)
    assert round(found.risk_bound, 4) == 0.0199
    # The bound of the paper: delta / ceil(log2 5000) in each of the 13 steps.
    errors = int(np.sum(~correct[accepted]))
    tail = stats.binom.cdf(errors, accepted.sum(), found.risk_bound)
    assert tail == pytest.approx(0.001 / 13, rel=1e-6)
