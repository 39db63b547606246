"""Intervals of metrics and of their differences between two runs; float64 numpy.

They measure the variation due to the choice of test examples, not that between training seeds.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdjax.errors import InputError
from kdjax.selective import binomial, intervals, ranking, validation
from kdjax.selective.intervals import Bounds
from kdjax.selective.resamples import Metric, metrics_by_name, resample

COVERAGES = (0.95, 0.9, 0.8, 0.7)
# From this number of errors on, an interval also contains that of the bootstrap. Below, the
# bootstrap is too narrow; see experiments/results/intervals.md.
ENOUGH_ERRORS = 10


class Interval(NamedTuple):
    """An estimate and its confidence interval.

    Attributes:
        estimate: on the sample itself.
        low: lower end; nan if there is no interval, see `compare`.
        high: upper end; likewise.
    """

    estimate: float
    low: float
    high: float

    @property
    def exists(self) -> bool:
        """Whether there is an interval, not the estimate alone."""
        return not math.isnan(self.low)


def bootstrap(
    confidence: ArrayLike,
    correct: ArrayLike,
    *,
    coverages: Sequence[float] = COVERAGES,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Intervals of the metrics of a run.

    `accuracy` has the exact binomial interval of errors(n) of n predictions, `error_at_c` that of
    errors(k) of k, both by Blaker's method, see `binomial.proportion_interval`; `aurc` and `augrc`
    have the interval of a weighted sum of Poisson events, see `intervals.weighted_sum`. From 10
    errors on, all but `accuracy` are widened to contain the percentile interval of the bootstrap,
    which resamples the predictions and so also varies which of them are accepted. Under ties
    errors(k) is an expectation, not an integer; the ends are then interpolated.

    Args:
        confidence: `[n]`, higher = more confident.
        correct: `[n]`, boolean or 0 and 1.
        coverages: in (0, 1], each accepting at least one prediction.
        resamples: R >= 1, of the bootstrap.
        level: in (0, 1).
        seed: >= 0; equal seeds and equal n draw the same rows.

    Returns:
        Intervals of `accuracy`, `aurc`, `augrc` and, for each coverage c, `error_at_c`. Their
        measured coverage is in experiments/results/intervals.md.

    Raises:
        ValueError: for n = 0, unequal lengths, NaN, a `correct` that is not boolean, or an option
            out of range.
        TypeError: for a dtype that is not real.

    Sources: Blaker, "Confidence curves and improved exact confidence intervals for discrete
    distributions", Canadian Journal of Statistics 2000; Efron, Tibshirani, "An Introduction to the
    Bootstrap", 1993, chapter 13.
    """
    ranked = ranking.rank(confidence, correct)
    level = validation.probability("level", level)
    metrics = metrics_by_name(coverages, ranked.wrong.size)
    terms = {
        name: ranking.contributions(ranked, metric.weights) for name, metric in metrics.items()
    }
    resampled = _resampled([ranked], metrics, terms, resamples, seed)
    results = {
        name: _interval(
            terms[name],
            metric,
            _of_run(terms[name], metric, level),
            *_percentiles(resampled[name], level),
        )
        for name, metric in metrics.items()
    }
    return _with_accuracy(results, total=1.0)


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
    """Intervals of the differences a - b of two runs on the same test examples.

    They are paired: only examples that the runs treat differently count, see
    `intervals.difference`; for accuracy these are the discordant pairs. From 10 such examples on,
    all but `accuracy` are widened to contain Student's interval with the standard error of the
    bootstrap, which resamples both runs at the same rows, see `intervals.student`. An interval that
    does not contain 0 is a significant difference at this level. A metric for which fewer examples
    differ than `least_differing` says has no interval: at 95 %, 6 for accuracy and the error at a
    coverage, as fewer are never significant; 10 for AURC and AUGRC, as an interval from fewer
    contains the true difference too often or, if the ranking is poor, too rarely.

    Args:
        confidence_a: `[n]`, of run a, higher = more confident; the order of the examples is the
            same for both runs.
        correct_a: `[n]`, of run a, boolean or 0 and 1.
        confidence_b: `[n]`, of run b; its scale may differ from that of a.
        correct_b: `[n]`, of run b.
        coverages: in (0, 1], each accepting at least one prediction.
        resamples: R >= 1, of the bootstrap.
        level: in (0, 1).
        seed: >= 0; equal seeds and equal n draw the same rows.

    Returns:
        Intervals of the differences in `accuracy`, `aurc`, `augrc` and each `error_at_c`; their
        ends are nan where there is no interval. Their measured coverage is in
        experiments/results/intervals.md.

    Raises:
        ValueError: for runs of unequal lengths, and as `bootstrap`.
        TypeError: for a dtype that is not real.

    Source: Efron, Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 8 and 13.
    """
    a, b = ranking.rank(confidence_a, correct_a), ranking.rank(confidence_b, correct_b)
    if a.wrong.size != b.wrong.size:
        raise InputError(f"run b has {b.wrong.size} predictions: run a needs {a.wrong.size}")
    level = validation.probability("level", level)
    metrics = metrics_by_name(coverages, a.wrong.size)
    parts = {
        name: [ranking.contributions(run, metric.weights) for run in (a, b)]
        for name, metric in metrics.items()
    }
    terms = {name: _differences(parts[name], metric) for name, metric in metrics.items()}
    resampled = _resampled([a, b], metrics, terms, resamples, seed)
    results = {
        name: _interval(
            terms[name],
            metric,
            _of_difference(terms[name], metric, level),
            *_student(terms[name], resampled[name], level),
        )
        for name, metric in metrics.items()
    }
    return _with_accuracy(results, total=0.0)


def least_differing(level: float, *, area: bool = False) -> int:
    """Returns from how many differing examples on a difference has an interval.

    It is the least d with 2 * 2^-d <= 1 - level: two equal runs favour the same run in all of d
    such examples with this probability.

    Args:
        level: of the interval, in (0, 1).
        area: of AURC or AUGRC, which need at least 10.
    """
    least = math.ceil(1 - math.log2(1 - validation.probability("level", level)))
    return max(least, ENOUGH_ERRORS) if area else least


def _of_run(terms: NDArray[np.float64], metric: Metric, level: float) -> Bounds:
    """Returns the interval of a metric that holds with few errors."""
    if metric.accepted is None:
        unseen = intervals.unseen_error(metric.weights)
        low, high = intervals.weighted_sum(terms, unseen, level)
        return Bounds(low, min(high, metric.maximum))
    errors = float(np.sum(terms)) * metric.accepted
    # k times a sum of fractions 1 / k is not quite an integer.
    errors = round(errors) if abs(errors - round(errors)) < 1e-9 else errors
    return Bounds(*binomial.proportion_interval(errors, metric.accepted, level))


def _differences(parts: Sequence[NDArray[np.float64]], metric: Metric) -> NDArray[np.float64]:
    """Returns what each example adds to the difference of a metric; without errors of rounding.

    Args:
        parts: what each example adds to the metric of either run.
        metric: of which the difference is taken.
    """
    terms = parts[0] - parts[1]
    return np.where(np.abs(terms) > 1e-10 * np.max(metric.weights), terms, 0.0)


def _of_difference(terms: NDArray[np.float64], metric: Metric, level: float) -> Bounds:
    """Returns the interval of a difference of a metric that holds with few errors.

    Args:
        terms: of `_differences`.
        metric: of which the difference is taken.
        level: in (0, 1).
    """
    sizes = np.abs(terms[terms != 0])
    if sizes.size < least_differing(level, area=metric.accepted is None):
        return Bounds(np.nan, np.nan)
    # One more example that differs would change the metric as one of the larger half of them does.
    unseen = intervals.unseen_error(np.sort(sizes)[-(sizes.size // 2) :])
    low, high = intervals.difference(terms, unseen, level)
    return Bounds(max(low, -metric.maximum), min(high, metric.maximum))


def _is_widened(metric: Metric, terms: NDArray[np.float64]) -> bool:
    """Returns whether the interval must contain that of the bootstrap.

    Not with few errors, nor if every prediction is accepted: the exact interval leaves nothing to
    add.
    """
    return bool(np.count_nonzero(terms) >= ENOUGH_ERRORS) and metric.accepted != terms.size


def _percentiles(resampled: NDArray[np.float64], level: float) -> list[Bounds]:
    """Returns the percentile interval of resampled values; none if there are no values."""
    tails = [(1 - level) / 2, (1 + level) / 2]
    return [Bounds(*np.quantile(resampled, tails).tolist())] if resampled.size else []


def _student(
    terms: NDArray[np.float64], resampled: NDArray[np.float64], level: float
) -> list[Bounds]:
    """Returns Student's interval of resampled differences; none if there are fewer than two."""
    return [intervals.student(terms, resampled, level)] if resampled.size > 1 else []


def _interval(terms: NDArray[np.float64], metric: Metric, *bounds: Bounds) -> Interval:
    """Returns the estimate with the smallest interval that contains it and all of the bounds.

    There is no interval, nan, if one of the bounds does not exist.
    """
    # By rounding, n terms of 1 / n may exceed 1.
    estimate = float(np.clip(np.sum(terms), -metric.maximum, metric.maximum))
    ends = [estimate, *(end for each in bounds for end in each)]
    return Interval(estimate, float(np.min(ends)), float(np.max(ends)))


def _with_accuracy(results: dict[str, Interval], total: float) -> dict[str, Interval]:
    """Replaces the interval of the error by that of `total` - error."""
    estimate, low, high = results.pop("error")
    return {"accuracy": Interval(total - estimate, total - high, total - low), **results}


def _resampled(
    runs: Sequence[ranking.RankedPredictions],
    metrics: Mapping[str, Metric],
    terms: Mapping[str, NDArray[np.float64]],
    resamples: int,
    seed: int,
) -> dict[str, NDArray[np.float64]]:
    """Returns the metrics of R resamples of a run, or the differences of two runs.

    Returns:
        By metric, `[R]`; `[0]` if its interval is not widened.
    """
    rng = np.random.default_rng(validation.integer("seed", seed, least=0))
    count = validation.integer("resamples", resamples, least=1)
    by_name = dict.fromkeys(metrics, np.empty(0))
    widened = [name for name, metric in metrics.items() if _is_widened(metric, terms[name])]
    if widened:
        values = resample(runs, [metrics[name] for name in widened], count, rng)
        by_name |= dict(zip(widened, values, strict=True))
    return by_name
