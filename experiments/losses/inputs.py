"""The arguments of the timed losses, equal for all implementations."""

import numpy as np
from numpy.typing import ArrayLike

NAMES = ("cross_entropy", "gambler", "soft_gambler", "distillation")
ROWS, COLUMNS = 65_536, 101
PAYOFF, TEMPERATURE = 2.2, 4.0
LOSS, GRADIENT = "loss", "gradient"


def arguments(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns logits float32 [ROWS, COLUMNS], and labels int32 [ROWS] or targets float32.

    Args:
        name: one of `NAMES`; in the gambler losses the last column is abstention.
    """
    rng = np.random.default_rng(0)
    logits = 3 * rng.standard_normal((ROWS, COLUMNS), np.float32)
    classes = COLUMNS - ("gambler" in name)
    if name in ("cross_entropy", "gambler"):
        return logits, rng.integers(0, classes, ROWS, np.int32)
    odds = np.exp(rng.standard_normal((ROWS, classes), np.float32))
    return logits, odds / odds.sum(-1, keepdims=True)


def summary(loss: ArrayLike, gradient: ArrayLike) -> dict[str, float]:
    """Returns the mean of a loss [ROWS] and the norm of its gradient, summed in float64."""
    return {
        LOSS: float(np.asarray(loss, np.float64).mean()),
        GRADIENT: float(np.linalg.norm(np.asarray(gradient, np.float64))),
    }
