"""Exact confidence bounds and intervals of a binomial probability.

A one-sided bound is a quantile of a beta distribution (Clopper, Pearson, Biometrika 1934). The
two-sided interval is that of Blaker: it contains the probability at least as often as its level
says, as that of Clopper and Pearson does, and lies within it. With few successes it is clearly
shorter. A count may be a real number, such as an expected number of errors under ties: the bounds
are then between those of the neighbouring integers.
"""

import functools
import math
from collections.abc import Callable

# scipy.stats has the quantiles too, but its import takes three times as long.
from scipy.special import betainc, betaincc, betainccinv, betaincinv


def lower_bound(count: float, total: int, delta: float) -> float:
    """Returns the p with P(Bin(total, p) >= count) = delta; 0 for count = 0.

    Args:
        count: number of successes, a real number in [0, total].
        total: number of trials, >= 1.
        delta: in (0, 1).
    """
    return float(betaincinv(count, total - count + 1, delta)) if count else 0.0


def upper_bound(count: float, total: int, delta: float) -> float:
    """Returns the largest p with P(Bin(total, p) <= count) >= delta; 1 for count = total.

    Args:
        count: number of successes, a real number in [0, total].
        total: number of trials, >= 0.
        delta: in (0, 1).
    """
    return float(betainccinv(count + 1, total - count, delta)) if count < total else 1.0


def proportion_interval(count: float, total: int, level: float = 0.95) -> tuple[float, float]:
    """Returns Blaker's exact two-sided confidence interval of a binomial probability.

    Its ends enclose the probabilities p with a(p) > 1 - level. With X ~ Bin(total, p) and
    t = min(P(X <= count), P(X >= count)), the acceptability a(p) is t plus the largest probability
    of the other tail that does not exceed t. The interval of Clopper and Pearson has 2 t instead.

    Args:
        count: number of successes, a real number in [0, total]; between two integers the ends are
            interpolated.
        total: number of trials, >= 1.
        level: in (0, 1).

    Source: Blaker, "Confidence curves and improved exact confidence intervals for discrete
    distributions", Canadian Journal of Statistics 2000.
    """
    below = math.floor(count)
    low, high = _interval(below, total, level)
    if below == count:
        return low, high
    next_low, next_high = _interval(below + 1, total, level)
    part = count - below
    return low + part * (next_low - low), high + part * (next_high - high)


def _interval(count: int, total: int, level: float) -> tuple[float, float]:
    """Returns the interval of an integer number of successes."""
    return _blaker_low(count, total, 1 - level), 1 - _blaker_low(total - count, total, 1 - level)


@functools.lru_cache(maxsize=1 << 14)
def _blaker_low(count: int, total: int, alpha: float) -> float:
    """Returns the least p with an acceptability above alpha.

    It is above the bound of Clopper and Pearson, where P(X >= count) = alpha / 2, and at most where
    the next lower tail P(X <= j) that is then larger than alpha / 2 has become as small as
    P(X >= count): from there on it belongs to the acceptability, which is then above alpha. Before,
    the acceptability rises through alpha at most once (its derivative changes its sign once).
    """
    if not count:
        return 0.0
    bound = lower_bound(count, total, alpha / 2)

    def lower_tail(successes: int, p: float) -> float:
        return float(betaincc(successes + 1, total - successes, p)) if successes >= 0 else 0.0

    def upper_tail(p: float) -> float:
        return float(betainc(count, total - count + 1, p))

    excluded, j = -1, count - 1
    while j - excluded > 1:
        middle = (excluded + j) // 2
        if lower_tail(middle, bound) > alpha / 2:
            j = middle
        else:
            excluded = middle
    joined = _bisect(lambda p: lower_tail(j, p) <= upper_tail(p), bound, 1.0)
    return _bisect(lambda p: upper_tail(p) + lower_tail(j - 1, p) > alpha, bound, joined)


def _bisect(is_reached: Callable[[float], bool], low: float, high: float) -> float:
    """Returns the least number in (low, high] for which a monotone condition holds."""
    while low < (middle := low + (high - low) / 2) < high and high - low > 1e-15 * high:
        low, high = (low, middle) if is_reached(middle) else (middle, high)
    return high
