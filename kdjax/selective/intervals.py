"""Confidence intervals that hold with few errors: sums of weights over errors, and differences.

Every metric of this package is a sum of weights over the errors of a sample, up to its sign: an
error at rank j adds `weight[j]`. With few errors the bootstrap is too narrow (without an error it
has zero width), so these intervals model the errors as Poisson events instead.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammainccinv, gammaincinv, stdtrit


class Bounds(NamedTuple):
    """The ends of an interval."""

    low: float
    high: float


class Unseen(NamedTuple):
    """The weight of an error that a sample does not contain.

    Attributes:
        mean: of the weight.
        square: mean of its square.
    """

    mean: float
    square: float


def unseen_error(weights: NDArray[np.float64]) -> Unseen:
    """Returns the unseen error whose weight is equally likely to be any of the given ones.

    Args:
        weights: those at all ranks, which is conservative for a good ranking; or those that were
            seen.
    """
    return Unseen(float(np.mean(weights)), float(np.mean(weights**2)))


def weighted_sum(terms: NDArray[np.float64], unseen: Unseen, level: float) -> Bounds:
    """Returns the gamma interval of the expectation of a sum of weights over errors.

    With y = sum x_i and v = sum x_i^2, the lower end is the quantile of a gamma distribution with
    mean y and variance v; the upper end has one more error, the unseen one. For equal weights it is
    the exact interval of a Poisson mean.

    Args:
        terms: x, the weights of the errors that were seen, >= 0; zeros do not count.
        unseen: weight of one more error.
        level: in (0, 1).

    Source: Fay, Feuer, "Confidence intervals for directly standardized rates", Statistics in
    Medicine 1997, with the modification of Tiwari, Clegg, Zou, 2006.
    """
    tail = (1 - level) / 2
    mean, variance = float(np.sum(terms)), float(np.sum(terms**2))
    # The lower gamma quantile tends to 0 with the sum.
    low = gammaincinv(mean**2 / variance, tail) * variance / mean if mean > 0 else 0.0
    mean, variance = mean + unseen.mean, variance + unseen.square
    return Bounds(float(low), float(gammainccinv(mean**2 / variance, tail) * variance / mean))


def difference(terms: NDArray[np.float64], unseen: Unseen, level: float) -> Bounds:
    """Returns an interval of the expectation of a sum of differences between two runs.

    The examples that both runs treat alike cancel. The positive and the negative rest are two sums
    with the interval of `weighted_sum` each, and their difference has the interval of MOVER:
    low = d - sqrt((p - p_low)^2 + (q_high - q)^2), d = p - q, and high likewise.

    Args:
        terms: the difference of each example, `[n]`; for accuracy, 1/n where only one run errs.
        unseen: weight of one more error of either run.
        level: in (0, 1).

    Source: Zou, Donner, "Construction of confidence limits about effect measures", Statistics in
    Medicine 2008.
    """
    up, down = np.maximum(terms, 0), np.maximum(-terms, 0)
    p, q = float(np.sum(up)), float(np.sum(down))
    p_bounds, q_bounds = (weighted_sum(side, unseen, level) for side in (up, down))
    return Bounds(
        p - q - float(np.hypot(p - p_bounds.low, q_bounds.high - q)),
        p - q + float(np.hypot(p_bounds.high - p, q - q_bounds.low)),
    )


def student(terms: NDArray[np.float64], resampled: NDArray[np.float64], level: float) -> Bounds:
    """Returns the interval d -+ t s of a sum of differences between two runs.

    s is the standard deviation of the resampled sums, and t the quantile of Student's distribution
    with one degree of freedom less than there are examples that the runs treat differently. The
    quantiles of the resampled sums themselves would be too narrow for few such examples.

    Args:
        terms: the difference of each example, `[n]`, at least two of them not zero.
        resampled: their sum in each resample, `[R]`, R >= 2.
        level: in (0, 1).

    Source: Efron, Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 12.
    """
    estimate, freedom = float(np.sum(terms)), int(np.count_nonzero(terms)) - 1
    width = float(stdtrit(freedom, (1 + level) / 2)) * float(np.std(resampled, ddof=1))
    return Bounds(estimate - width, estimate + width)
