"""Several risks: how often any rung of `certified_ladder` is false, and of certificates alone."""

import numpy as np

from experiments.guarantees import distributions
from experiments.guarantees.distributions import Distribution
from experiments.guarantees.rows import Row
from experiments.guarantees.selective_risk import Setting, exceeds
from kdjax import selective
from kdjax.evaluation.certification import RISKS

DELTA = 0.05
ALONE = 2  # settings, the first ones, with a row for the risks alone, which takes as long
COMPARED = 1000  # draws over which the coverage is averaged, for Bonferroni's ladder too

# `risk` is the one just below which the error rate is, or that of most interest.
SETTINGS = (
    Setting(distributions.power(0.47, 5), 1000, 0.02),
    Setting(distributions.power(0.2, 1), 1000, 0.05),
    Setting(distributions.constant(0.05), 1000, 0.05),
    Setting(distributions.constant(0.02), 1000, 0.02),
    Setting(distributions.power(0.3, 1), 60, 0.1),
    Setting(distributions.tied(distributions.power(0.3, 2), 10), 500, 0.05),
    Setting(distributions.non_monotone(0.02, 1.0, 0.4), 500, 0.05, assumed=False),
)


def simulate(draws: int, seed: int) -> list[Row]:
    """Returns the draws in which any rung is false, for the ladder and for the risks alone."""
    rng = np.random.default_rng(seed)
    rows = []
    for index, setting in enumerate(SETTINGS):
        sample = setting.distribution.sample(rng, draws, setting.n)
        name = f"{setting.distribution.name}; n = {setting.n:,}"
        ladder, coverage = together(setting.distribution, sample)
        bonferroni = in_percent(alone(sample, DELTA / len(RISKS), COMPARED)[1])
        note = f"accepted {in_percent(coverage[:COMPARED])}; Bonferroni {bonferroni}"
        rows.append(Row(f"{name}; together", draws, DELTA, ladder, note, setting.assumed))
        if index >= ALONE:
            continue
        thresholds, coverage = alone(sample, DELTA, draws)
        broken = int(exceeds(setting.distribution, thresholds, np.array(RISKS)).any(axis=1).sum())
        note = f"accepted {in_percent(coverage)}"
        rows.append(Row(f"{name}; each alone, any false", draws, DELTA, broken, note, False))
    return rows


def together(distribution: Distribution, sample: distributions.Sample) -> tuple[int, np.ndarray]:
    """Returns the number of draws with a false rung, and the coverage of all, [draws, risks]."""
    found = [
        selective.certified_ladder(*one, risks=RISKS, delta=DELTA).certificates
        for one in zip(*sample, strict=True)
    ]
    thresholds, coverage, _ = np.moveaxis(np.array(found), -1, 0)
    return int(exceeds(distribution, thresholds, np.array(RISKS)).any(axis=1).sum()), coverage


def alone(sample: distributions.Sample, delta: float, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns thresholds and coverage of each risk alone, [draws, risks]."""
    found = [
        [selective.learn_then_test(*one, risk=risk, delta=delta) for risk in RISKS]
        for one in zip(*(array[:draws] for array in sample), strict=True)
    ]
    thresholds, coverage, _ = np.moveaxis(np.array(found), -1, 0)
    return thresholds, coverage


def in_percent(coverage: np.ndarray) -> str:
    """Returns the mean coverage of each risk, in percent."""
    return " / ".join(f"{100 * value:.1f}" for value in coverage.mean(axis=0))
