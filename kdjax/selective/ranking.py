"""Errors counted from the most confident prediction down, by tie group; float64 numpy.

Predictions of equal confidence form a tie group. In a random order within it, errors(k), the
number of errors among the first k predictions, rises linearly in expectation.
"""

from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdjax.selective import validation


class RankedPredictions(NamedTuple):
    """The predictions of a sample with their tie groups; group 0 is the most confident.

    Attributes:
        group: the tie group of each prediction, `[n]`.
        wrong: whether each prediction is wrong, `[n]`.
        threshold: the confidence of each group, `[u]`, decreasing.
    """

    group: NDArray[np.int64]
    wrong: NDArray[np.bool_]
    threshold: NDArray[np.float64]


class TieGroups(NamedTuple):
    """Cumulative counts at the end of each tie group, most confident first.

    Attributes:
        accepted: 0, then the number of predictions up to the end of each group, `[u + 1]`.
        errors: 0, then the number of errors among them, `[u + 1]`.
        threshold: the confidence of each group, `[u]`, decreasing.
    """

    accepted: NDArray[np.int64]
    errors: NDArray[np.int64]
    threshold: NDArray[np.float64]


def rank(confidence: ArrayLike, correct: ArrayLike) -> RankedPredictions:
    """Returns the predictions of a sample with their tie groups.

    Raises:
        ValueError: for n = 0, unequal lengths, NaN, or a `correct` that is not boolean.
        TypeError: for a dtype that is not real.
    """
    confidence, correct = validation.sample(confidence, correct)
    values, ascending_group = np.unique(confidence, return_inverse=True)
    return RankedPredictions(values.size - 1 - ascending_group, ~correct, values[::-1])


def tie_groups(confidence: ArrayLike, correct: ArrayLike) -> TieGroups:
    """Returns the cumulative counts of a sample.

    Two sorts of values, of all predictions and of the errors, take a third of the time of one that
    returns the group of each prediction, as `rank` does.

    Raises:
        ValueError: for n = 0, unequal lengths, NaN, or a `correct` that is not boolean.
        TypeError: for a dtype that is not real.
    """
    confidence, correct = validation.sample(confidence, correct)
    ascending, of_errors = np.sort(confidence), np.sort(confidence[~correct])
    begins = np.concatenate(([True], ascending[1:] != ascending[:-1]))
    first = np.flatnonzero(begins)[::-1]
    threshold = ascending[first]
    # Looking up the errors is faster than looking up the thresholds, of which there are more.
    group = np.searchsorted(threshold[::-1], of_errors)
    errors = np.bincount(group, minlength=threshold.size)[::-1]
    accepted = np.concatenate(([0], ascending.size - first))
    return TieGroups(accepted, _cumulative(errors), threshold)


def accepted_at(coverages: ArrayLike, total: int) -> NDArray[np.float64]:
    """Returns how many of `total` predictions are accepted, see `count_at`.

    Raises:
        ValueError: for a coverage outside (0, 1] or too small to accept one.
        TypeError: for a dtype that is not real.
    """
    fractions = validation.fractions("coverages", coverages)
    counts = [count_at(coverage, total) for coverage in fractions.flat]
    accepted = np.array(counts, np.float64).reshape(fractions.shape)
    validation.require(accepted >= 1, fractions, f"coverages must accept at least one of {total}")
    return accepted


def count_at(coverage: float, total: int) -> int:
    """Returns round(c n), halves to even, of the decimal c that was stated.

    In float64, 0.7 * 45 < 31.5: rounding the product would give 31 instead of 32.
    """
    return round(Fraction(repr(float(coverage))) * total)


def expected_risk(groups: TieGroups, accepted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns E risk(k) = E errors(k) / k at each k >= 1 of `accepted`."""
    return np.interp(accepted, groups.accepted, groups.errors) / accepted


def aurc(groups: TieGroups) -> float:
    """Returns (1/n) sum_{k=1..n} E risk(k)."""
    return float(np.mean(expected_risk(groups, np.arange(1.0, groups.accepted[-1] + 1))))


def augrc(groups: TieGroups) -> float:
    """Returns the area under E errors(k) / n over k / n."""
    return float(np.trapezoid(groups.errors, groups.accepted)) / float(groups.accepted[-1]) ** 2


def aurc_weights(total: int) -> NDArray[np.float64]:
    """Returns what an error at rank j = 1..n adds to AURC: (1/n) sum_{k >= j} 1/k, `[n]`."""
    return np.cumsum(1 / np.arange(total, 0, -1))[::-1] / total


def augrc_weights(total: int) -> NDArray[np.float64]:
    """Returns what an error at rank j = 1..n adds to AUGRC: (n - j + 1/2) / n^2, `[n]`."""
    return (total - np.arange(1, total + 1) + 0.5) / total**2


def coverage_weights(total: int, accepted: float) -> NDArray[np.float64]:
    """Returns what an error at rank j = 1..n adds to risk(k): 1/k for j <= k, `[n]`."""
    return (np.arange(1, total + 1) <= accepted) / accepted


def contributions(ranked: RankedPredictions, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns what each prediction adds to a metric that is a sum of weights over errors.

    Args:
        ranked: the predictions.
        weights: of an error at rank j = 1..n, the most confident first, `[n]`.

    Returns:
        `[n]`: 0 for a correct prediction; for an error, the mean weight of its tie group.
    """
    sizes = np.bincount(ranked.group)
    sums = np.diff(np.concatenate(([0.0], np.cumsum(weights)))[_cumulative(sizes)])
    return np.where(ranked.wrong, (sums / sizes)[ranked.group], 0.0)


def _cumulative(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate(([0], np.cumsum(counts)))


def threshold_after(levels: NDArray[np.float64], end: int) -> float:
    """Returns a threshold that accepts the first `end` of some distinct confidences and no other.

    It lies half-way between the last accepted confidence and the next one, so that rounding, for
    example in an exported file, does not change the decision of either. If all are accepted, it
    lies below the lowest by half the mean distance between neighbours; if they are all equal, by
    2^-10 of the larger of 1 and their absolute value.

    Args:
        levels: distinct confidences `[u]`, decreasing; the first and the last may be infinite.
        end: in 1..u.
    """
    last = float(levels[end - 1])
    if not np.isfinite(last):
        return last
    if end < levels.size and levels[end] > -np.inf:
        middle = last / 2 + float(levels[end]) / 2
        # Neighbouring floats have nothing between them.
        return middle if levels[end] < middle <= last else last
    finite = levels[np.isfinite(levels)]
    if finite.size > 1:
        return last - float(finite[0] / 2 - last / 2) / (finite.size - 1)
    return last - 2.0**-10 * max(1.0, abs(last))
