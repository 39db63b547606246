"""Predictions counted from the most confident down, and the risks that follow; float64 numpy.

Predictions of equal confidence form a plateau. In a random order within it errors(k), the wrong
ones among the first k, rises linearly in expectation: that is all that ties do to a metric.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdjax.selective import samples


class Ranked(NamedTuple):
    """Rows by plateau, plateau 0 the most confident."""

    plateau: NDArray[np.int64]  # [n]
    wrong: NDArray[np.bool_]  # [n]
    threshold: NDArray[np.float64]  # [u], falling


class Plateaus(NamedTuple):
    """Running counts at the end of each plateau, most confident first, after a zero."""

    accepted: NDArray[np.int64]  # [u + 1]
    errors: NDArray[np.int64]  # [u + 1]
    threshold: NDArray[np.float64]  # [u]


def rank(confidence: ArrayLike, correct: ArrayLike) -> Ranked:
    """Returns the rows of a sample by plateau.

    Raises:
        ValueError: for n = 0, two lengths, NaN, or a `correct` that is not boolean.
        TypeError: for a dtype that is not real.
    """
    confidence, correct = samples.paired(confidence, correct)
    values, rising = np.unique(confidence, return_inverse=True)
    return Ranked(values.size - 1 - rising, ~correct, values[::-1])


def count(ranked: Ranked) -> Plateaus:
    """Returns the running counts of ranked rows; plateaus without a row are left out."""
    plateau, wrong, threshold = ranked
    sizes = np.bincount(plateau, minlength=threshold.size)
    errors = np.bincount(plateau[wrong], minlength=threshold.size)
    held = sizes > 0
    return Plateaus(_running(sizes[held]), _running(errors[held]), threshold[held])


def plateaus(confidence: ArrayLike, correct: ArrayLike) -> Plateaus:
    """Returns the running counts of a sample.

    Raises:
        ValueError: for n = 0, two lengths, NaN, or a `correct` that is not boolean.
        TypeError: for a dtype that is not real.
    """
    return count(rank(confidence, correct))


def accepted_at(coverages: ArrayLike, total: int) -> NDArray[np.float64]:
    """Returns how many of `total` predictions coverages accept: round(c n), halves to even.

    Raises:
        ValueError: for a coverage outside (0, 1] or too small to accept one.
        TypeError: for a dtype that is not real.
    """
    fractions = samples.fractions("coverages", coverages)
    accepted = np.rint(fractions * total)
    samples.require(accepted >= 1, fractions, f"coverages must accept at least one of {total}")
    return accepted


def expected_risk(counts: Plateaus, accepted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns E risk(k) = E errors(k) / k at each k >= 1 of `accepted`."""
    return np.interp(accepted, counts.accepted, counts.errors) / accepted


def aurc(counts: Plateaus) -> float:
    """Returns (1/n) sum_{k=1..n} E risk(k)."""
    return float(np.mean(expected_risk(counts, np.arange(1.0, counts.accepted[-1] + 1))))


def augrc(counts: Plateaus) -> float:
    """Returns the area under E errors(k) / n over k / n."""
    return float(np.trapezoid(counts.errors, counts.accepted)) / float(counts.accepted[-1]) ** 2


def _running(steps: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate(([0], np.cumsum(steps)))
