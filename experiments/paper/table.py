"""The results of the comparison from its files: metrics, and paired differences of networks."""

import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtri, stdtrit

from experiments.paper import collect, plan
from experiments.paper.collect import Ranking
from kdjax import selective
from kdjax.objectives import METHODS
from kdjax.selective import ranking

COVERAGES = (0.95, 0.9, 0.8, 0.7)
ACCURACY, AURC = "accuracy %", "AURC x 1000"
ERRORS = {coverage: f"error % at {100 * coverage:g} % coverage" for coverage in COVERAGES}
METRICS = (ACCURACY, AURC, *ERRORS.values())
RESAMPLES = 2000
# In the name of a row: its payoff was chosen on dev.
PAYOFF_BY_DEV = "payoff by dev"
LEVEL = 0.95

Floats = np.ndarray


class Row(NamedTuple):
    """What a line of a table describes.

    Attributes:
        method: of `objectives.METHODS`, with `PAYOFF_BY_DEV` if dev chose its payoff, or the name
            of a training in another library.
        teacher: one of `plan.TEACHERS`; empty for a method without a teacher.
        views: deployment views.
        score: one of `collect.CHOSEN` and `collect.RESERVATION`.
    """

    method: str
    teacher: str
    views: str
    score: str

    @property
    def base(self) -> "Row":
        """The row of the same method with the payoff of the config."""
        return self._replace(method=self.method.removesuffix(f", {PAYOFF_BY_DEV}"))

    @property
    def by_dev(self) -> "Row":
        """The row of the same method with the payoff that dev chose."""
        return self._replace(method=f"{self.base.method}, {PAYOFF_BY_DEV}")

    @property
    def is_ours(self) -> bool:
        """Whether it is a network of kdjax."""
        return self.base.method in METHODS


# Rankings of a row by (split, seed).
Cells = Mapping[tuple[str, int], Ranking]


class Difference(NamedTuple):
    """A metric of a network minus that of another one, on dev or test.

    Attributes:
        per_seed: for each seed that both have.
        low: lower end of the interval of the mean over images and seeds.
        high: upper end.
    """

    per_seed: Sequence[float]
    low: float
    high: float

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return float(np.mean(self.per_seed))

    @property
    def sign(self) -> int:
        """Side of 0 on which the interval is, or 0; one seed decides nothing."""
        several = len(self.per_seed) > 1
        return several * (int(self.low > 0) - int(self.high < 0))


class Group:
    """The results of a data set in a setting.

    Attributes:
        data: one of `plan.DATA`.
        setting: one of `plan.SETTINGS`.
        rows: rankings of each row.
        records: the JSON files of jobs with the payoff of the config, and of other libraries.
        payoffs: rankings of the rows from which dev chose a payoff, by payoff.
        payoff_records: the JSON files of jobs with other payoffs.
    """

    def __init__(
        self,
        data: str,
        setting: str,
        rows: Mapping[Row, Cells],
        records: Sequence[Mapping[str, Any]] = (),
        payoffs: Mapping[Row, Mapping[float, Cells]] = {},
        payoff_records: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.data, self.setting, self.rows, self.records = data, setting, rows, records
        self.payoffs, self.payoff_records = payoffs, payoff_records
        self._values: dict[tuple[Row, str], dict[int, dict[str, float]]] = {}
        self._resampled: dict[tuple[Row, str, int], dict[str, Floats]] = {}

    @property
    def title(self) -> str:
        """Data set and setting, as headings name them."""
        return f"{self.data}, setting {self.setting}"

    @property
    def seeds(self) -> list[int]:
        """Seeds of all networks."""
        return sorted({seed for cells in self.rows.values() for _, seed in cells})

    def judged(self, score: str = collect.CHOSEN) -> list[Row]:
        """Returns the rows of the deployed networks, with mirror views, by a score."""
        return [row for row in sorted(self.rows) if (row.views, row.score) == ("flip", score)]

    def distinct(self, row: Row) -> Row:
        """Returns the row under which the networks of a row are compared.

        It is that with the payoff of the config if dev chose this payoff for each seed.
        """
        cells = self.rows.get(row.base, {})
        same = all(cells.get(cell) is ranked for cell, ranked in self.rows[row].items())
        return row.base if same else row

    def values(
        self, row: Row, split: str, seeds: Sequence[int] | None = None
    ) -> dict[str, list[float]]:
        """Returns the values of each metric on a split, one for each seed, or some seeds."""
        if (row, split) not in self._values:
            cells = ((s, one) for (name, s), one in self.rows[row].items() if name == split)
            self._values[row, split] = {seed: metrics(one) for seed, one in cells}
        values = self._values[row, split]
        chosen = sorted(values) if seeds is None else seeds
        return {metric: [values[seed][metric] for seed in chosen] for metric in METRICS}

    def mean(self, row: Row, split: str, metric: str) -> float:
        """Returns the mean of a metric over seeds."""
        return float(np.mean(self.values(row, split)[metric]))

    def complete(self, rows: Iterable[Row]) -> list[Row]:
        """Returns the rows with the most seeds: means over other seeds are not compared."""
        seeds = {row: len({seed for _, seed in self.rows[row]}) for row in rows}
        return [row for row, count in seeds.items() if count == max(seeds.values())]

    def best(self, rows: Iterable[Row], split: str, metric: str) -> Row:
        """Returns the row with the best mean of a metric, of those with the most seeds."""
        sign = -1 if metric == ACCURACY else 1
        return min(self.complete(rows), key=lambda row: sign * self.mean(row, split, metric))

    def reference(self, row: Row, method: str) -> Row | None:
        """Returns the row of a method with which another row is compared; None without one.

        It has the same teacher if both have one, and the in-sample teacher if only it has one.
        """
        candidates = [
            other for other in self.judged() if other.method == method and comparable(row, other)
        ]
        return candidates[0] if candidates and candidates[0] != row else None

    def common_seeds(self, row: Row, other: Row, split: str = "test") -> list[int]:
        """Returns the seeds with which both rows were trained."""
        seeds = ({seed for name, seed in self.rows[each] if name == split} for each in (row, other))
        return sorted(set.intersection(*seeds))

    def differences(self, row: Row, other: Row, split: str = "test") -> dict[str, Difference]:
        """Returns the paired differences of two rows on a split; empty if they share no seed.

        The interval is that of `crossed_interval`, with the same images for both networks and all
        seeds.

        Args:
            row: a row of the group.
            other: the row that is subtracted.
            split: dev or test.
        """
        return {
            metric: Difference(per_seed, *crossed_interval(per_seed, resampled))
            for metric, (per_seed, resampled) in self.paired(row, other, split).items()
        }

    def paired(
        self, row: Row, other: Row, split: str = "test"
    ) -> dict[str, tuple[list[float], Floats]]:
        """Returns the differences of two rows in each metric; empty if they share no seed.

        Args:
            row: a row of the group.
            other: the row that is subtracted.
            split: dev or test.

        Returns:
            For each metric that of each seed, [s], and that on each resample of images, [s, r].
        """
        seeds = self.common_seeds(row, other, split)
        if not seeds:
            return {}
        ours, theirs = (self.values(each, split, seeds) for each in (row, other))
        self._resample([(each, split, seed) for each in (row, other) for seed in seeds])
        by_metric = {}
        for name in METRICS:
            per_seed = [a - b for a, b in zip(ours[name], theirs[name], strict=True)]
            drawn = (
                np.array([self._resampled[each, split, seed][name] for seed in seeds])
                for each in (row, other)
            )
            by_metric[name] = per_seed, np.subtract(*drawn)
        return by_metric

    def _resample(self, keys: Iterable[tuple[Row, str, int]]) -> None:
        """Computes the metrics of the resamples of rankings, of each [r], if they are not known.

        Args:
            keys: row, split and seed of each ranking.
        """
        new = [key for key in keys if key not in self._resampled]
        rankings = [self.rows[row][split, seed] for row, split, seed in new]
        draws = [_draws(len(ranked.correct)) for ranked in rankings]
        with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            computed = pool.map(resampled_metrics, rankings, draws)
            self._resampled.update(zip(new, computed, strict=True))


def comparable(row: Row, other: Row) -> bool:
    """Returns whether two networks have the same teacher, or one of them has none."""
    return not row.teacher or not other.teacher or row.teacher == other.teacher


def payoffs_comparable(row: Row, other: Row) -> bool:
    """Returns whether dev chose the payoffs of both networks or of none, or one has no payoff."""
    having = [each for each in (row, other) if each.is_ours and plan.has_payoff(each.base.method)]
    return len({each == each.by_dev for each in having}) <= 1


def metrics(ranked: Ranking) -> dict[str, float]:
    """Returns `METRICS` of a ranking."""
    confidence = ranked.rank.astype(np.float64)
    errors = selective.error_at_coverage(confidence, ranked.correct, COVERAGES)
    return {
        ACCURACY: 100 * float(ranked.correct.mean()),
        AURC: 1000 * selective.aurc(confidence, ranked.correct),
        **{
            name: 100 * float(error)
            for name, error in zip(ERRORS.values(), np.asarray(errors), strict=True)
        },
    }


def resampled_metrics(ranked: Ranking, draws: np.ndarray) -> dict[str, Floats]:
    """Returns `METRICS` of resamples, of each [r]; tied images keep the order of the file.

    Args:
        ranked: n images.
        draws: int [r, n], how often each image is drawn; n of them in each resample.
    """
    total = len(ranked.correct)
    order = np.argsort(-ranked.rank.astype(np.int64), kind="stable")
    wrong = np.flatnonzero(~ranked.correct[order])
    counts = np.take(draws, order, axis=1)
    # An image that is drawn c times has the ranks first+1..last, with last = first + c.
    last = np.cumsum(counts, axis=1, dtype=np.int32)[:, wrong]
    first = last - counts[:, wrong]
    sums = np.concatenate(([0.0], np.cumsum(ranking.aurc_weights(total))))

    least = first.min(axis=0)  # not decreasing, as `first` in each resample

    def errors(most: int) -> Floats:
        # The wrong images after these have ranks above `most` in all resamples.
        stop = np.searchsorted(least, most)
        ends, starts = np.minimum(last[:, :stop], most), np.minimum(first[:, :stop], most)
        return np.sum(ends - starts, axis=1) / most

    area = 1000 * np.sum(sums[last] - sums[first], 1)
    values = {ACCURACY: 100 * (1 - errors(total)), AURC: area}
    for coverage, name in ERRORS.items():
        values[name] = 100 * errors(ranking.count_at(coverage, total))
    return values


@functools.cache
def _draws(total: int) -> np.ndarray:
    """Returns how often each of `total` images is drawn in each resample, uint8 [r, n]."""
    rng = np.random.default_rng(0)
    # Bytes, for speed; that an image is drawn more than 255 times does not occur.
    return rng.multinomial(total, np.full(total, 1 / total), RESAMPLES).astype(np.uint8)


class Parts(NamedTuple):
    """Parts of the variance of a difference between two methods, as measured.

    Attributes:
        common: c, of the images, alike in all seeds.
        single: w, of the images, in each seed apart.
        over_seeds: v, variance over the seeds on the same images: it estimates w and what the seeds
            do on all images.
    """

    common: float
    single: float
    over_seeds: float


def variance_parts(per_seed: Sequence[float], resampled: Floats) -> Parts:
    """Returns the parts of the variance of a difference; of one seed all of it is `single`.

    Over resamples of images, c is the covariance of the differences of two seeds, mean over pairs
    and at least 0, and c + w is their variance, mean over seeds.

    Args:
        per_seed: the difference of each seed, [s].
        resampled: of each seed on each of r resamples of images, [s, r].
    """
    count = len(per_seed)
    covariance = np.atleast_2d(np.cov(resampled))
    variance = float(np.trace(covariance)) / count
    if count == 1:
        return Parts(0.0, variance, 0.0)
    pairs = float(covariance.sum()) - float(np.trace(covariance))
    common = max(pairs / (count * (count - 1)), 0.0)
    return Parts(common, variance - common, float(np.var(per_seed, ddof=1)))


def crossed_interval(per_seed: Sequence[float], resampled: Floats) -> tuple[float, float]:
    """Returns the 95 % interval of the mean difference over new images and new seeds.

    D +- t_nu sqrt(V), V = c + max(v, w) / s, nu = (s - 1) (V s / v)^2,

    with D the mean over s seeds, c, w and v of `variance_parts`, and the normal quantile z for t_nu
    if v is 0. From one seed it is over images only: D +- z sqrt(w).

    Args:
        per_seed: the difference of each seed, [s].
        resampled: of each seed on each of r resamples of images, [s, r].

    Source: c + v / s is the variance of Obuchowski and Rockette, Communications in Statistics -
    Simulation and Computation 24 (1995), with readers instead of seeds; nu: Hillis, Statistics in
    Medicine 26 (2007). At least w in the place of v is ours: v has only s - 1 degrees of freedom.
    """
    count, parts = len(per_seed), variance_parts(per_seed, resampled)
    variance = parts.common + max(parts.over_seeds, parts.single) / count
    share = parts.over_seeds / count / variance if variance else 0.0
    quantile = (1 + LEVEL) / 2
    t = stdtrit((count - 1) / share**2, quantile) if share else ndtri(quantile)
    mean, width = float(np.mean(per_seed)), float(t * np.sqrt(variance))
    return mean - width, mean + width
