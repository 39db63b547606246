"""Calibration error and proper scoring rules of predicted probabilities; float64 numpy."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdjax import checks
from kdjax.selective import validation
from kdjax.selective.threads import map_in_threads

# Bins of the expected calibration error and of reliability diagrams.
BINS = 15
ROWS = 1 << 15  # rows of a matrix that are computed together, which limits the memory


def bin_index(confidence: NDArray[np.float64], bins: int = BINS) -> NDArray[np.int64]:
    """Returns the bin of equal width of each confidence in [0, 1].

    Bin b of B, counted from 1, holds ((b-1)/B, b/B]; the first one also holds 0.

    Returns:
        Indices in [0, B), of the shape of `confidence`.

    Raises:
        ValueError: for a confidence outside [0, 1], or bins that are not an integer >= 1.
    """
    validation.integer("bins", bins, least=1)
    validation.require((confidence >= 0) & (confidence <= 1), confidence, "confidence: need [0, 1]")
    return np.searchsorted(np.arange(1, bins + 1) / bins, confidence)


def expected_calibration_error(
    confidence: ArrayLike, correct: ArrayLike, *, bins: int = BINS
) -> float:
    """Expected calibration error (ECE) over bins of equal width.

    ECE = sum_b (n_b / n) |accuracy_b - mean confidence_b|, with the bins of `bin_index`.

    Args:
        confidence: `[n]`, predicted probabilities in [0, 1] of being correct.
        correct: `[n]`, boolean or 0 and 1.
        bins: B >= 1.

    Returns:
        ECE in [0, 1].

    Raises:
        ValueError: for n = 0, unequal lengths, a confidence outside [0, 1], a `correct` that is
            not boolean, or bins that are not an integer >= 1.
        TypeError: for a dtype that is not real.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, arXiv 1706.04599.
    """
    confidence, correct = validation.sample(confidence, correct)
    gaps = np.bincount(bin_index(confidence, bins), weights=correct - confidence)
    return float(np.sum(np.abs(gaps))) / confidence.size


def negative_log_likelihood(logits: ArrayLike, labels: ArrayLike) -> float:
    """Mean negative log-likelihood of the labels, computed in log space from the logits.

    NLL = (1/n) sum (logsumexp(z) - z_y).

    Args:
        logits: z, `[n, m]`, finite class logits (without the abstention column).
        labels: y, `[n]`, integers in [0, m).

    Returns:
        NLL in nats.

    Raises:
        ValueError: for a wrong shape, a logit that is not finite, or a label out of range.
        TypeError: for logits that are not real or labels that are not integers.

    Source: Guo et al., ICML 2017, arXiv 1706.04599.
    """

    def log_likelihoods(z: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
        validation.require(np.isfinite(z), z, "logits must be finite")
        shifted = z - np.max(z, axis=-1, keepdims=True)
        return shifted[np.arange(len(z)), labels] - np.log(np.sum(np.exp(shifted), axis=-1))

    return float(-np.mean(_by_rows(log_likelihoods, "logits", logits, labels)))


def brier(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Brier score: mean squared distance of the probabilities from the one-hot labels.

    (1/n) sum_n sum_i (p_i - [i = y])^2, summed over classes as in Brier's paper: 0 is the best
    value and 2 the worst.

    Args:
        probabilities: p, `[n, m]`; each row sums to 1 within 1e-3 (float32 rounding).
        labels: y, `[n]`, integers in [0, m).

    Returns:
        The score in [0, 2].

    Raises:
        ValueError: for a wrong shape, a row that is not a distribution, or a label out of range.
        TypeError: for probabilities that are not real or labels that are not integers.

    Source: Brier, "Verification of Forecasts Expressed in Terms of Probability", 1950.
    """

    def distances(p: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
        validation.require((p >= 0) & (p <= 1), p, "probabilities must lie in [0, 1]")
        totals = np.sum(p, axis=-1)
        rule = "probabilities of a row must sum to 1"
        validation.require(np.abs(totals - 1) <= 1e-3, totals, rule)
        one_hot = labels[:, None] == np.arange(p.shape[1])
        return np.sum((p - one_hot) ** 2, axis=-1)

    return float(np.mean(_by_rows(distances, "probabilities", probabilities, labels)))


def _by_rows(
    function: Callable[[NDArray[np.float64], NDArray[np.int64]], NDArray[np.float64]],
    name: str,
    values: ArrayLike,
    labels: ArrayLike,
) -> NDArray[np.float64]:
    """Returns a function of the rows of a matrix and their labels, `[n]`, computed in parts.

    Args:
        function: `(float64 [r, m], labels [r]) -> [r]`.
        name: of the matrix, for a message.
        values: `[n, m]`.
        labels: `[n]`, integers in [0, m).
    """
    array = validation.nonempty_real(name, values, ndim=2)
    n, classes = array.shape
    indices = np.asarray(checks.labels(np.asarray(labels), shape=(n,), classes=classes))

    def part(start: int) -> NDArray[np.float64]:
        rows = slice(start, start + ROWS)
        return function(array[rows].astype(np.float64), indices[rows])

    return np.concatenate(map_in_threads(part, range(0, n, ROWS)))
