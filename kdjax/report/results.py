"""From predictions to numbers: chosen on dev, certified on calibration, judged on test."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kdjax import selective
from kdjax.report import guarantees
from kdjax.report.predictions import Predictions

COVERAGES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
# Not 1 nor infinity: there the score is the same for many rows, and rounding would decide.
PNORMS = (1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
# They read the column of abstention, which a method without abstention never trains.
OF_ABSTENTION = ("reservation", "max_probability")
PAIRS = 20  # of classes that a teacher confuses, as many as a reader looks at

Score = Callable[[np.ndarray], np.ndarray]


def split_metrics(logits: np.ndarray, labels: np.ndarray, classes: int) -> dict[str, float]:
    """Returns accuracy, NLL and AURC of the softmax response, from the class logits alone.

    Args:
        logits: [n, m] or [n, m+1].
        labels: [n].
        classes: m.

    Raises:
        FloatingPointError: if a logit is not finite.
    """
    if not np.isfinite(logits).all():
        raise FloatingPointError("the network's logits are not finite: its weights have diverged")
    logits = with_abstention(logits[:, :classes])
    right = correct(logits, labels)
    return {
        "accuracy": float(right.mean()),
        "nll": selective.negative_log_likelihood(logits[:, :-1], labels),
        "aurc": selective.aurc(np.asarray(selective.softmax_response(logits)), right),
    }


def correction(teacher_logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Returns how often the ground truth corrects a teacher, and between which classes.

    Args:
        teacher_logits: [n, m], on the train split without augmentation.
        labels: [n].

    Returns:
        `examples`; `wrong`, how many of them the teacher has wrong; `by_class`, the same for each
        label; and `pairs`, the most frequent (label, teacher's class, count), at most `PAIRS`.
    """
    classes = teacher_logits.shape[1]
    taught = teacher_logits.argmax(axis=1)
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, taught), 1)
    np.fill_diagonal(counts, 0)
    most = np.argsort(-counts, axis=None, kind="stable")[:PAIRS]
    pairs = [(int(i // classes), int(i % classes), int(counts.flat[i])) for i in most]
    return {
        "examples": len(labels),
        "wrong": int(counts.sum()),
        "by_class": counts.sum(axis=1).tolist(),
        "pairs": [pair for pair in pairs if pair[2]],
    }


def with_abstention(class_logits: np.ndarray) -> np.ndarray:
    """Returns logits [n, m+1] of a network that never abstains, from its [n, m]."""
    never = np.full((len(class_logits), 1), -np.inf, class_logits.dtype)
    return np.concatenate([class_logits, never], axis=1)


def summarize(
    outputs: Mapping[str, Predictions], *, abstains: bool, risk: float, delta: float
) -> dict[str, Any]:
    """Returns all that `results.json` holds of a network.

    Args:
        outputs: logits [n, m+1] of `dev`, where score, its parameter and plain thresholds are
            chosen; of `calibration`, which certifies; and of `test`, where all are judged.
        abstains: whether the column of abstention was trained.
        risk: that the certificate is to promise, in (0, 1).
        delta: the probability that it may fail, in (0, 1).

    Returns:
        `accuracy`, `nll` and `ece` on each split; `best_score`, the score with the lowest AURC
        on dev; `pnorm`, the p of `max_logit_pnorm`; for each score its ranking metrics,
        `error_at_coverage` on test, and `thresholds` from dev with the coverage and error that
        they give on test; and the `guarantee` of the best score, see `guarantees`.
    """
    dev, test = outputs["dev"], outputs["test"]
    pnorm = best_pnorm(dev)
    scores = {
        name: score
        for name, score in scores_with(pnorm).items()
        if abstains or name not in OF_ABSTENTION
    }
    ranked = {name: _judge(score, dev, test) for name, score in scores.items()}
    best = min(ranked, key=lambda name: ranked[name]["dev_aurc"])
    calibration, judged = (
        (scores[best](split.logits), correct(*split)) for split in (outputs["calibration"], test)
    )
    return {
        "classes": dev.logits.shape[1] - 1,
        **{split: _calibration(found) for split, found in outputs.items()},
        "best_score": best,
        "pnorm": pnorm,
        "scores": ranked,
        "guarantee": guarantees.guarantee(calibration, judged, risk=risk, delta=delta),
    }


def best_pnorm(dev: Predictions) -> float:
    """Returns the p of `max_logit_pnorm` with the lowest AURC on dev."""
    right = correct(*dev)

    def aurc(p: float) -> float:
        return selective.aurc(np.asarray(selective.max_logit_pnorm(dev.logits, p=p)), right)

    return min(PNORMS, key=aurc)


def scores_with(pnorm: float) -> dict[str, Score]:
    """Returns the scores by name, on numpy arrays; `max_logit_pnorm` with this p."""
    return {name: _host(score) for name, score in traceable_scores(pnorm).items()}


def traceable_scores(pnorm: float) -> dict[str, Callable]:
    """Returns the scores of `scores_with` as functions that JAX can trace."""
    norm = functools.partial(selective.max_logit_pnorm, p=pnorm)
    return {**selective.SCORES, "max_logit_pnorm": norm}


def _host(score: Callable) -> Score:
    return lambda logits: np.asarray(score(logits))


def correct(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns which predictions are right, bool [n], for logits [n, m+1]."""
    return np.asarray(selective.predict(logits)) == labels


def _calibration(split: Predictions) -> dict[str, float]:
    logits, labels = split
    right = correct(logits, labels)
    response = np.asarray(selective.softmax_response(logits))
    return {
        "examples": len(labels),
        "accuracy": float(right.mean()),
        "nll": selective.negative_log_likelihood(logits[:, :-1], labels),
        "ece": selective.expected_calibration_error(response, right),
    }


def _judge(score: Score, dev: Predictions, test: Predictions) -> dict[str, Any]:
    """Returns one score's metrics on test, and what its thresholds from dev give there."""
    on_dev, on_test = score(dev.logits), score(test.logits)
    right = correct(*test)
    errors = selective.error_at_coverage(on_test, right, COVERAGES)
    return {
        "dev_aurc": selective.aurc(on_dev, correct(*dev)),
        "aurc": selective.aurc(on_test, right),
        "e_aurc": selective.e_aurc(on_test, right),
        "augrc": selective.augrc(on_test, right),
        "auroc": _defined(selective.auroc(on_test, right)),
        "error_at_coverage": dict(zip(map(_percent, COVERAGES), errors.tolist(), strict=True)),
        "thresholds": {
            _percent(coverage): _threshold(on_dev, on_test, right, coverage)
            for coverage in COVERAGES[1:]
        },
    }


def _threshold(
    on_dev: np.ndarray, on_test: np.ndarray, right: np.ndarray, target: float
) -> dict[str, float | None]:
    threshold = selective.threshold_at_coverage(on_dev, coverage=target)
    coverage, error = selective.accept_at(on_test, right, threshold)
    return {"threshold": threshold, "test_coverage": coverage, "test_error": _defined(error)}


def _defined(value: float) -> float | None:
    """JSON has no nan: None where all are right or all wrong, or nothing is accepted."""
    return None if np.isnan(value) else value


def _percent(coverage: float) -> str:
    return f"{100 * coverage:g}"
