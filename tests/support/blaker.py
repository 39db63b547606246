"""Blaker's interval of a binomial probability, by a search on grids from its definition."""

import numpy as np
from scipy import stats


def acceptability(count, total, p):
    """P(the smaller tail at X is at most that at `count`), X ~ Bin(total, p); `[len(p)]`."""
    k, p = np.arange(total + 1), np.reshape(p, (-1, 1))
    tails = np.minimum(stats.binom.cdf(k, total, p), stats.binom.sf(k - 1, total, p))
    counted = tails <= tails[:, [count]] * (1 + 1e-12)
    return np.sum(stats.binom.pmf(k, total, p) * counted, axis=1)


def blaker_interval(count, total, level=0.95):
    """Returns both ends, to about 1e-6 of the width of the interval of Clopper and Pearson."""
    outer = stats.binomtest(count, total).proportion_ci(level, "exact")
    estimate = count / total
    return tuple(_end(count, total, level, end, estimate) for end in (outer.low, outer.high))


def _end(count, total, level, outside, inside):
    """Returns where the acceptability first exceeds 1 - level on the way inside."""
    if outside in (0, 1):
        return outside
    for _ in range(3):
        grid = np.linspace(outside, inside, 101)
        first = int(np.argmax(acceptability(count, total, grid) > 1 - level))
        outside, inside = grid[max(first - 1, 0)], grid[first]
    return inside
