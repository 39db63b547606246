"""Learn then Test and SGR: how often the error among accepted images exceeds what was certified."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from experiments.guarantees import distributions
from experiments.guarantees.distributions import Distribution
from experiments.guarantees.rows import Row
from kdjax import selective
from kdjax.selective import Certificate

DELTA = 0.05
PROCEDURES: dict[str, Callable[..., Certificate]] = {
    "Learn then Test": selective.learn_then_test,
    "SGR": selective.sgr,
}


class Setting(NamedTuple):
    """A distribution with the number of calibration images and the certified risk.

    Attributes:
        distribution: of confidence and errors.
        n: number of calibration images.
        risk: to be certified.
        assumed: whether the risk does not fall as the threshold is lowered.
    """

    distribution: Distribution
    n: int
    risk: float
    assumed: bool = True

    @property
    def name(self) -> str:
        """The setting in words."""
        return f"{self.distribution.name}; n = {self.n:,}, risk {100 * self.risk:g} %"


SETTINGS = (
    Setting(distributions.power(0.47, 5), 1000, 0.02),
    Setting(distributions.constant(0.02), 1000, 0.02),
    Setting(distributions.constant(0.1), 200, 0.1),
    Setting(distributions.constant(0.1), 40, 0.1),
    Setting(distributions.power(0.2, 1), 60, 0.05),
    Setting(distributions.step(0.7, 0.5), 500, 0.02),
    Setting(distributions.tied(distributions.power(0.3, 2), 10), 500, 0.05),
    Setting(distributions.tied(distributions.constant(0.1), 3), 200, 0.1),
    # The error rate is twice the certified risk in the first 10 % of the images: the risk falls.
    Setting(distributions.non_monotone(0.1, 0.1, 0.4), 500, 0.05, assumed=False),
    Setting(distributions.non_monotone(0.02, 1.0, 0.4), 500, 0.05, assumed=False),
)


def simulate(draws: int, seed: int) -> list[Row]:
    """Returns the violations of both procedures in every setting."""
    rng = np.random.default_rng(seed)
    return [
        _row(setting, name, setting.distribution.sample(rng, draws, setting.n))
        for setting in SETTINGS
        for name in PROCEDURES
    ]


def _row(setting: Setting, name: str, sample: distributions.Sample) -> Row:
    found = [
        PROCEDURES[name](*one, risk=setting.risk, delta=DELTA) for one in zip(*sample, strict=True)
    ]
    thresholds = np.array([certificate.threshold for certificate in found])
    coverage = np.mean([certificate.coverage for certificate in found])
    return Row(
        f"{setting.name}; {name}",
        len(found),
        DELTA,
        int(np.sum(exceeds(setting.distribution, thresholds, setting.risk))),
        f"{100 * coverage:.1f} % accepted",
        setting.assumed,
    )


def exceeds(
    distribution: Distribution, thresholds: np.ndarray, risk: float | np.ndarray
) -> np.ndarray:
    """Returns whether the true risk of each threshold is above a bound, bool [...].

    The tolerance is above the error of the numerical integral and below the excess of
    `distributions.constant`.
    """
    return distribution.risk(thresholds) > np.asarray(risk) * (1 + 1e-7)
