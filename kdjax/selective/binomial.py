"""Exact confidence bounds of a binomial probability (Clopper, Pearson, Biometrika 1934).

They are quantiles of beta distributions. A count may be a real number, such as an expected number
of errors under ties: the bounds are then between those of the neighbouring integers.
"""

# scipy.stats has them too, but its import takes three times as long.
from scipy.special import betainccinv, betaincinv


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
        total: number of trials, >= 1.
        delta: in (0, 1).
    """
    return float(betainccinv(count + 1, total - count, delta)) if count < total else 1.0


def proportion_interval(count: float, total: int, level: float = 0.95) -> tuple[float, float]:
    """Returns the exact two-sided confidence interval of a binomial probability.

    Args:
        count: number of successes, a real number in [0, total].
        total: number of trials, >= 1.
        level: in (0, 1).
    """
    tail = (1 - level) / 2
    return lower_bound(count, total, tail), upper_bound(count, total, tail)
