"""Errors counted from the most confident prediction down, by tie group; float64 numpy.

Predictions of equal confidence form a tie group. In a random order within it, errors(k), the
number of errors among the first k predictions, rises linearly in expectation.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdjax.selective import validation


class Ranked(NamedTuple):
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


def rank(confidence: ArrayLike, correct: ArrayLike) -> Ranked:
    """Returns the predictions of a sample with their tie groups.

    Raises:
        ValueError: for n = 0, unequal lengths, NaN, or a `correct` that is not boolean.
        TypeError: for a dtype that is not real.
    """
    confidence, correct = validation.sample(confidence, correct)
    values, ascending_group = np.unique(confidence, return_inverse=True)
    return Ranked(values.size - 1 - ascending_group, ~correct, values[::-1])


def count_groups(ranked: Ranked) -> TieGroups:
    """Returns the cumulative counts of ranked predictions, without empty tie groups."""
    group, wrong, threshold = ranked
    sizes = np.bincount(group, minlength=threshold.size)
    errors = np.bincount(group[wrong], minlength=threshold.size)
    occupied = sizes > 0
    return TieGroups(
        _cumulative(sizes[occupied]), _cumulative(errors[occupied]), threshold[occupied]
    )


def tie_groups(confidence: ArrayLike, correct: ArrayLike) -> TieGroups:
    """Returns the cumulative counts of a sample.

    Raises:
        ValueError: for n = 0, unequal lengths, NaN, or a `correct` that is not boolean.
        TypeError: for a dtype that is not real.
    """
    return count_groups(rank(confidence, correct))


def accepted_at(coverages: ArrayLike, total: int) -> NDArray[np.float64]:
    """Returns how many of `total` predictions are accepted: round(c n), halves to even.

    Raises:
        ValueError: for a coverage outside (0, 1] or too small to accept one.
        TypeError: for a dtype that is not real.
    """
    fractions = validation.fractions("coverages", coverages)
    accepted = np.rint(fractions * total)
    validation.require(accepted >= 1, fractions, f"coverages must accept at least one of {total}")
    return accepted


def expected_risk(groups: TieGroups, accepted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns E risk(k) = E errors(k) / k at each k >= 1 of `accepted`."""
    return np.interp(accepted, groups.accepted, groups.errors) / accepted


def aurc(groups: TieGroups) -> float:
    """Returns (1/n) sum_{k=1..n} E risk(k)."""
    return float(np.mean(expected_risk(groups, np.arange(1.0, groups.accepted[-1] + 1))))


def augrc(groups: TieGroups) -> float:
    """Returns the area under E errors(k) / n over k / n."""
    return float(np.trapezoid(groups.errors, groups.accepted)) / float(groups.accepted[-1]) ** 2


def _cumulative(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate(([0], np.cumsum(counts)))
