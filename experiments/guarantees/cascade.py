"""Cascades: how often the risk of the whole is above what was certified.

Confidences have finitely many levels, at each of which student and fallback err with a known
probability, so that the true risk of the whole is known at every threshold. Thresholds come from a
development split, the certificate from a calibration split; both are drawn anew each time.
"""

from typing import NamedTuple

import numpy as np

from experiments.guarantees.rows import Row
from kdjax import selective

RISK, DELTA = 0.1, 0.05
EXAMPLES = 400  # of each split


class Population(NamedTuple):
    """The true distribution: confidence level i, of equal weight, is the number i.

    Attributes:
        student: probability at each level that the student is wrong, `[l]`.
        fallback: the same of the fallback, `[l]`.
    """

    student: np.ndarray
    fallback: np.ndarray

    def risk(self, threshold: float) -> float:
        """Returns the true risk of the whole."""
        by_student = np.arange(self.student.size) >= threshold
        return float(np.mean(np.where(by_student, self.student, self.fallback)))

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns confidences, and whether student and fallback are correct, `[n]` each."""
        level = rng.integers(self.student.size, size=EXAMPLES)
        student, fallback = rng.random((2, EXAMPLES))
        return level, student >= self.student[level], fallback >= self.fallback[level]


def _falling(levels: int) -> np.ndarray:
    """Returns errors of a student that fall with its confidence, 40 % on average at the lowest."""
    return 0.4 * (1 - np.arange(levels) / levels) ** 2


def _just_above(levels: int) -> np.ndarray:
    return np.full(levels, RISK + 1e-3)


def _waves(levels: int) -> np.ndarray:
    return RISK + 0.09 * np.sin(np.arange(levels) / levels * 6 * np.pi)


POPULATIONS = {
    "risk falls with the confidence": Population(_falling(1000), 0.3 * _falling(1000)),
    "four levels, all else tied": Population(_falling(4), 0.3 * _falling(4)),
    "errors rise and fall": Population(0.02 + _waves(1000), np.full(1000, 0.07)),
    "both just above the risk": Population(_just_above(1000), _just_above(1000)),
    "both just above the risk, all tied": Population(_just_above(1), _just_above(1)),
    "fallback worse than the student": Population(0.4 * _falling(1000), np.full(1000, 0.15)),
    "student always wrong": Population(np.ones(1000), np.full(1000, 0.05)),
}


def simulate(draws: int, seed: int) -> list[Row]:
    """Returns a row for each statement and each population.

    Args:
        draws: number of calibration splits.
        seed: of the random numbers.
    """
    rows = []
    for index, (name, population) in enumerate(POPULATIONS.items()):
        rng = np.random.default_rng((seed, index))
        violated = np.sum([_violations(population, rng) for _ in range(draws)], axis=0)
        rows += [
            Row(f"{statement}; {name}", draws, DELTA, int(count))
            for statement, count in zip(STATEMENTS, violated, strict=True)
        ]
    return rows


STATEMENTS = (
    "cheapest certified threshold",
    "the same, from the best threshold of dev on",
    "bounds of six thresholds, any",
    "bound anywhere, threshold with the fewest errors on calibration",
)


def _violations(population: Population, rng: np.random.Generator) -> list[bool]:
    dev, sample = population.draw(rng), population.draw(rng)
    grid = selective.cascade_thresholds(dev[0], count=20)
    best = grid[grid <= selective.cascade_start(*dev, thresholds=grid)]
    few = selective.cascade_thresholds(dev[0], count=5)
    chosen = selective.cascade_start(
        *sample, thresholds=[np.inf, *range(0, 1000, 20)[::-1], grid[-1]]
    )
    anywhere = selective.cascade_bound_anywhere(
        *sample, threshold=chosen, thresholds=grid, delta=DELTA
    )
    bounds = selective.cascade_bounds(*sample, thresholds=few, delta=DELTA)
    return [
        *(_is_wrong(population, sample, thresholds) for thresholds in (grid, best)),
        any(population.risk(point.threshold) > point.risk_bound for point in bounds),
        population.risk(chosen) > anywhere.risk_bound,
    ]


def _is_wrong(
    population: Population, sample: tuple[np.ndarray, ...], thresholds: np.ndarray
) -> bool:
    point = selective.cascade_certificate(
        *sample, thresholds=thresholds, risk=RISK, delta=DELTA
    ).point
    return point is not None and population.risk(point.threshold) > RISK
