"""Whether probabilities mean what they say: calibration error and proper scores, float64 numpy."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax

from kdjax import checks
from kdjax.selective import samples


def expected_calibration_error(
    confidence: ArrayLike, correct: ArrayLike, *, bins: int = 15
) -> float:
    """Mean gap between confidence and accuracy over bins of equal width.

    ECE = sum_b (n_b / n) |accuracy_b - mean confidence_b|. Bin b of B holds ((b-1)/B, b/B]; the
    first one also holds 0.

    Args:
        confidence: `[n]`, probabilities in [0, 1] of being right.
        correct: `[n]`, boolean or 0 and 1.
        bins: B >= 1.

    Returns:
        ECE in [0, 1].

    Raises:
        ValueError: for n = 0, two lengths, a confidence outside [0, 1], a `correct` that is not
            boolean, or bins that are not an integer >= 1.
        TypeError: for a dtype that is not real.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, arXiv 1706.04599.
    """
    confidence, correct = samples.paired(confidence, correct)
    samples.require((confidence >= 0) & (confidence <= 1), confidence, "confidence: need [0, 1]")
    samples.integer("bins", bins, least=1)
    bin_of = np.searchsorted(np.arange(1, bins + 1) / bins, confidence)
    gaps = np.bincount(bin_of, weights=correct - confidence)
    return float(np.sum(np.abs(gaps))) / confidence.size


def negative_log_likelihood(logits: ArrayLike, labels: ArrayLike) -> float:
    """Mean negative log-likelihood of the labels, from logits and in log space.

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
    scores = samples.filled("logits", logits, ndim=2)
    samples.require(np.isfinite(scores), scores, "logits must be finite")
    return float(-np.mean(log_softmax(scores, axis=-1)[_one_hot(scores, labels)]))


def brier(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean squared distance of the probabilities from the one-hot labels, summed over classes.

    (1/n) sum_n sum_i (p_i - [i = y])^2: Brier's own form, 0 at best and 2 at worst.

    Args:
        probabilities: p, `[n, m]`, rows that sum to 1 within 1e-3 (float32 rounding).
        labels: y, `[n]`, integers in [0, m).

    Returns:
        The score in [0, 2].

    Raises:
        ValueError: for a wrong shape, a row that is no distribution, or a label out of range.
        TypeError: for probabilities that are not real or labels that are not integers.

    Source: Brier, "Verification of Forecasts Expressed in Terms of Probability", 1950.
    """
    p = samples.filled("probabilities", probabilities, ndim=2)
    samples.require((p >= 0) & (p <= 1), p, "probabilities must lie in [0, 1]")
    totals = np.sum(p, axis=-1)
    samples.require(np.abs(totals - 1) <= 1e-3, totals, "probabilities of a row must sum to 1")
    return float(np.mean(np.sum((p - _one_hot(p, labels)) ** 2, axis=-1)))


def _one_hot(values: NDArray[np.float64], labels: ArrayLike) -> NDArray[np.bool_]:
    n, classes = values.shape
    indices = np.asarray(checks.labels(np.asarray(labels), shape=(n,), classes=classes))
    return indices[:, None] == np.arange(classes)
