"""Confidence intervals that hold with few errors: sums of weights over errors, and differences.

Every metric of this package is a sum of weights over the errors of a sample, up to its sign: an
error at rank j adds `weight[j]`. With few errors the bootstrap is too narrow (without an error it
has zero width), so these intervals model the errors as Poisson events instead.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammainccinv, gammaincinv


class Bounds(NamedTuple):
    """The ends of an interval."""

    low: float
    high: float


def weighted_sum(terms: NDArray[np.float64], weights: NDArray[np.float64], level: float) -> Bounds:
    """Returns the gamma interval of the expectation of a sum of weights over errors.

    With y = sum x_i and v = sum x_i^2, the lower end is the quantile of a gamma distribution with
    mean y and variance v; the upper end has one more error of average weight. For equal weights it
    is the exact interval of a Poisson mean.

    Args:
        terms: x, the weights of the errors that were seen, >= 0; zeros do not count.
        weights: of an error at each rank.
        level: in (0, 1).

    Source: Fay, Feuer, "Confidence intervals for directly standardized rates", Statistics in
    Medicine 1997, with the modification of Tiwari, Clegg, Zou, 2006.
    """
    tail = (1 - level) / 2
    mean, variance = float(np.sum(terms)), float(np.sum(terms**2))
    # The lower gamma quantile tends to 0 with the sum.
    low = gammaincinv(mean**2 / variance, tail) * variance / mean if mean > 0 else 0.0
    mean, variance = mean + float(np.mean(weights)), variance + float(np.mean(weights**2))
    return Bounds(float(low), float(gammainccinv(mean**2 / variance, tail) * variance / mean))


def difference(terms: NDArray[np.float64], weights: NDArray[np.float64], level: float) -> Bounds:
    """Returns an interval of the expectation of a sum of differences between two runs.

    The examples that both runs treat alike cancel. The positive and the negative rest are two sums
    with the interval of `weighted_sum` each, and their difference has the interval of MOVER:
    low = d - sqrt((p - p_low)^2 + (q_high - q)^2), d = p - q, and high likewise.

    Args:
        terms: the difference of each example, `[n]`; for accuracy, 1/n where only one run errs.
        weights: of an error at each rank.
        level: in (0, 1).

    Source: Zou, Donner, "Construction of confidence limits about effect measures", Statistics in
    Medicine 2008.
    """
    up, down = np.maximum(terms, 0), np.maximum(-terms, 0)
    p, q = float(np.sum(up)), float(np.sum(down))
    p_bounds, q_bounds = weighted_sum(up, weights, level), weighted_sum(down, weights, level)
    return Bounds(
        p - q - float(np.hypot(p - p_bounds.low, q_bounds.high - q)),
        p - q + float(np.hypot(p_bounds.high - p, q - q_bounds.low)),
    )
