"""Bootstrap intervals against resampled arrays, closed forms and the binomial distribution."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from kdjax import selective
from kdjax.errors import InputError
from kdjax.selective import bootstrap, compare

COVERAGES = (1.0, 0.8, 0.6)
NAMES = ["accuracy", "aurc", "augrc", "error_at_1.0", "error_at_0.8", "error_at_0.6"]


def metrics(confidence, correct):
    errors = selective.error_at_coverage(confidence, correct, COVERAGES)
    areas = [selective.aurc(confidence, correct), selective.augrc(confidence, correct)]
    return np.array([np.mean(correct), *areas, *errors])


def resampled_metrics(confidence, correct, resamples, seed):
    """Returns the metrics `[R, M]` of explicitly resampled arrays."""
    rng, n = np.random.default_rng(seed), len(confidence)
    draws = [rng.integers(n, size=n) for _ in range(resamples)]
    return np.array([metrics(confidence[rows], correct[rows]) for rows in draws])


def large_sample(n, ties=10**9, seed=0):
    """Returns predictions wrong with probability 0.6 u^2, u = 1 - confidence uniform."""
    rng = np.random.default_rng(seed)
    u = np.ceil(rng.random(n) * ties) / ties
    return 1 - u, rng.random(n) >= 0.6 * u**2


def ends(intervals):
    return np.array(list(intervals.values()))


@settings(deadline=None, max_examples=150)
@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=12),
    seed=st.integers(0, 10**6),
)
def test_a_resample_has_the_metrics_of_its_rows(rows, seed):
    confidence, correct = map(np.array, zip(*rows, strict=True))
    intervals = bootstrap(confidence, correct, coverages=COVERAGES, resamples=1, seed=seed)
    expected = resampled_metrics(confidence, correct, 1, seed)[0]
    assert list(intervals) == NAMES
    assert_array_equal(ends(intervals).T, [metrics(confidence, correct), expected, expected])


@pytest.mark.parametrize("ties", [4, 10**9])
@pytest.mark.parametrize("level", [0.5, 0.95])
def test_intervals_are_percentiles_of_resampled_metrics_and_of_their_differences(ties, level):
    options = {"coverages": COVERAGES, "resamples": 60, "seed": 3, "level": level}
    a, b = large_sample(90, ties), large_sample(90, ties, seed=1)
    values_a, values_b = (resampled_metrics(*run, 60, 3) for run in (a, b))
    percent = [50 * (1 - level), 50 * (1 + level)]
    for intervals, estimates, values in [
        (bootstrap(*a, **options), metrics(*a), values_a),
        (compare(*a, *b, **options), metrics(*a) - metrics(*b), values_a - values_b),
    ]:
        assert list(intervals) == NAMES
        expected = np.vstack([estimates, np.percentile(values, percent, axis=0)])
        assert_allclose(ends(intervals).T, expected, rtol=0, atol=1e-15)


def test_accuracy_interval_has_the_quantiles_of_a_binomial():
    # Resampling n rows, a fraction p of which is correct, draws Bin(n, p) correct ones.
    confidence, correct = large_sample(400)
    interval = bootstrap(confidence, correct, resamples=4000)["accuracy"]
    expected = stats.binom.ppf([0.025, 0.975], 400, correct.mean()) / 400
    assert_allclose(interval[1:], expected, rtol=0, atol=2 / 400)


def test_intervals_contain_the_true_value_at_about_their_level():
    # The true risk at coverage u is R(u) = 0.2 u^2. Accuracy 1 - R(1), AURC = integral of R,
    # AUGRC = integral of u R, and R(0.8).
    truth = np.array([0.8, 0.2 / 3, 0.2 / 4, 0.2 * 0.8**2])
    covered = []
    for seed in range(200):
        runs = bootstrap(*large_sample(200, seed=seed), coverages=[0.8], resamples=200, seed=seed)
        _, low, high = ends(runs).T
        covered.append((low <= truth) & (truth <= high))
    # 0.046 is 3 standard errors of a proportion of 200.
    assert_allclose(np.mean(covered, axis=0), 0.95, rtol=0, atol=0.046)


def test_a_run_compared_with_itself_has_zero_difference():
    run = large_sample(100, ties=7)
    assert_array_equal(ends(compare(*run, *run, resamples=50)), 0)
    confidence, correct = run
    rescaled = compare(confidence, correct, 3 * confidence - 5, correct, resamples=50)
    assert_array_equal(ends(rescaled), 0)


def test_exchanging_the_runs_negates_the_difference():
    a, b = large_sample(100), large_sample(100, ties=5, seed=1)
    a_minus_b, b_minus_a = (ends(compare(*x, *y, resamples=101)) for x, y in [(a, b), (b, a)])
    assert_allclose(a_minus_b, -b_minus_a[:, [0, 2, 1]], rtol=0, atol=1e-15)


def test_pairing_cancels_the_errors_common_to_both_runs():
    # Run b has the errors of run a and 10 more.
    confidence, correct = large_sample(1000)
    worse = correct & (np.cumsum(correct) > 10)
    _, low, high = compare(confidence, correct, confidence, worse)["accuracy"]
    unpaired = bootstrap(confidence, correct)["accuracy"]
    assert 0 < low <= 0.01 <= high
    assert high - low < (unpaired.high - unpaired.low) / 3


@pytest.mark.parametrize("n", [1, 30])
@pytest.mark.parametrize("hit", [True, False])
def test_all_correct_and_all_wrong_have_intervals_of_zero_width(n, hit):
    intervals = bootstrap(np.arange(n), np.full(n, hit), coverages=[1], resamples=20)
    expected = [hit, not hit, (not hit) / 2, not hit]
    assert_array_equal(ends(intervals).T, [expected] * 3)


def test_equal_seeds_give_equal_intervals():
    run = large_sample(50)
    first, again, other = (ends(bootstrap(*run, resamples=20, seed=s)) for s in (0, 0, 1))
    assert_array_equal(first, again)
    assert_array_equal(first[:, 0], other[:, 0])
    assert np.any(first != other)


def test_runs_of_unequal_lengths_are_rejected():
    with pytest.raises(InputError, match="run b has 3 predictions: run a needs 2"):
        compare([0.1, 0.2], [True, False], [0.1, 0.2, 0.3], [True, False, True])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ({"level": 0}, InputError, r"level must lie in \(0, 1\): got 0"),
        ({"level": 95}, InputError, r"level must lie in \(0, 1\): got 95"),
        ({"resamples": 0}, InputError, "resamples: need an integer >= 1: got 0"),
        ({"resamples": 1.5}, InputError, "resamples: need an integer >= 1: got 1.5"),
        ({"resamples": np.inf}, InputError, "resamples: need an integer >= 1: got inf"),
        ({"resamples": "many"}, TypeError, "resamples of dtype <U4"),
        ({"seed": -1}, InputError, "seed: need an integer >= 0: got -1"),
        ({"coverages": [0.5, 1.5]}, InputError, r"coverages must lie in \(0, 1\]: got 1.5"),
        ({"coverages": [0.1]}, InputError, "at least one of 2: got 0.1"),
    ],
)
def test_bad_options_raise_an_error_with_their_value(call, error, message):
    run = ([0.1, 0.2], [True, False])
    options = {"resamples": 5, "coverages": [1.0], **call}
    with pytest.raises(error, match=message):
        bootstrap(*run, **options)
    with pytest.raises(error, match=message):
        compare(*run, *run, **options)


@pytest.mark.parametrize(
    ("confidence", "correct", "message"),
    [([], [], r"\(0,\)"), ([0.1], [1, 0], r"\(2,\).*\(1,\)"), ([np.nan], [1], "got nan")],
)
def test_a_bad_sample_raises_an_error_with_its_value(confidence, correct, message):
    with pytest.raises(InputError, match=message):
        bootstrap(confidence, correct)
    with pytest.raises(InputError, match=message):
        compare(confidence, correct, [0.5], [True])
