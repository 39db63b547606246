"""Evidence and cards of student and teacher together, for tests of cascades."""

from typing import Any

import numpy as np

from kdjax.evaluation.predictions import Predictions
from kdjax.evaluation.promises import Evidence, Extras, cascade

CLASSES = ("red", "green", "blue")
FALLBACK = {
    "weights_sha256": "ab" * 32,
    "views": "none",
    "dtype": "float32",
    "model": "resnet18",
    "file": None,
    "multiply_adds": 1_000_000,
    "student_multiply_adds": 100_000,
}


def logits(rng: np.random.Generator, labels: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Returns logits [n, 3] whose largest one is another class where an example is wrong."""
    predicted = (labels + wrong) % 3
    return np.eye(3, dtype=np.float32)[predicted] * rng.uniform(0.1, 5, (len(labels), 1))


def split(
    rng: np.random.Generator, n: int, student: float, teacher: float
) -> tuple[Predictions, Predictions]:
    """Returns outputs of student, [n, 4], and teacher, [n, 3], with these error rates.

    The student's errors are among the least confident half of its predictions.
    """
    labels = rng.integers(3, size=n)
    scale = rng.uniform(0.1, 5, n)
    wrong = (scale < np.median(scale)) & (rng.random(n) < 2 * student)
    own = np.eye(3)[(labels + wrong) % 3] * scale[:, None]
    asked = np.concatenate([own, np.full((n, 1), -9.0)], axis=1).astype(np.float32)
    other = logits(rng, labels, rng.random(n) < teacher)
    return Predictions(asked, labels), Predictions(other, labels)


def evidence(
    n: int = 1000, *, student: float = 0.2, teacher: float = 0.02, seed: int = 0, **changes: Any
) -> Evidence:
    """Returns the evidence of a run with n images in each split; the confidence is a margin."""
    rng = np.random.default_rng(seed)
    names = ("dev", "calibration", "test")
    outputs = {name: split(rng, n, student, teacher) for name in names}
    fields = {
        **{name: outputs[name][0] for name in names},
        "confidence": lambda values: np.ptp(values[:, :3], axis=1).astype(np.float64),
        "threshold": 3.0,
        "source": "certificate",
        "risk": 0.05,
        "delta": 0.05,
        "runs": 1,
        "class_names": CLASSES,
        "settings": {},
        "extras": Extras({name: outputs[name][1] for name in names}, FALLBACK),
    }
    return Evidence(**fields | changes)


def promises(**options: Any) -> dict[str, Any]:
    """Returns `promises` of a card, with the cascade of `evidence`."""
    return {"cascade": cascade.compute(evidence(**options))}


def fallback_card(**changes: Any) -> dict[str, Any]:
    """Returns what a cascade reads of the card of the certified fallback."""
    return {
        "format": 2,
        "classes": list(CLASSES),
        "views": {"name": "none"},
        "weights_sha256": FALLBACK["weights_sha256"],
        "cost": {"teacher": {"multiply_adds": FALLBACK["multiply_adds"]}},
        **changes,
    }
