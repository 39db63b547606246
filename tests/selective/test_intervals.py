"""Intervals of weighted sums over errors, against the distributions of scipy.stats."""

import numpy as np
import pytest
from scipy import stats

from kdjax.selective import intervals
from kdjax.selective.intervals import Unseen

LEVELS = (0.8, 0.95, 0.99)


def exact_poisson(count, level):
    """Garwood's interval of the mean of a Poisson variable, by its tail probabilities."""
    tail = (1 - level) / 2
    low = stats.chi2.ppf(tail, 2 * count) / 2 if count else 0.0
    return low, stats.chi2.ppf(1 - tail, 2 * count + 2) / 2


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("count", [0, 1, 3, 40])
@pytest.mark.parametrize("weight", [1.0, 0.01])
def test_equal_weights_give_the_exact_interval_of_a_poisson_mean(level, count, weight):
    unseen = intervals.unseen_error(np.full(5, weight))
    found = intervals.weighted_sum(np.full(count, weight), unseen, level)
    np.testing.assert_allclose(found, weight * np.array(exact_poisson(count, level)), rtol=1e-9)


@pytest.mark.parametrize("level", LEVELS)
def test_ends_are_quantiles_of_gamma_distributions(level):
    weights = np.random.default_rng(0).random(6)
    unseen = Unseen(0.4, 0.3)

    def quantile(q, mean, variance):
        return stats.gamma.ppf(q, mean**2 / variance, scale=variance / mean)

    mean, variance = weights.sum(), np.sum(weights**2)
    tail = (1 - level) / 2
    expected = quantile(tail, mean, variance), quantile(1 - tail, mean + 0.4, variance + 0.3)
    np.testing.assert_allclose(intervals.weighted_sum(weights, unseen, level), expected, rtol=1e-9)


def test_zeros_do_not_count_and_the_order_does_not_matter():
    weights, unseen = np.array([0.2, 0.5, 0.1]), Unseen(0.3, 0.1)
    shuffled = np.array([0, 0.1, 0, 0.2, 0.5])
    expected = intervals.weighted_sum(weights, unseen, 0.95)
    np.testing.assert_allclose(intervals.weighted_sum(shuffled, unseen, 0.95), expected)


def test_unseen_error_has_the_moments_of_the_weights():
    weights = np.array([0.1, 0.4, 0.7])
    assert intervals.unseen_error(weights) == pytest.approx((0.4, (0.01 + 0.16 + 0.49) / 3))


@pytest.mark.parametrize("expected_errors", [0.5, 3.0, 20.0])
def test_interval_contains_the_mean_of_random_sums_as_often_as_promised(expected_errors):
    """Errors as Poisson events with the weights of a uniform distribution."""
    rng, weights = np.random.default_rng(1), np.linspace(0.02, 1, 50)
    truth, covered, draws = expected_errors * weights.mean(), 0, 400
    for _ in range(draws):
        terms = rng.choice(weights, rng.poisson(expected_errors))
        low, high = intervals.weighted_sum(terms, intervals.unseen_error(weights), 0.95)
        covered += low <= truth <= high
    assert covered / draws >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / draws)


@pytest.mark.parametrize("level", LEVELS)
def test_difference_combines_the_intervals_of_both_sides(level):
    terms, unseen = np.array([0.3, -0.1, 0.0, 0.2, -0.4, 0.05]), Unseen(0.2, 0.06)
    p, q = 0.55, 0.5
    p_low, p_high = intervals.weighted_sum(np.array([0.3, 0.2, 0.05]), unseen, level)
    q_low, q_high = intervals.weighted_sum(np.array([0.1, 0.4]), unseen, level)
    low = p - q - np.sqrt((p - p_low) ** 2 + (q_high - q) ** 2)
    high = p - q + np.sqrt((p_high - p) ** 2 + (q - q_low) ** 2)
    np.testing.assert_allclose(intervals.difference(terms, unseen, level), (low, high), rtol=1e-9)


def test_difference_of_exchanged_runs_has_the_opposite_ends():
    terms, unseen = np.array([0.3, -0.1, 0.2]), Unseen(0.2, 0.06)
    low, high = intervals.difference(terms, unseen, 0.95)
    np.testing.assert_allclose(intervals.difference(-terms, unseen, 0.95), (-high, -low))


def test_equal_runs_differ_by_no_more_than_unseen_errors():
    low, high = intervals.difference(np.zeros(9), Unseen(0.2, 0.04), 0.95)
    assert low == pytest.approx(-high) and high > 0


def test_student_interval_has_the_quantile_of_the_differing_examples():
    rng = np.random.default_rng(2)
    terms, resampled = np.array([0.1, 0.0, -0.2, 0.3, 0.0]), rng.normal(size=300)
    width = stats.t.ppf(0.975, 2) * resampled.std(ddof=1)
    found = intervals.student(terms, resampled, 0.95)
    np.testing.assert_allclose(found, (0.2 - width, 0.2 + width), rtol=1e-6)
