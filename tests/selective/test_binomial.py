"""The exact binomial bounds against scipy.stats."""

import pytest
import scipy.stats
from numpy.testing import assert_allclose

from kdjax.selective import binomial


@pytest.mark.parametrize(("count", "total"), [(0, 1), (1, 1), (0, 30), (3, 200), (200, 200)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_intervals_are_the_exact_binomial_ones(count, total, level):
    exact = scipy.stats.binomtest(count, total).proportion_ci(level, "exact")
    assert_allclose(binomial.proportion_interval(count, total, level), exact, rtol=1e-9)


@pytest.mark.parametrize(("count", "total"), [(1, 1), (1, 30), (3, 200), (199, 200)])
@pytest.mark.parametrize("delta", [0.3, 1e-6])
def test_bounds_have_the_given_tail_probability(count, total, delta):
    low = binomial.lower_bound(count, total, delta)
    assert_allclose(scipy.stats.binom.sf(count - 1, total, low), delta, rtol=1e-9)
    high = binomial.upper_bound(count - 1, total, delta)
    assert_allclose(scipy.stats.binom.cdf(count - 1, total, high), delta, rtol=1e-9)
