"""How much several networks disagree about an example; float64 numpy."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from kdjax.errors import InputError
from kdjax.selective import validation


def mutual_information(logits: ArrayLike) -> NDArray[np.float64]:
    """Returns H(mean_k p_k) - mean_k H(p_k), p_k = softmax(z_k), in nats.

    The mutual information of the label and the network that predicts it: 0 if all K networks have
    the same distribution, at most log min(K, m). It is computed as mean_k KL(p_k || mean_j p_j),
    which is the same and has no difference of nearly equal numbers.

    Args:
        logits: z, [K, ..., m], of K networks; may be -inf, which is a probability of 0.

    Returns:
        float64 [...], >= 0.

    Raises:
        InputError: for fewer than two axes, an empty axis of networks or classes, NaN, +inf, or
            logits that are all -inf.

    Source: Houlsby et al., "Bayesian active learning for classification and preference learning",
    arXiv 1112.5745; for ensembles Lakshminarayanan, Pritzel, Blundell, arXiv 1612.01474.
    """
    values = np.asarray(logits, np.float64)
    if values.ndim < 2 or 0 in (values.shape[0], values.shape[-1]):
        raise InputError(f"logits {values.shape}: must be [networks, ..., classes]")
    largest = values.max(axis=-1)
    validation.require(np.isfinite(largest), largest, "the largest logit must be finite")
    log_probs = special.log_softmax(values, axis=-1)
    log_mean = special.logsumexp(log_probs, axis=0) - np.log(len(values))
    possible = log_probs > -np.inf
    ratio = np.subtract(log_probs, log_mean, where=possible, out=np.zeros_like(log_probs))
    divergences = np.sum(np.exp(log_probs) * ratio, axis=-1)
    # A sum of rounded terms can fall below zero by some units in the last place.
    return np.maximum(divergences.mean(axis=0), 0.0)
