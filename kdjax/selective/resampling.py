"""Bootstrap intervals of metrics, exact under ties; float64 numpy.

Resampling the predictions of one network measures the variation due to the choice of test examples.
It does not measure the variation between training seeds.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdjax.errors import InputError
from kdjax.selective import ranking, validation

COVERAGES = (0.95, 0.9, 0.8, 0.7)
Metric = Callable[[ranking.TieGroups], ArrayLike]


class Interval(NamedTuple):
    """An estimate and its bootstrap percentile interval.

    Attributes:
        estimate: on the sample itself.
        low: lower end.
        high: upper end.
    """

    estimate: float
    low: float
    high: float


def bootstrap(
    confidence: ArrayLike,
    correct: ArrayLike,
    *,
    coverages: Sequence[float] = COVERAGES,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Bootstrap intervals of the metrics of a run, by resampling its test predictions.

    Each of R resamples draws n rows with replacement. An interval extends from the (1 - level) / 2
    to the (1 + level) / 2 quantile of a metric over the resamples, with linear interpolation. Rows
    that are drawn more than once are ties.

    Args:
        confidence: `[n]`, higher = more confident.
        correct: `[n]`, boolean or 0 and 1.
        coverages: in (0, 1], each accepting at least one prediction.
        resamples: R >= 1.
        level: in (0, 1).
        seed: >= 0; equal seeds and equal n draw the same rows.

    Returns:
        Intervals of `accuracy`, `aurc`, `augrc` and, for each coverage c, `error_at_c`.

    Raises:
        ValueError: for n = 0, unequal lengths, NaN, a `correct` that is not boolean, or an option
            out of range.
        TypeError: for a dtype that is not real.

    Source: Efron, Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
    """
    values = _resampled(ranking.rank(confidence, correct), coverages, resamples, seed)
    return _intervals(values, level)


def compare(
    confidence_a: ArrayLike,
    correct_a: ArrayLike,
    confidence_b: ArrayLike,
    correct_b: ArrayLike,
    *,
    coverages: Sequence[float] = COVERAGES,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Bootstrap intervals of the differences a - b of two runs on the same test examples.

    The bootstrap is paired: both runs are resampled at the same rows, so the difficulty of the
    rows, which is common to both, cancels. An interval that does not contain 0 is a significant
    difference at this level.

    Args:
        confidence_a: `[n]`, of run a, higher = more confident; the order of the examples is the
            same for both runs.
        correct_a: `[n]`, of run a, boolean or 0 and 1.
        confidence_b: `[n]`, of run b; its scale may differ from that of a.
        correct_b: `[n]`, of run b.
        coverages: in (0, 1], each accepting at least one prediction.
        resamples: R >= 1.
        level: in (0, 1).
        seed: >= 0; equal seeds and equal n draw the same rows.

    Returns:
        Intervals of the differences in `accuracy`, `aurc`, `augrc` and each `error_at_c`.

    Raises:
        ValueError: for runs of unequal lengths, and as `bootstrap`.
        TypeError: for a dtype that is not real.

    Source: Efron, Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 8 and 13.
    """
    a, b = ranking.rank(confidence_a, correct_a), ranking.rank(confidence_b, correct_b)
    if a.wrong.size != b.wrong.size:
        raise InputError(f"run b has {b.wrong.size} predictions: run a needs {a.wrong.size}")
    # Equal seeds draw the same rows for both runs, which makes the bootstrap paired.
    values_a, values_b = (_resampled(run, coverages, resamples, seed) for run in (a, b))
    return _intervals({name: values_a[name] - values_b[name] for name in values_a}, level)


def _resampled(
    ranked: ranking.Ranked, coverages: Sequence[float], resamples: int, seed: int
) -> dict[str, NDArray[np.float64]]:
    """Returns each metric as `[1 + R]`: of the sample itself, then of the R resamples."""
    metrics = _metrics(coverages, ranked.wrong.size)
    values = [
        [metric(groups) for metric in metrics.values()]
        for groups in _resamples(ranked, resamples, seed)
    ]
    return dict(zip(metrics, np.array(values).T, strict=True))


def _resamples(ranked: ranking.Ranked, resamples: int, seed: int) -> Iterator[ranking.TieGroups]:
    # Rows are sorted once; a resample only counts them again.
    group, wrong, threshold = ranked
    rng = np.random.default_rng(validation.integer("seed", seed, least=0))
    yield ranking.count_groups(ranked)
    for _ in range(validation.integer("resamples", resamples, least=1)):
        rows = rng.integers(wrong.size, size=wrong.size)
        yield ranking.count_groups(ranking.Ranked(group[rows], wrong[rows], threshold))


def _metrics(coverages: Sequence[float], total: int) -> dict[str, Metric]:
    accepted = ranking.accepted_at(coverages, total)
    errors: dict[str, Metric] = {
        f"error_at_{coverage}": partial(ranking.expected_risk, accepted=k)
        for coverage, k in zip(coverages, accepted, strict=True)
    }
    return {"accuracy": _accuracy, "aurc": ranking.aurc, "augrc": ranking.augrc, **errors}


def _accuracy(groups: ranking.TieGroups) -> float:
    return float((groups.accepted[-1] - groups.errors[-1]) / groups.accepted[-1])


def _intervals(values: Mapping[str, NDArray[np.float64]], level: float) -> dict[str, Interval]:
    tail = (1 - validation.probability("level", level)) / 2
    return {
        name: Interval(float(estimate), *np.quantile(resampled, [tail, 1 - tail]).tolist())
        for name, (estimate, *resampled) in values.items()
    }
