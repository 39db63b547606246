"""The gate: how often it passes too few images, or the error among those that pass is higher.

An image has a gate score v, uniform in (0, 1) or with ties the lower end of one of equal parts,
independent of its confidence. Images with a low v may be wrong more often.
"""

from typing import NamedTuple

import numpy as np

from experiments.guarantees import distributions
from experiments.guarantees.distributions import Distribution
from experiments.guarantees.rows import Row
from experiments.guarantees.selective_risk import exceeds
from kdjax import selective
from kdjax.selective import outliers

DELTA = 0.05


class Population(NamedTuple):
    """A distribution of gate score, confidence and errors.

    Attributes:
        distribution: of confidence and errors.
        levels: number of different gate scores; 0: no ties.
        outlying: images with v below this are wrong more often.
        height: by this probability.
    """

    distribution: Distribution
    levels: int = 0
    outlying: float = 0.0
    height: float = 0.0

    @property
    def name(self) -> str:
        """The population in words."""
        ties = f", {self.levels} gate scores" if self.levels else ""
        low = f", + {100 * self.height:g} % where v < {self.outlying:g}" if self.height else ""
        return f"{self.distribution.name}{low}{ties}"

    def sample(self, rng: np.random.Generator, n: int) -> tuple[np.ndarray, ...]:
        """Returns gate scores, confidences and whether predictions are correct, each [n]."""
        v = rng.random(n)
        confidence, correct = (array[0] for array in self.distribution.sample(rng, 1, n))
        wrong = (v < self.outlying) & (rng.random(n) < self.height)
        return self._score(v), confidence, correct & ~wrong

    def _score(self, v: np.ndarray) -> np.ndarray:
        return np.floor(v * self.levels) / self.levels if self.levels else v

    def first_passing(self, threshold: np.ndarray) -> np.ndarray:
        """Returns the lowest v that passes a threshold of the gate score, in [0, 1]."""
        lowest = np.clip(threshold, 0, 1)
        return np.ceil(lowest * self.levels - 1e-9) / self.levels if self.levels else lowest

    def exceeds(self, gate: np.ndarray, threshold: np.ndarray, risk: float) -> np.ndarray:
        """Returns whether the risk of what gate and threshold accept is above a bound, bool [d]."""
        low = self.first_passing(gate)
        share = np.maximum(0, self.outlying - low) / np.maximum(1 - low, 1e-12)
        # With probability `extra` an accepted image that is otherwise right is wrong.
        extra = self.height * share
        above = exceeds(self.distribution, threshold, (risk - extra) / (1 - extra))
        return above & np.isfinite(threshold)


class Setting(NamedTuple):
    """A population with sizes of dev and calibration, the requested acceptance and risk."""

    population: Population
    dev: int
    calibration: int
    acceptance: float
    risk: float

    @property
    def name(self) -> str:
        """The setting in words."""
        sizes = f"dev {self.dev:,}, calibration {self.calibration:,}"
        return f"{self.population.name}; {sizes}, acceptance {100 * self.acceptance:g} %"


_CONSTANT = distributions.constant(0.1)
SETTINGS = (
    Setting(Population(distributions.power(0.47, 5)), 1000, 1000, 0.95, 0.02),
    Setting(Population(_CONSTANT), 500, 200, 0.9, 0.1),
    Setting(Population(_CONSTANT, levels=7), 500, 200, 0.8, 0.1),
    Setting(Population(_CONSTANT, levels=2), 100, 100, 0.4, 0.1),
    Setting(Population(_CONSTANT), 40, 40, 0.8, 0.1),
    Setting(Population(distributions.power(0.02, 1), 0, 0.13, 1.0), 300, 300, 0.9, 0.1),
    Setting(Population(distributions.power(0.02, 1), 10, 0.1, 0.4), 300, 300, 0.85, 0.05),
)
PARTS = ("tolerance limit", "certified acceptance", "error of what passes")


def simulate(draws: int, seed: int) -> list[Row]:
    """Returns the violations of the three statements in every setting."""
    rng = np.random.default_rng(seed)
    return [row for setting in SETTINGS for row in simulate_setting(setting, draws, rng)]


def simulate_setting(setting: Setting, draws: int, rng: np.random.Generator) -> list[Row]:
    """Returns the violations of `PARTS` in one setting."""
    found = np.array([_draw(setting, rng) for _ in range(draws)])
    tolerance, gate, bound, threshold = found.T
    population = setting.population
    passed = 1 - population.first_passing(gate)
    limits = 1 - population.first_passing(tolerance)
    violations = (
        limits < setting.acceptance - 1e-9,
        passed < bound - 1e-9,
        population.exceeds(gate, threshold, setting.risk),
    )
    notes = (
        f"{100 * limits.mean():.1f} % pass",
        f"{100 * passed.mean():.1f} % pass, {100 * np.mean(bound >= setting.acceptance):.1f} % of "
        "the draws certify the requested share",
        f"risk {100 * setting.risk:g} %, certified in {100 * np.isfinite(threshold).mean():.1f} % "
        "of the draws",
    )
    return [
        Row(f"{setting.name}; {part}", draws, DELTA, int(violation.sum()), note)
        for part, violation, note in zip(PARTS, violations, notes, strict=True)
    ]


def _draw(setting: Setting, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Returns one draw: both thresholds of the gate, the bound, and the certified threshold."""
    dev = setting.population.sample(rng, setting.dev)[0]
    scores, confidence, correct = setting.population.sample(rng, setting.calibration)
    options = {"acceptance": setting.acceptance, "delta": DELTA}
    tolerance = outliers.acceptance_threshold(dev, **options)
    gate = outliers.threshold_to_certify(dev, examples=setting.calibration, **options)
    passes = scores >= _or_all(gate)
    bound = outliers.acceptance_bound(passes, delta=DELTA).bound if gate is not None else 1.0
    certificate = selective.learn_then_test(
        confidence[passes], correct[passes], risk=setting.risk, delta=DELTA
    )
    return _or_all(tolerance), _or_all(gate), bound, certificate.threshold


def _or_all(threshold: float | None) -> float:
    return -np.inf if threshold is None else threshold
