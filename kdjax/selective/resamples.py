"""Metrics of resamples of a test split, drawn with replacement; float64 numpy.

Every metric is a sum of weights over the errors, see `Metric`. A prediction that is drawn several
times is a tie with itself.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdjax.errors import InputError
from kdjax.selective import ranking
from kdjax.selective.threads import map_in_threads

CHUNK = 1 << 22  # numbers of a batch of resamples, which limits the memory
# From this number of predictions on, resamples are counted instead of sorted: the same rows, and
# the same values up to rounding in the last digits, in a tenth of the time. Below, results have the
# bits that earlier versions recorded.
COUNTED_FROM = 50_001

Floats = NDArray[np.float64]


class Metric(NamedTuple):
    """A metric as a sum of weights over errors.

    Attributes:
        weights: what an error at rank j = 1..n adds, the most confident first, `[n]`.
        maximum: the largest value.
        accepted: k of a metric that is errors(k) / k; None for an area.
        cumulative: of an area, the sum of the weights of the ranks 1..j, `int [...] -> [...]`.
    """

    weights: Floats
    maximum: float
    accepted: int | None = None
    cumulative: Callable[[NDArray[np.int64]], Floats] | None = None


def metrics_by_name(coverages: Sequence[float], total: int) -> dict[str, Metric]:
    """Returns the metrics of `total` predictions by name; `error` is 1 - accuracy.

    Raises:
        ValueError: for a coverage outside (0, 1] or too small to accept one prediction, or one
            number instead of a sequence.
        TypeError: for a dtype that is not real.
    """
    if np.ndim(coverages) != 1:
        raise InputError(f"coverages {coverages}: need a sequence of numbers")
    at_coverage = {
        # `str` of a float32 number is its shortest decimal.
        f"error_at_{coverage!s}": _error_of(total, int(k))
        for coverage, k in zip(coverages, ranking.accepted_at(coverages, total), strict=True)
    }
    return {
        "error": _error_of(total, total),
        "aurc": _aurc(total),
        "augrc": _augrc(total),
        **at_coverage,
    }


def _error_of(total: int, accepted: int) -> Metric:
    """Returns the error rate of the first `accepted` predictions."""
    return Metric(ranking.coverage_weights(total, accepted), 1.0, accepted)


def _aurc(total: int) -> Metric:
    weights = ranking.aurc_weights(total)
    sums = np.concatenate(([0.0], np.cumsum(weights)))
    return Metric(weights, 1.0, cumulative=lambda ranks: sums[ranks])


def _augrc(total: int) -> Metric:
    weights = ranking.augrc_weights(total)
    return Metric(weights, 0.5, cumulative=lambda ranks: ranks * (total - ranks / 2) / total**2)


def resample(
    runs: Sequence[ranking.RankedPredictions],
    metrics: Sequence[Metric],
    resamples: int,
    rng: np.random.Generator,
) -> Floats:
    """Returns the metrics of resamples of a run, or the differences of two runs.

    Args:
        runs: one or two, of the same n test examples; both are resampled at the same rows.
        metrics: M of them.
        resamples: R >= 1.
        rng: draws the rows; the same ones for equal n.

    Returns:
        `[M, R]`.
    """
    n = runs[0].wrong.size
    evaluate = _counted if n >= COUNTED_FROM else _sorted
    parts = [evaluate(run, metrics) for run in runs]
    values = []
    for rows in _draw(n, resamples, rng):
        first, *second = (part(rows) for part in parts)
        values.append(first - second[0] if second else first)
    return np.concatenate(values, axis=1)


def _draw(n: int, resamples: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yields the rows of all resamples, `[r, n]` at a time."""
    most = max(1, CHUNK // n)
    for done in range(0, resamples, most):
        yield rng.integers(n, size=(min(most, resamples - done), n))


Evaluate = Callable[[NDArray[np.int64]], Floats]


def _sorted(run: ranking.RankedPredictions, metrics: Sequence[Metric]) -> Evaluate:
    """Returns a function from rows `[r, n]` to metrics `[M, r]`, by the error at each rank."""
    weights = np.stack([metric.weights for metric in metrics])
    return lambda rows: weights @ _expected_errors(run, rows).T


def _expected_errors(ranked: ranking.RankedPredictions, rows: NDArray[np.int64]) -> Floats:
    """Returns the expected error at each rank of samples of rows, `[r, n]`."""
    group, wrong, threshold = ranked
    bins = group[rows] + threshold.size * np.arange(len(rows))[:, None]
    sizes = np.bincount(bins.ravel(), minlength=len(rows) * threshold.size)
    errors = np.bincount(bins[wrong[rows]], minlength=sizes.size)
    shares = errors / np.maximum(sizes, 1)
    return np.repeat(shares, sizes).reshape(rows.shape)


def _counted(run: ranking.RankedPredictions, metrics: Sequence[Metric]) -> Evaluate:
    """Returns a function from rows `[r, n]` to metrics `[M, r]`, by the rows drawn of each cell."""
    cell, number = _cells(run)

    def evaluate(rows: NDArray[np.int64]) -> Floats:
        return _values(np.bincount(cell[rows], minlength=number), metrics)

    return lambda rows: np.stack(map_in_threads(evaluate, list(rows)), axis=1)


def _cells(run: ranking.RankedPredictions) -> tuple[NDArray[np.int32], int]:
    """Returns the cell of each prediction, `[n]`, and the number of cells, 3 h + 1.

    Only tie groups with errors add to a metric; there are h of them. The i-th one, i = 0..h-1, has
    the cells 3 i + 1 of its correct and 3 i + 2 of its wrong predictions. Cell 3 i has all
    predictions between the groups with errors before it: only their number matters.
    """
    group, wrong, threshold = run
    has_errors = np.bincount(group[wrong], minlength=threshold.size) > 0
    earlier: NDArray[np.int64] = np.cumsum(has_errors) - has_errors
    cell_of_group = (3 * earlier + has_errors).astype(np.int32)
    return cell_of_group[group] + wrong, 3 * int(has_errors.sum()) + 1


def _values(counts: NDArray[np.int64], metrics: Sequence[Metric]) -> Floats:
    """Returns the metrics `[M]` of a resample from the number of its rows in each cell."""
    before, correct, wrong = counts[:-1].reshape(-1, 3).T
    # A group takes up the ranks begin + 1..end.
    sizes = correct + wrong
    end = np.cumsum(before + sizes)
    groups = _Groups(end - sizes, end, np.cumsum(wrong), wrong / np.maximum(sizes, 1))
    return np.array([_value(groups, metric) for metric in metrics])


class _Groups(NamedTuple):
    """The tie groups with errors of a resample, `[h]` each.

    Attributes:
        begin: the rank before the first of the group.
        end: the last rank of the group.
        errors: up to the end of the group.
        share: of errors in the group.
    """

    begin: NDArray[np.int64]
    end: NDArray[np.int64]
    errors: NDArray[np.int64]
    share: Floats


def _value(groups: _Groups, metric: Metric) -> float:
    begin, end, errors, share = groups
    if metric.cumulative is not None:
        # Not a dot product, whose threads would compete with those that evaluate resamples.
        return float(np.sum(share * (metric.cumulative(end) - metric.cumulative(begin))))
    accepted = metric.accepted or 0
    last = int(np.searchsorted(end, accepted))  # the group of this rank, or the next one
    if last == end.size:
        return float(errors[-1]) / accepted if errors.size else 0.0
    rest = share[last] * (end[last] - max(accepted, begin[last]))
    return float(errors[last] - rest) / accepted
