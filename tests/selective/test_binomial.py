"""The exact binomial bounds against scipy.stats, the intervals against their definition."""

import numpy as np
import pytest
import scipy.stats
from numpy.testing import assert_allclose
from support.blaker import acceptability, blaker_interval

from kdjax.selective import binomial

COUNTS = [(0, 1), (1, 1), (0, 30), (2, 30), (29, 30), (3, 200), (71, 200), (200, 200)]


@pytest.mark.parametrize(("count", "total"), COUNTS)
@pytest.mark.parametrize("level", [0.1, 0.8, 0.95, 0.999])
def test_intervals_enclose_the_acceptable_probabilities(count, total, level):
    low, high = binomial.proportion_interval(count, total, level)
    assert_allclose((low, high), blaker_interval(count, total, level), rtol=0, atol=1e-6)
    p = np.linspace(0, 1, 2001)
    acceptable = acceptability(count, total, p) > 1 - level
    assert not np.any(acceptable & ((p < low - 1e-12) | (p > high + 1e-12)))


def test_published_interval():
    # Blaker's interval of 3 of 10, by the R package BlakerCI.
    assert_allclose(binomial.proportion_interval(3, 10), (0.0872644, 0.6194106), atol=5e-8)


@pytest.mark.parametrize(("count", "total"), COUNTS)
def test_intervals_are_within_those_of_clopper_and_pearson(count, total):
    outer = scipy.stats.binomtest(count, total).proportion_ci(0.95, "exact")
    low, high = binomial.proportion_interval(count, total)
    assert outer.low * (1 - 1e-9) <= low <= count / total <= high <= outer.high * (1 + 1e-9)


def test_intervals_of_a_fraction_are_interpolated():
    whole = np.array([binomial.proportion_interval(count, 40) for count in (2, 3)])
    assert_allclose(
        binomial.proportion_interval(2.25, 40), 0.75 * whole[0] + 0.25 * whole[1], rtol=1e-12
    )


@pytest.mark.parametrize("p", [0.0007, 0.0084, 0.05, 0.4])
def test_intervals_contain_the_probability_at_least_as_often_as_their_level_says(p):
    ends = np.array([binomial.proportion_interval(count, 251) for count in range(252)])
    weights = scipy.stats.binom.pmf(np.arange(252), 251, p)
    assert np.sum(weights[(ends[:, 0] <= p) & (p <= ends[:, 1])]) >= 0.95


@pytest.mark.parametrize("total", [0, 1, 30])
def test_upper_bound_is_one_where_no_trial_failed(total):
    assert binomial.upper_bound(total, total, 0.05) == 1


@pytest.mark.parametrize(("count", "total"), [(1, 1), (1, 30), (3, 200), (199, 200)])
@pytest.mark.parametrize("delta", [0.3, 1e-6])
def test_bounds_have_the_given_tail_probability(count, total, delta):
    low = binomial.lower_bound(count, total, delta)
    assert_allclose(scipy.stats.binom.sf(count - 1, total, low), delta, rtol=1e-9)
    high = binomial.upper_bound(count - 1, total, delta)
    assert_allclose(scipy.stats.binom.cdf(count - 1, total, high), delta, rtol=1e-9)
