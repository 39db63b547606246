"""Metrics of the comparison from its result files, and paired differences of networks."""

import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.paper import collect
from experiments.paper.collect import Ranking
from kdjax import selective
from kdjax.errors import InputError

COVERAGES = (0.95, 0.9, 0.8, 0.7)
# Metrics of which differences are shown.
COMPARED = ("accuracy %", "AURC x 1000", "error % at 80 % coverage")
REFERENCES = ("kd", "gambler")
RESAMPLES = 1000
LEVEL = 0.95


class Row(NamedTuple):
    """What a line of a table describes.

    Attributes:
        method: of `objectives.METHODS`.
        teacher: one of `plan.TEACHERS`; empty for a method without a teacher.
        views: deployment views.
        score: one of `collect.CHOSEN` and `collect.RESERVATION`.
    """

    method: str
    teacher: str
    views: str
    score: str


# Rankings of a row by (split, seed).
Cells = Mapping[tuple[str, int], Ranking]
Group = tuple[str, str]


def read(out: pathlib.Path) -> tuple[dict[Group, dict[Row, Cells]], list[dict[str, Any]]]:
    """Returns the rankings of all result files by (data, setting), and their metadata.

    Raises:
        InputError: if there are none.
    """
    groups: dict[Group, dict[Row, Any]] = {}
    records = []
    for path in sorted(out.glob("*.json")):
        record = json.loads(path.read_text())
        records.append(record)
        job = record["job"]
        rows = groups.setdefault((job["data"], job["setting"]), {})
        with np.load(path.with_suffix(".npz")) as arrays:
            for key in (name for name in arrays if name.endswith("/rank")):
                method, views, score, split, _ = key.split("/")
                teacher = job["teacher"] if record["needs_teacher"][method] else ""
                one = Ranking(arrays[key], arrays[key.replace("/rank", "/correct")])
                row = Row(method, teacher, views, score)
                rows.setdefault(row, {})[split, job["seed"]] = one
    if not records:
        raise InputError(f"no result files in {str(out)!r}: python -m experiments.paper run")
    return groups, records


def references(rows: Iterable[Row]) -> list[Row]:
    """Returns the rows against which all others are compared."""
    return [
        row for row in judged(rows) if row.method in REFERENCES and row.teacher in ("", "in_sample")
    ]


def judged(rows: Iterable[Row]) -> list[Row]:
    """Returns the rows of the deployed networks: mirror views, the score that dev chose."""
    return [row for row in sorted(rows) if row.views == "flip" and row.score == collect.CHOSEN]


def metrics(one: Ranking) -> dict[str, float]:
    """Returns the metrics of a ranking, in the units of the table."""
    errors = selective.error_at_coverage(one.rank.astype(np.float64), one.correct, COVERAGES)
    return {
        "accuracy %": 100 * float(one.correct.mean()),
        "AURC x 1000": 1000 * selective.aurc(one.rank.astype(np.float64), one.correct),
        **{
            f"error % at {100 * coverage:g} % coverage": 100 * error
            for coverage, error in zip(COVERAGES, errors, strict=True)
        },
    }


def per_metric(cells: Cells, split: str) -> dict[str, list[float]]:
    """Returns the values of each metric on a split, one for each seed."""
    values = [metrics(one) for (name, _), one in sorted(cells.items()) if name == split]
    return {name: [value[name] for value in values] for name in values[0]}


def pairs(rows: Mapping[Row, Cells], row: Row, reference: Row) -> list[tuple[Ranking, Ranking]]:
    """Returns the rankings on test of two rows, for each seed that both have."""
    seeds = sorted(seed for split, seed in rows[row] if split == "test")
    return [
        (rows[row]["test", seed], rows[reference]["test", seed])
        for seed in seeds
        if ("test", seed) in rows[reference]
    ]


def differences(
    rankings: Sequence[tuple[Ranking, Ranking]], seed: int = 0
) -> dict[str, tuple[list[float], float, float]]:
    """Returns differences of paired rankings with intervals over the choice of test images.

    The images are resampled, the same ones for both networks and all seeds; the interval is that
    of the mean difference over seeds. It does not contain the spread over seeds.

    Args:
        rankings: (ranking, reference) of each seed, all on the same images.
        seed: of the resampling.

    Returns:
        Metric of `COMPARED` -> (difference of each seed, lower and upper end of the interval).
    """
    count = len(rankings[0][0].correct)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    estimates: dict[str, list[float]] = {name: [] for name in COMPARED}
    resampled = {name: np.zeros(RESAMPLES) for name in COMPARED}
    for one, other in rankings:
        exact, reference = metrics(one), metrics(other)
        drawn, drawn_reference = _resampled(one, draws), _resampled(other, draws)
        for name in COMPARED:
            estimates[name].append(exact[name] - reference[name])
            resampled[name] += (drawn[name] - drawn_reference[name]) / len(rankings)
    tail = 100 * (1 - LEVEL) / 2
    return {
        name: (estimates[name], *np.percentile(resampled[name], [tail, 100 - tail]))
        for name in COMPARED
    }


def _resampled(one: Ranking, draws: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the metrics of each resample [r]; tied images keep the order of the file.

    Args:
        one: ranking of n images.
        draws: int [r, n], how often each image is drawn.
    """
    order = np.argsort(-one.rank.astype(np.int64), kind="stable")
    counts = draws[:, order]
    accepted = np.cumsum(counts, axis=1)
    errors = np.cumsum(counts * ~one.correct[order], axis=1)
    risk = errors / np.maximum(accepted, 1)
    total = accepted[:, -1]
    at = np.argmax(accepted >= 0.8 * total[:, None], axis=1)
    return {
        "accuracy %": 100 * (1 - errors[:, -1] / total),
        "AURC x 1000": 1000 * np.sum(counts * risk, axis=1) / total,
        "error % at 80 % coverage": 100 * risk[np.arange(len(at)), at],
    }
