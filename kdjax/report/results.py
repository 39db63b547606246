"""From predictions to numbers: every choice is made on dev, every result is given on test."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kdjax import selective
from kdjax.report.predictions import Predictions

COVERAGES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
# Not 1 nor infinity: there the score is the same for many rows, and rounding would decide.
PNORMS = (1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
# They read the column of abstention, which a method without abstention never trains.
OF_ABSTENTION = ("reservation", "max_probability")

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
    correct = _correct(logits, labels)
    return {
        "accuracy": float(correct.mean()),
        "nll": selective.negative_log_likelihood(logits[:, :-1], labels),
        "aurc": selective.aurc(np.asarray(selective.softmax_response(logits)), correct),
    }


def with_abstention(class_logits: np.ndarray) -> np.ndarray:
    """Returns logits [n, m+1] of a network that never abstains, from its [n, m]."""
    never = np.full((len(class_logits), 1), -np.inf, class_logits.dtype)
    return np.concatenate([class_logits, never], axis=1)


def summarize(dev: Predictions, test: Predictions, *, abstains: bool) -> dict[str, Any]:
    """Returns all that `results.json` holds of a network.

    Args:
        dev: where score parameters and thresholds are chosen; logits [n, m+1].
        test: where they are judged; logits [n, m+1].
        abstains: whether the column of abstention was trained.

    Returns:
        `accuracy`, `nll` and `ece` on dev and test; `best_score`, the score with the lowest AURC
        on dev; and for each score its ranking metrics, `error_at_coverage` on test, and
        `thresholds` from dev with the coverage and error that they give on test.
    """
    ranked = {
        name: _judge(score, dev, test)
        for name, score in chosen_scores(dev).items()
        if abstains or name not in OF_ABSTENTION
    }
    best = min(ranked, key=lambda name: ranked[name]["dev_aurc"])
    return {
        "classes": dev.logits.shape[1] - 1,
        "dev": _calibration(dev),
        "test": _calibration(test),
        "best_score": best,
        "scores": ranked,
    }


def chosen_scores(dev: Predictions) -> Mapping[str, Score]:
    """Returns the scores by name; the p of `max_logit_pnorm` has the lowest AURC on dev."""
    correct = _correct(*dev)

    def aurc(p: float) -> float:
        return selective.aurc(np.asarray(selective.max_logit_pnorm(dev.logits, p=p)), correct)

    best = min(PNORMS, key=aurc)

    def pnorm(logits: np.ndarray) -> np.ndarray:
        return np.asarray(selective.max_logit_pnorm(logits, p=best))

    plain = {name: _host(score) for name, score in selective.SCORES.items()}
    return {**plain, "max_logit_pnorm": pnorm}


def _host(score: Callable) -> Score:
    return lambda logits: np.asarray(score(logits))


def _correct(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.asarray(selective.predict(logits)) == labels


def _calibration(split: Predictions) -> dict[str, float]:
    logits, labels = split
    correct = _correct(logits, labels)
    response = np.asarray(selective.softmax_response(logits))
    return {
        "examples": len(labels),
        "accuracy": float(correct.mean()),
        "nll": selective.negative_log_likelihood(logits[:, :-1], labels),
        "ece": selective.expected_calibration_error(response, correct),
    }


def _judge(score: Score, dev: Predictions, test: Predictions) -> dict[str, Any]:
    """Returns one score's metrics on test, and what its thresholds from dev give there."""
    on_dev, on_test = score(dev.logits), score(test.logits)
    correct = _correct(*test)
    errors = selective.error_at_coverage(on_test, correct, COVERAGES)
    return {
        "dev_aurc": selective.aurc(on_dev, _correct(*dev)),
        "aurc": selective.aurc(on_test, correct),
        "e_aurc": selective.e_aurc(on_test, correct),
        "augrc": selective.augrc(on_test, correct),
        "auroc": _defined(selective.auroc(on_test, correct)),
        "error_at_coverage": dict(zip(map(_percent, COVERAGES), errors.tolist(), strict=True)),
        "thresholds": {
            _percent(coverage): _threshold(on_dev, on_test, correct, coverage)
            for coverage in COVERAGES[1:]
        },
    }


def _threshold(
    on_dev: np.ndarray, on_test: np.ndarray, correct: np.ndarray, target: float
) -> dict[str, float | None]:
    threshold = selective.threshold_at_coverage(on_dev, coverage=target)
    coverage, error = selective.accept_at(on_test, correct, threshold)
    return {"threshold": threshold, "test_coverage": coverage, "test_error": _defined(error)}


def _defined(value: float) -> float | None:
    """JSON has no nan: None where all are right or all wrong, or nothing is accepted."""
    return None if np.isnan(value) else value


def _percent(coverage: float) -> str:
    return f"{100 * coverage:g}"
