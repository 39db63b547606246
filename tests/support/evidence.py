"""Evidence of a run with known confidences and errors."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kdjax.evaluation import promises
from kdjax.evaluation.predictions import Predictions

CLASSES = ("cat", "dog", "owl")


def outputs(confidence: np.ndarray, correct: np.ndarray) -> Predictions:
    """Returns predictions of class 0 with a margin of `confidence`, some of which are wrong."""
    logits = np.zeros((len(confidence), 4), np.float32)
    logits[:, 0] = confidence
    return Predictions(logits, np.where(correct, 0, 1).astype(np.int32))


def draw(n: int, seed: int, scale: float = 0.3, power: float = 3) -> Predictions:
    """Returns predictions with an error rate of `scale * rank ** power`."""
    rng = np.random.default_rng(seed)
    rank = rng.permutation(n) / n
    return outputs(2 - rank, rng.random(n) >= scale * rank**power)


def margin(logits: np.ndarray) -> np.ndarray:
    """Returns the logit of class 0, which is the margin."""
    return logits[:, 0].astype(np.float64)


def of(
    calibration: Predictions,
    test: Predictions,
    *,
    threshold: float = np.inf,
    source: str = "none",
    settings: Mapping[str, Any] | None = None,
    **fields: Any,
) -> promises.Evidence:
    """Returns evidence with these splits; `fields` as in `Evidence`."""
    values = {"risk": 0.05, "delta": 0.1, "runs": 1} | fields
    return promises.Evidence(
        dev=calibration,
        calibration=calibration,
        test=test,
        confidence=margin,
        threshold=threshold,
        source=source,
        class_names=CLASSES,
        settings=settings or {},
        **values,
    )
