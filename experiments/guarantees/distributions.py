"""Distributions with a known risk at every threshold, from which samples are drawn.

An image has a rank u, uniform in (0, 1), the most confident at 0, and is an error with probability
`rate(u)`. Its confidence is 1 - u, or with ties the upper end of one of `levels` equal parts.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

GRID = 200_001  # points of the numerical integral of the error rate


class Sample(NamedTuple):
    """Samples of several draws.

    Attributes:
        confidence: [draws, n].
        correct: bool [draws, n].
    """

    confidence: np.ndarray
    correct: np.ndarray


class Distribution(NamedTuple):
    """A distribution of confidence and errors.

    Attributes:
        name: in the tables.
        rate: probability of an error at each rank, [...] in [0, 1] -> [...].
        levels: number of different confidences; 0: no ties.
    """

    name: str
    rate: Callable[[np.ndarray], np.ndarray]
    levels: int = 0

    def sample(self, rng: np.random.Generator, draws: int, n: int) -> Sample:
        """Draws `draws` samples of n images."""
        ranks = rng.random((draws, n))
        correct = rng.random((draws, n)) >= self.rate(ranks)
        return Sample(self._confidence(ranks), correct)

    def _confidence(self, ranks: np.ndarray) -> np.ndarray:
        if not self.levels:
            return 1 - ranks
        return 1 - np.floor(ranks * self.levels) / self.levels

    def coverage(self, threshold: np.ndarray) -> np.ndarray:
        """Returns the true coverage P(confidence >= threshold) of thresholds [...]."""
        share = np.clip(1 - np.asarray(threshold, float), 0, 1)
        if not self.levels:
            return share
        accepted = np.floor(share * self.levels + 1e-9) + (np.asarray(threshold) <= 1)
        return np.clip(accepted / self.levels, 0, 1)

    def risk(self, threshold: np.ndarray) -> np.ndarray:
        """Returns the true error rate among accepted images; 0 where nothing is accepted."""
        coverage = self.coverage(threshold)
        edges = np.linspace(0, 1, GRID)
        middles = (edges[1:] + edges[:-1]) / 2
        errors = np.concatenate([[0.0], np.cumsum(self.rate(middles)) / (GRID - 1)])
        accepted = np.interp(coverage, edges, errors)
        return np.divide(accepted, coverage, out=np.zeros_like(accepted), where=coverage > 0)


def power(scale: float, exponent: float) -> Distribution:
    """Returns the error rate scale * u^exponent, as that of a good score."""
    return Distribution(f"{scale:g} u^{exponent:g}", lambda u: scale * u**exponent)


def constant(risk: float) -> Distribution:
    """Returns a constant error rate just above a risk: every certificate of it is a violation."""
    return Distribution(
        f"constant, just above {100 * risk:g} %", lambda u: np.full_like(u, risk * (1 + 1e-6))
    )


def tied(distribution: Distribution, levels: int) -> Distribution:
    """Returns a distribution with `levels` different confidences."""
    return distribution._replace(name=f"{distribution.name}, {levels} confidences", levels=levels)


def step(position: float, height: float) -> Distribution:
    """Returns no error before a rank, and a constant rate after it."""
    return Distribution(
        f"0, {100 * height:g} % after {100 * position:g} % of the images",
        lambda u: np.where(u < position, 0.0, height),
    )


def non_monotone(head: float, height: float, scale: float) -> Distribution:
    """Returns many errors among the most confident images, then few: the risk falls, then rises."""
    return Distribution(
        f"{100 * height:g} % in the first {100 * head:g} %, then {scale:g} u^5",
        lambda u: np.where(u < head, height, scale * u**5),
    )
