"""Results from predictions: choices on dev, certificates on calibration, evaluation on test."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kdjax import selective
from kdjax.evaluation import certification
from kdjax.evaluation import gate as gates
from kdjax.evaluation.predictions import Predictions
from kdjax.runtime import atomic_io
from kdjax.selective.scales import LOG_FORMS

COVERAGES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
# Scores that read the abstention output, which a method without abstention never trains.
ABSTENTION_SCORES = (
    "reservation",
    "reservation_log_odds",
    "max_probability",
    "max_probability_log_odds",
    "combination",
)
MAX_PAIRS = 20  # confused pairs of classes that are listed

Score = Callable[[np.ndarray], np.ndarray]


def teacher_errors(teacher_logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Counts the errors of a teacher, by class and by pair of classes.

    Args:
        teacher_logits: [n, m], usually on the train split without augmentation.
        labels: [n].

    Returns:
        `examples`; `wrong`, how many of them the teacher misclassifies; `by_class`, the same per
        label; and `pairs`, the most frequent (label, predicted class, count), at most `MAX_PAIRS`.
    """
    num_classes = teacher_logits.shape[1]
    counts = selective.confusion_matrix(labels, teacher_logits.argmax(axis=1), num_classes)
    np.fill_diagonal(counts, 0)
    largest = np.argsort(-counts, axis=None, kind="stable")[:MAX_PAIRS]
    pairs = [(int(i // num_classes), int(i % num_classes), int(counts.flat[i])) for i in largest]
    return {
        "examples": len(labels),
        "wrong": int(counts.sum()),
        "by_class": counts.sum(axis=1).tolist(),
        "pairs": [pair for pair in pairs if pair[2]],
    }


def summarize(
    outputs: Mapping[str, Predictions],
    *,
    abstains: bool,
    risk: float,
    delta: float,
    runs: int = 1,
    gate: Mapping[str, Any] | None = None,
    coverage: float = 0.0,
) -> dict[str, Any]:
    """Returns the content of `results.json` for a network.

    Args:
        outputs: logits [n, m+1] and labels of `dev`, for the choice of the score, its parameter
            and the thresholds without guarantee; of `calibration`, for the certificates; and of
            `test`.
        abstains: whether the abstention output was trained.
        risk: the requested risk of the certificate, in (0, 1).
        delta: the probability that a certificate may fail, in (0, 1).
        runs: number of runs among which one may be chosen, see `certification.certify`.
        gate: of `gate.measure`; the certificate is then one of the images that pass.
        coverage: to be certified together with the risk, in [0, 1); 0: none.

    Returns:
        `accuracy`, `nll` and `ece` on each split; `best_score`, the score with the lowest AURC
        on dev; `pnorm`, the p of `max_logit_pnorm`, and `combination`, the coefficients of
        that score (None if abstention was not trained): their AURC on dev is cross-validated;
        for each score its ranking metrics, `error_at_coverage` on test, and `thresholds` from
        dev with their coverage and error on test, of the images that pass the gate; and the
        `guarantee` of the best score, see `certification.certify`; and the `gate` if there is one.
    """
    dev, test = outputs["dev"], outputs["test"]
    labelled = dev.logits, dev.labels
    pnorm = selective.best_pnorm(*labelled)
    combination = selective.fit_combination(*labelled) if abstains else None
    scores = {
        name: score
        for name, score in selective.numpy_scores(pnorm, combination).items()
        if name not in LOG_FORMS and (abstains or name not in ABSTENTION_SCORES)
    }
    rule = gates.gate_of({"gate": gate})
    metrics = {name: _score_metrics(score, dev, test, rule) for name, score in scores.items()}
    # The scores compete by `dev_aurc`, which would be too low with parameters of the same split.
    metrics["max_logit_pnorm"]["dev_aurc"] = selective.cross_validated_pnorm_aurc(*labelled)
    if abstains:
        metrics["combination"]["dev_aurc"] = selective.cross_validated_combination_aurc(*labelled)
    best = min(metrics, key=lambda name: metrics[name]["dev_aurc"])
    judged = outputs["calibration"], test
    samples = (certification.sample_of(scores[best], gates.kept(rule, split)) for split in judged)
    return {
        "classes": dev.logits.shape[1] - 1,
        **{split: accuracy_metrics(predictions) for split, predictions in outputs.items()},
        "best_score": best,
        "pnorm": pnorm,
        "combination": combination,
        "scores": metrics,
        "guarantee": certification.certify(
            *samples,
            risk=risk,
            delta=delta,
            runs=runs,
            totals=(len(judged[0].labels), len(judged[1].labels)),
            coverage=coverage,
        ),
        **({"gate": gate} if gate else {}),
    }


def accuracy_metrics(split: Predictions) -> dict[str, float]:
    """Returns `examples`, `accuracy`, `nll` and `ece` of logits [n, m+1] and labels."""
    logits, labels, _ = split
    correct = split.correct
    response = selective.numpy_score(selective.softmax_response, logits)
    return {
        "examples": len(labels),
        "accuracy": float(correct.mean()),
        "nll": selective.negative_log_likelihood(logits[:, :-1], labels),
        "ece": selective.expected_calibration_error(response, correct),
    }


def _score_metrics(
    score: Score, dev: Predictions, test: Predictions, gate: gates.Gate | None
) -> dict[str, Any]:
    """Returns the metrics of a score on test, and its thresholds from dev with test results.

    The metrics are those of the ranking of all images; the thresholds accept what the gate passes.
    """
    on_dev, on_test = score(dev.logits), score(test.logits)
    correct = test.correct
    errors = selective.error_at_coverage(on_test, correct, COVERAGES)
    passed = gates.gated(gate, on_dev, dev), gates.gated(gate, on_test, test)
    return {
        "dev_aurc": selective.aurc(on_dev, dev.correct),
        "aurc": selective.aurc(on_test, correct),
        "e_aurc": selective.e_aurc(on_test, correct),
        "augrc": selective.augrc(on_test, correct),
        "auroc": atomic_io.finite_or_none(selective.auroc(on_test, correct)),
        "error_at_coverage": dict(zip(map(_percent, COVERAGES), errors.tolist(), strict=True)),
        "thresholds": {
            _percent(coverage): _threshold(*passed, correct, coverage) for coverage in COVERAGES[1:]
        },
    }


def _threshold(
    on_dev: np.ndarray, on_test: np.ndarray, correct: np.ndarray, target: float
) -> dict[str, float | None]:
    """Returns a threshold by its coverage on dev; if the gate passes less, for all that it passes.

    Args:
        on_dev: confidences [n], -inf where the gate stops the image.
        on_test: the same of test.
        correct: whether each prediction on test is correct.
        target: the coverage.

    Returns:
        `threshold`, `test_coverage` and `test_error`; `dev_coverage` if that is below the target.
    """
    reached = min(target, float(np.mean(on_dev > -np.inf)))
    threshold = selective.threshold_at_coverage(on_dev, coverage=reached)
    coverage, error = selective.accept_at(on_test, correct, threshold)
    return {
        "threshold": threshold,
        "test_coverage": coverage,
        "test_error": atomic_io.finite_or_none(error),
        **({"dev_coverage": reached} if reached < target else {}),
    }


def _percent(coverage: float) -> str:
    return f"{100 * coverage:g}"
