"""Predictions, scores and metrics of a split from its logits and labels; float64 numpy."""

import functools
from collections.abc import Callable

import numpy as np

from kdjax.selective import calibration, metrics, scores

# Candidate values of p for `max_logit_pnorm`. At 1 and at infinity the score has many ties, which
# rounding errors would break.
PNORMS = (1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)


def is_correct(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns whether each prediction is correct, bool [n].

    Args:
        logits: [n, m+1], the last column abstention.
        labels: [n].
    """
    return np.asarray(scores.predict(logits)) == labels


def append_abstention(class_logits: np.ndarray) -> np.ndarray:
    """Returns logits [n, m+1] with abstention -inf, for the [n, m] of a network without it."""
    abstention = np.full((len(class_logits), 1), -np.inf, class_logits.dtype)
    return np.concatenate([class_logits, abstention], axis=1)


def split_metrics(logits: np.ndarray, labels: np.ndarray, num_classes: int) -> dict[str, float]:
    """Returns accuracy, NLL, and AURC of the softmax response, from the class logits only.

    Args:
        logits: [n, m] or [n, m+1].
        labels: [n].
        num_classes: m.

    Raises:
        FloatingPointError: if a logit is not finite.
    """
    if not np.isfinite(logits).all():
        raise FloatingPointError("the network's logits are not finite: its weights have diverged")
    logits = append_abstention(logits[:, :num_classes])
    correct = is_correct(logits, labels)
    return {
        "accuracy": float(correct.mean()),
        "nll": calibration.negative_log_likelihood(logits[:, :-1], labels),
        "aurc": metrics.aurc(np.asarray(scores.softmax_response(logits)), correct),
    }


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns counts [m, m]: rows are true classes, columns are predicted classes."""
    counts = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(counts, (labels, predicted), 1)
    return counts


def best_pnorm(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the p of `max_logit_pnorm` with the lowest AURC on a development split.

    Args:
        logits: [n, m+1], the last column abstention.
        labels: [n].
    """
    correct = is_correct(logits, labels)

    def aurc(p: float) -> float:
        return metrics.aurc(np.asarray(scores.max_logit_pnorm(logits, p=p)), correct)

    return min(PNORMS, key=aurc)


def scores_with_pnorm(p: float) -> dict[str, Callable]:
    """Returns the scores by name, with this p of `max_logit_pnorm`; JAX can trace them."""
    return {**scores.SCORES, "max_logit_pnorm": functools.partial(scores.max_logit_pnorm, p=p)}


def numpy_scores(p: float) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Returns the scores of `scores_with_pnorm` as functions from and to numpy arrays."""
    return {name: _to_numpy(score) for name, score in scores_with_pnorm(p).items()}


def _to_numpy(score: Callable) -> Callable[[np.ndarray], np.ndarray]:
    return lambda logits: np.asarray(score(logits))
