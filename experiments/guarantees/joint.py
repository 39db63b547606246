"""Risk and coverage together: how often any number of `joint_certificate` is false."""

from typing import NamedTuple

import numpy as np

from experiments.guarantees import distributions
from experiments.guarantees.distributions import Distribution
from experiments.guarantees.rows import Row
from experiments.guarantees.selective_risk import exceeds
from kdjax import selective
from kdjax.selective import JointCertificate, Pair

DELTA = 0.05


class Setting(NamedTuple):
    """A distribution with what is requested; see `selective_risk.Setting`.

    Attributes:
        distribution: of confidence and errors.
        n: number of calibration images.
        risk: requested.
        coverage: requested; 0: none.
        assumed: whether the risk does not fall as the threshold is lowered.
    """

    distribution: Distribution
    n: int
    risk: float
    coverage: float
    assumed: bool = True

    @property
    def name(self) -> str:
        """The setting in words."""
        wanted = f"coverage {100 * self.coverage:g} %" if self.coverage else "no coverage requested"
        name = f"{self.distribution.name}; n = {self.n:,}, risk {100 * self.risk:g} %, {wanted}"
        return name


SETTINGS = (
    Setting(distributions.power(0.47, 5), 1000, 0.02, 0.7),
    # Not both are possible, by very little: risk 2 % at coverage 44.7 %, and at 72.9 %.
    Setting(distributions.power(0.3, 2), 1000, 0.02, 0.448),
    Setting(distributions.step(0.7, 0.5), 500, 0.02, 0.73),
    Setting(distributions.step(0.7, 0.5), 500, 0.02, 0.0),
    Setting(distributions.constant(0.1), 200, 0.1, 0.5),
    Setting(distributions.power(0.2, 1), 60, 0.1, 0.9),
    # Ten confidences: the coverage just below 50 % has the true value 50 %, and that above 60 %.
    Setting(distributions.tied(distributions.power(0.3, 2), 10), 500, 0.03, 0.501),
    Setting(distributions.non_monotone(0.02, 1.0, 0.4), 500, 0.05, 0.8, assumed=False),
)


def simulate(draws: int, seed: int) -> list[Row]:
    """Returns the draws in which any bound that `joint_certificate` gives is false."""
    rng = np.random.default_rng(seed)
    rows = []
    for setting in SETTINGS:
        sample = setting.distribution.sample(rng, draws, setting.n)
        found = [
            selective.joint_certificate(
                *one, risk=setting.risk, coverage=setting.coverage, delta=DELTA
            )
            for one in zip(*sample, strict=True)
        ]
        both = 100 * np.mean([one.both for one in found])
        note = f"both in {both:.1f} %" if setting.coverage else ""
        rows.append(
            Row(setting.name, draws, DELTA, violations(setting, found), note, setting.assumed)
        )
    return rows


def violations(setting: Setting, found: list[JointCertificate]) -> int:
    """Returns the number of certificates with any false bound."""
    pairs = [[one.at_risk for one in found], [one.at_coverage for one in found]]
    at_risk, at_coverage = (false_pairs(setting.distribution, column) for column in pairs)
    return int(np.sum(at_risk | at_coverage))


def false_pairs(distribution: Distribution, pairs: list[Pair | None]) -> np.ndarray:
    """Returns whether a bound of each pair is false, bool [draws]; not where there is none."""
    empty = Pair(np.inf, 1.0, 0.0, 0, 0)
    threshold, risk, coverage, *_ = (
        np.array(column) for column in zip(*(pair or empty for pair in pairs), strict=True)
    )
    uncovered = distribution.coverage(threshold) < coverage - 1e-12
    return exceeds(distribution, threshold, risk) | uncovered
