"""What the figures and sentences of a page are drawn from: counts of a sample, float64 numpy."""

from typing import NamedTuple

import numpy as np
from scipy.special import betaincinv

BINS = 15  # as `selective.expected_calibration_error` has them


class Bins(NamedTuple):
    """A reliability diagram's bins, empty ones left out.

    Attributes:
        examples: how many, `[b]`.
        confidence: their mean confidence, `[b]`.
        accuracy: the fraction of them that is right, `[b]`.
        low: the lower end of its exact 95 % interval, `[b]`.
        high: the upper end, `[b]`.
    """

    examples: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    low: np.ndarray
    high: np.ndarray


def reliability(confidence: np.ndarray, right: np.ndarray) -> Bins:
    """Returns accuracy by confidence, in the bins of the expected calibration error.

    Bin b of B holds ((b-1)/B, b/B]; the first one also holds 0.

    Args:
        confidence: probabilities of being right, `[n]` in [0, 1].
        right: bool `[n]`.
    """
    bin_of = np.searchsorted(np.arange(1, BINS + 1) / BINS, confidence)
    count = np.bincount(bin_of)
    held = count > 0
    sums = (np.bincount(bin_of, weights=values)[held] for values in (confidence, right))
    count, total, hits = count[held], *sums
    ends = [proportion_interval(int(k), int(n)) for k, n in zip(hits, count, strict=True)]
    return Bins(count, total / count, hits / count, *np.transpose(ends))


def ideal_curve(right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns coverage and risk `[n]` of a perfect ranking of the same predictions.

    risk(k) = max(0, k - right) / k at coverage k / n: all wrong ones come last.

    Args:
        right: bool `[n]`.
    """
    accepted = np.arange(1, len(right) + 1)
    return accepted / len(right), np.maximum(0, accepted - right.sum()) / accepted


def proportion_interval(count: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Returns the exact interval of a probability that was met `count` times in `total`.

    low = the p with P(Bin(total, p) >= count) = (1 - level) / 2, high = the p with
    P(Bin(total, p) <= count) = (1 - level) / 2.

    Args:
        count: of successes, 0 <= count <= total.
        total: of trials, >= 1.
        level: in (0, 1).

    Source: Clopper, Pearson, Biometrika 1934.
    """
    tail = (1 - level) / 2
    low = betaincinv(count, total - count + 1, tail) if count else 0.0
    high = betaincinv(count + 1, total - count, 1 - tail) if count < total else 1.0
    return float(low), float(high)


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Returns how often each class `[m, m]`, a row, was taken for each other, a column."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, predicted), 1)
    return counts
