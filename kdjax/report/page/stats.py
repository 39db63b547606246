"""Data of the reliability diagram and of the perfect risk-coverage curve; float64 numpy."""

from typing import NamedTuple

import numpy as np

from kdjax import selective
from kdjax.selective import binomial


class Bins(NamedTuple):
    """The non-empty bins of a reliability diagram, `[b]` each.

    Attributes:
        examples: number of examples.
        confidence: their mean confidence.
        accuracy: their accuracy.
        low: lower end of the exact 95 % interval of the accuracy.
        high: upper end.
    """

    examples: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    low: np.ndarray
    high: np.ndarray


def reliability(confidence: np.ndarray, correct: np.ndarray) -> Bins:
    """Returns the accuracy in the bins of `selective.bin_index`.

    Args:
        confidence: predicted probabilities of being correct, `[n]` in [0, 1].
        correct: bool `[n]`.
    """
    bins = selective.bin_index(confidence)
    sizes = np.bincount(bins)
    occupied = sizes > 0
    examples = sizes[occupied]
    total, hits = (np.bincount(bins, weights=w)[occupied] for w in (confidence, correct))
    intervals = [
        binomial.proportion_interval(int(k), int(n)) for k, n in zip(hits, examples, strict=True)
    ]
    return Bins(examples, total / examples, hits / examples, *np.transpose(intervals))


def optimal_curve(correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns coverage and selective risk `[n]` of a perfect ranking of the same predictions.

    risk(k) = max(0, k - c) / k at coverage k / n, with c correct predictions.

    Args:
        correct: bool `[n]`.
    """
    accepted = np.arange(1, len(correct) + 1)
    return accepted / len(correct), np.maximum(0, accepted - correct.sum()) / accepted
