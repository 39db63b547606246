"""Equations of the losses whose target is a teacher's output, in float64 numpy.

Each is written from its source, in probabilities where float64 holds them, for one example (`dist`:
for a batch).
"""

import numpy as np
from scipy.special import entr, log_softmax, logsumexp, softmax


def divergence(log_p: np.ndarray, log_q: np.ndarray) -> float:
    """KL(p || q) from logarithms."""
    p = np.exp(log_p)
    return float(np.sum(-entr(p) - p * log_q))


def binary(v: np.ndarray, k: int) -> np.ndarray:
    """[log p_k, log(1 - p_k)] for p = softmax(v)."""
    return np.array([v[k], logsumexp(np.delete(v, k))]) - logsumexp(v)


def dkd(v, t, y, *, temperature, target_weight, non_target_weight) -> float:
    v, t = v / temperature, t / temperature
    confidence = divergence(binary(t, y), binary(v, y))
    others = divergence(log_softmax(np.delete(t, y)), log_softmax(np.delete(v, y)))
    return temperature**2 * (target_weight * confidence + non_target_weight * others)


def rld(v, t, y, *, temperature, target_weight, non_target_weight) -> float:
    below = t < t[y]
    v, t = v / temperature, t / temperature
    confidence = divergence(binary(t, int(t.argmax())), binary(v, y))
    others = divergence(log_softmax(t[below]), log_softmax(v[below])) if below.any() else 0.0
    return temperature**2 * (target_weight * confidence + non_target_weight * others)


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(), y - y.mean()
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y) + 1e-8))


def dist(v, t, *, temperature, inter_class_weight, intra_class_weight) -> np.ndarray:
    scale = np.broadcast_to(temperature, len(v))
    r, p = (softmax(logits / scale[:, None], axis=1) for logits in (v, t))
    inter = np.array([1 - correlation(*rows) for rows in zip(r, p, strict=True)])
    intra = np.mean([1 - correlation(*columns) for columns in zip(r.T, p.T, strict=True)])
    return scale**2 * (inter_class_weight * inter + intra_class_weight * intra)


def standardized(v: np.ndarray) -> np.ndarray:
    return (v - v.mean()) / (v.std() + 1e-7)


# Of the names in `kdjax.losses`; the others are in tests/test_losses.py.
EQUATIONS = {"dkd": dkd, "rld": rld, "dist": dist}
