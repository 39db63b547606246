"""Predictions, scores and metrics of a split from its logits and labels; float64 numpy.

The logits are those of a kdjax network, `[n, m+1]` with abstention in the last column; see
`append_abstention` for a network without it.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from kdjax import checks
from kdjax.selective import calibration, metrics, ranking, scores, validation

# Candidate values of p for `max_logit_pnorm`. At 1 and at infinity the score has many ties, which
# rounding errors would break.
PNORMS = (1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
# Splits between these numbers of rows are padded to a power of two: they share compiled programs.
LEAST_ROWS, MOST_PADDED_ROWS = 2**10, 2**16


def is_correct(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns whether each prediction is correct, bool [n].

    Args:
        logits: [n, m+1], the last column abstention; -inf is a probability of 0.
        labels: [n], integers in [0, m).

    Raises:
        ValueError: for NaN, a wrong shape or a label out of range, such as m - 1 where the logits
            have m columns, all of them classes.
        TypeError: for logits that are not floats or labels that are not integers.
    """
    predicted = predicted_classes(logits)
    values = np.asarray(logits)
    validation.require(~np.isnan(values), values, "logits must not be NaN")
    classes = values.shape[-1] - 1
    return predicted == np.asarray(checks.labels(labels, shape=predicted.shape, classes=classes))


def predicted_classes(logits: np.ndarray) -> np.ndarray:
    """Returns the predicted class of each example, `scores.predict` in numpy.

    JAX would round float64 logits to float32, and so make ties of different logits.

    Args:
        logits: [..., m+1], the last column abstention.

    Returns:
        Integers in [0, m), [...]; the first of tied classes.

    Raises:
        ValueError: for fewer than 2 classes.
        TypeError: for logits that are not floats.
    """
    values = np.asarray(logits)
    # Dtype and columns only, without a copy of the logits.
    checks.logits(np.empty((0, *values.shape[-1:]), values.dtype), least=3)
    return values[..., :-1].argmax(axis=-1)


def append_abstention(class_logits: np.ndarray) -> np.ndarray:
    """Returns logits [n, m+1] with abstention -inf, for the [n, m] of a network without it."""
    abstention = np.full((len(class_logits), 1), -np.inf, class_logits.dtype)
    return np.concatenate([class_logits, abstention], axis=1)


def split_metrics(logits: np.ndarray, labels: np.ndarray, num_classes: int) -> dict[str, float]:
    """Returns accuracy, NLL, and AURC of the softmax response, from the class logits only.

    It is ranked by its log-odds, which have no ties near 1.

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
    confidence = numpy_score(scores.softmax_response_log_odds, logits)
    return {
        "accuracy": float(correct.mean()),
        "nll": calibration.negative_log_likelihood(logits[:, :-1], labels),
        "aurc": metrics.aurc(confidence, correct),
    }


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns counts [m, m]: rows are true classes, columns are predicted classes.

    Args:
        labels: true classes, integers in [0, m), any shape.
        predicted: predicted classes, likewise.
        num_classes: m.

    Raises:
        ValueError: for unequal shapes, or a class out of range.
        TypeError: for classes that are not integers.
    """
    shape = np.shape(labels)
    rows = validation.codes("labels", labels, shape=shape, number=num_classes)
    columns = validation.codes("predicted", predicted, shape=shape, number=num_classes)
    cells = rows * num_classes + columns
    counts = np.bincount(cells.ravel(), minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def best_pnorm(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the p of `max_logit_pnorm` with the lowest AURC on a development split.

    That AURC is too optimistic for a comparison with scores without a parameter; see
    `cross_validated_pnorm_aurc`.

    Args:
        logits: [n, m+1], the last column abstention.
        labels: [n].
    """
    correct = is_correct(logits, labels)
    return min(PNORMS, key=lambda p: metrics.aurc(_pnorm_score(logits, p), correct))


def cross_validated_pnorm_aurc(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the AURC of `max_logit_pnorm` on dev, as if p had been chosen without each example.

    AURC is a sum over the errors. Each error counts with the p that is best without it, at its rank
    under that p (leave-one-out). The lowest AURC of `PNORMS`, which `best_pnorm` chooses, is lower
    than that of an equally good score without a parameter; this value can be compared.

    Args:
        logits: [n, m+1], the last column abstention.
        labels: [n].
    """
    correct = is_correct(logits, labels)
    weights = ranking.aurc_weights(len(correct))
    # By p and example.
    terms = np.stack(
        [
            ranking.contributions(ranking.rank(_pnorm_score(logits, p), correct), weights)
            for p in PNORMS
        ]
    )
    return leave_one_out(terms)


def leave_one_out(terms: np.ndarray) -> float:
    """Returns the sum over examples of the term of the candidate that is best without it.

    Args:
        terms: what each example adds to the metric of each candidate, [candidates, n].
    """
    chosen = np.argmin(terms.sum(axis=1, keepdims=True) - terms, axis=0)
    return float(np.take_along_axis(terms, chosen[None], axis=0).sum())


def _pnorm_score(logits: np.ndarray, p: float) -> np.ndarray:
    return numpy_score(scores.max_logit_pnorm, logits, p=p)


def numpy_score(score: Callable, logits: np.ndarray, **parameters: Any) -> np.ndarray:
    """Returns a score of logits, computed by one compiled program, as numpy.

    Args:
        score: a value of `scores.SCORES`, or a function like them; compiled once.
        logits: [..., m+1], the last column abstention.
        **parameters: of the score; other values do not compile it again.

    Returns:
        The score, [...].
    """
    rows = np.reshape(logits, (-1, np.shape(logits)[-1]))
    count = len(rows)
    size = max(LEAST_ROWS, 1 << (count - 1).bit_length()) if count <= MOST_PADDED_ROWS else count
    padded = np.zeros((size, rows.shape[1]), rows.dtype)
    padded[:count] = rows
    values = np.asarray(_program(score)(padded, **parameters))
    return values[:count].reshape(np.shape(logits)[:-1])


@functools.cache
def _program(score: Callable) -> Callable[..., jax.Array]:
    return jax.jit(functools.partial(score, abstention=True))


def scores_with_pnorm(p: float, combination: Sequence[float] | None = None) -> dict[str, Callable]:
    """Returns the scores by name, with fitted parameters, for logits [..., m+1].

    JAX can trace them. The last column is abstention.

    Args:
        p: of `max_logit_pnorm`.
        combination: coefficients of `combination`, see `fit_combination`; None: equal weights.
    """
    fitted = _parameters(p, combination)
    return {
        name: functools.partial(score, abstention=True, **fitted.get(name, {}))
        for name, score in scores.SCORES.items()
    }


def numpy_scores(
    p: float, combination: Sequence[float] | None = None
) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Returns the scores of `scores_with_pnorm` as functions from and to numpy arrays."""
    fitted = _parameters(p, combination)
    return {
        name: functools.partial(numpy_score, score, **fitted.get(name, {}))
        for name, score in scores.SCORES.items()
    }


def _parameters(p: float, combination: Sequence[float] | None) -> dict[str, dict[str, Any]]:
    """Returns the fitted parameters by the name of the score."""
    parameters: dict[str, dict[str, Any]] = {"max_logit_pnorm": {"p": p}}
    if combination is not None:
        parameters["combination"] = {"coefficients": np.asarray(combination)}
    return parameters
