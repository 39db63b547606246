"""A threshold for each class: how often the risk is too high in any class.

Each class has a distribution with a known risk at every threshold. The thresholds of many draws are
computed at once; one draw of each batch is compared with `selective.classwise`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import bdtr

from experiments.guarantees import distributions
from experiments.guarantees.distributions import Distribution, Sample
from experiments.guarantees.rows import Row
from kdjax import selective
from kdjax.selective.certificates import LEAST_ACCEPTED, TOLERATED_ERRORS

DELTA = 0.05
BATCH = 2_000  # draws that are held in memory at once


class Setting(NamedTuple):
    """Classes with their sizes on the calibration split.

    Attributes:
        name: in the table.
        classes: the distribution of each class.
        sizes: expected number of examples of each class.
        risk: to be certified.
        random: whether the sizes are random, as those of predicted classes, instead of fixed.
        assumed: whether the risk of each class rises as its threshold is lowered.
    """

    name: str
    classes: Sequence[Distribution]
    sizes: Sequence[int]
    risk: float
    random: bool = False
    assumed: bool = True


def _settings() -> list[Setting]:
    above, tenth = distributions.constant(0.05), distributions.constant(0.1)
    good, crossing = distributions.power(0.0, 1), distributions.power(0.4, 2)
    falling = distributions.non_monotone(0.1, 0.12, 0.2)
    tied = [distributions.tied(crossing, levels) for levels in (1, 2, 3, 5, 8)]
    shares = [400, 300, 250, 200, 150, 120, 100, 80, 70, 60]
    return [
        Setting("10 classes, all just above r", [above] * 10, [300] * 10, 0.05),
        Setting("1 just above r, 9 without errors", [above] + [good] * 9, [300] * 10, 0.05),
        Setting(
            "1 rare just above r, 9 without errors", [tenth] + [good] * 9, [60, *[400] * 9], 0.1
        ),
        Setting(
            "2 just above r, 3 whose risk crosses r, 5 without errors",
            [above] * 2 + [crossing] * 3 + [good] * 5,
            [400] * 10,
            0.05,
        ),
        Setting(
            "sizes random, 400 to 60, all just above r", [tenth] * 10, shares, 0.1, random=True
        ),
        Setting(
            "sizes random, the rarest just above r", [good] * 9 + [tenth], shares, 0.1, random=True
        ),
        Setting("40 tiny classes of 5 to 83, all just above r", [tenth] * 40, range(5, 85, 2), 0.1),
        Setting("1 to 8 different confidences, risk crosses r", tied, [400] * 5, 0.05),
        Setting(
            "all confidences equal, just above r",
            [distributions.tied(above, 1)] * 5,
            [300] * 5,
            0.05,
        ),
        Setting(
            "risk falls, then rises, in each class", [falling] * 5, [400] * 5, 0.05, assumed=False
        ),
    ]


def simulate(draws: int, seed: int) -> list[Row]:
    """Returns a row for each setting, and one of thresholds certified class by class at delta.

    Args:
        draws: number of calibration splits.
        seed: of the random numbers.
    """
    rows = []
    for index, setting in enumerate(_settings()):
        rng = np.random.default_rng((seed, index))
        sizes = [min(BATCH, draws - done) for done in range(0, draws, BATCH)]
        together, alone, completed = np.sum(
            [_violations(setting, rng, size, alone=index == 0) for size in sizes], axis=0
        )
        note = f"{completed / draws:.1f} of {len(setting.classes)} classes accepted completely"
        name = f"{setting.name}, r = {100 * setting.risk:g} %"
        rows.append(Row(name, draws, DELTA, int(together), note, setting.assumed))
        if index == 0:
            note = "for comparison: each class holds alone, any of them fails"
            rows.append(Row(f"{name}, each class at delta", draws, DELTA, int(alone), note, False))
    return rows


def _violations(
    setting: Setting, rng: np.random.Generator, draws: int, *, alone: bool
) -> list[int]:
    """Returns in how many draws the risk of any class is too high.

    The second number is that of classes certified alone at delta, if asked for; the third one that
    of the classes that are accepted completely.
    """
    sizes = np.array(setting.sizes)
    if setting.random:
        sizes = rng.multinomial(sizes.sum(), sizes / sizes.sum())
    samples = {
        index: law.sample(rng, draws, n)
        for index, (law, n) in enumerate(zip(setting.classes, sizes, strict=True))
        if n
    }
    tested = _largest(sizes, setting.risk)
    level = DELTA / max(1, len(tested))
    chains = {index: Chain.of(samples[index], setting.risk, level) for index in tested}
    levels, completed = _holm([chain.worst[:, -1] for chain in chains.values()], draws)
    thresholds = {index: chain.thresholds(levels) for index, chain in chains.items()}
    _check(setting, samples, {index: values[0] for index, values in thresholds.items()})
    failed = _failed(setting, thresholds, draws)
    if not alone:
        return [failed, 0, int(completed.sum())]
    single = {
        index: Chain.of(sample, setting.risk, DELTA).thresholds(np.full(draws, DELTA))
        for index, sample in samples.items()
    }
    return [failed, _failed(setting, single, draws), int(completed.sum())]


class Chain(NamedTuple):
    """Samples of one class, sorted, with what Learn then Test needs.

    Attributes:
        confidence: [draws, n], decreasing.
        first: number of accepted examples at which the sequence starts.
        worst: largest p-value up to each number of accepted examples from `first` on, [draws, s].
        ends: whether a tie group ends with each example, [draws, n].
    """

    confidence: np.ndarray
    first: int
    worst: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, sample: Sample, risk: float, level: float) -> "Chain":
        """Returns the chain of samples whose sequence starts as at this level."""
        order = np.argsort(-sample.confidence, axis=1)
        confidence = np.take_along_axis(sample.confidence, order, axis=1)
        errors = np.cumsum(~np.take_along_axis(sample.correct, order, axis=1), axis=1)
        n = confidence.shape[1]
        first = _first(n, risk, level)
        ends = np.ones(confidence.shape, bool)
        ends[:, :-1] = confidence[:, :-1] > confidence[:, 1:]
        p_values = bdtr(errors[:, first - 1 :], np.arange(first, n + 1), risk)
        tested = np.where(ends[:, first - 1 :], p_values, 0.0)
        return cls(confidence, first, np.maximum.accumulate(tested, axis=1), ends)

    def thresholds(self, levels: np.ndarray) -> np.ndarray:
        """Returns the threshold that is certified at the level of each draw, [draws]."""
        draws, n = self.confidence.shape
        rows, passed = np.arange(draws), (self.worst <= levels[:, None]).sum(axis=1)
        place = np.where(self.ends, np.arange(1, n + 1), 0)
        place[:, : self.first - 1] = 0
        accepted = np.maximum.accumulate(place, axis=1)[rows, self.first - 2 + passed]
        accepted = np.where(passed > 0, accepted, 0)
        last = self.confidence[rows, accepted - 1]
        middle = last / 2 + self.confidence[rows, accepted % n] / 2
        groups = self.ends.sum(axis=1)
        span = (self.confidence[:, 0] - self.confidence[:, -1]) / 2
        step = np.where(groups > 1, span / np.maximum(groups - 1, 1), 2.0**-10)
        return np.where(accepted == 0, np.inf, np.where(accepted == n, last - step, middle))


def _first(n: int, risk: float, level: float) -> int:
    """Returns the number of accepted examples at which Learn then Test starts; n + 1: never."""
    counts = np.arange(LEAST_ACCEPTED, n + 1)
    none, some = (
        LEAST_ACCEPTED + int(np.sum(bdtr(errors, counts, risk) > level))
        for errors in (0, TOLERATED_ERRORS)
    )
    return max(none, min(some, n // 4))


def _largest(sizes: np.ndarray, risk: float) -> list[int]:
    """Returns the classes that are tested: as many of the largest as can all pass."""
    order = sorted(range(len(sizes)), key=lambda index: -sizes[index])
    for count in range(len(order), 0, -1):
        if _first(sizes[order[count - 1]], risk, DELTA / count) <= sizes[order[count - 1]]:
            return order[:count]
    return []


def _holm(largest: Sequence[np.ndarray], draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the final level of each draw, and how many classes are completed, [draws] each."""
    if not largest:
        return np.full(draws, DELTA), np.zeros(draws, int)
    values = np.sort(np.stack(largest, axis=1), axis=1)
    count = values.shape[1]
    shares = DELTA / np.arange(count, 0, -1)
    completed = np.logical_and.accumulate(values <= shares, axis=1).sum(axis=1)
    return DELTA / np.maximum(1, count - completed), completed


def _failed(setting: Setting, thresholds: dict[int, np.ndarray], draws: int) -> int:
    """Returns the number of draws in which the true risk of any class exceeds r."""
    failed = np.zeros(draws, bool)
    for index, values in thresholds.items():
        failed |= setting.classes[index].risk(values) > setting.risk
    return int(failed.sum())


def _check(setting: Setting, samples: dict[int, Sample], thresholds: dict[int, float]) -> None:
    """Raises if the first draw has other thresholds in the library."""
    rule = selective.classwise(
        np.concatenate([sample.confidence[0] for sample in samples.values()]),
        np.concatenate([sample.correct[0] for sample in samples.values()]),
        np.concatenate(
            [np.full(sample.confidence.shape[1], index) for index, sample in samples.items()]
        ),
        risk=setting.risk,
        delta=DELTA,
    )
    expected = [thresholds.get(index, np.inf) for index in rule.groups.tolist()]
    if not np.allclose(rule.threshold, expected, rtol=0, atol=1e-12):
        raise RuntimeError(f"{setting.name}: {rule.threshold}, expected {expected}")
