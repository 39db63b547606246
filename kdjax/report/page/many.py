"""The comparison of more runs than fit side by side: a row for each, and small multiples."""

import csv
import functools
import io
import statistics
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from flax.traverse_util import flatten_dict

from kdjax import selective
from kdjax.report.page import formatting, plots, seeds, svg, tables
from kdjax.report.page.runs import Run
from kdjax.selective import Curve, Interval

if TYPE_CHECKING:
    from markupsafe import Markup

FEW = 4  # runs that fit side by side
MAX_PANELS = 24  # small multiples
_CURVE_POINTS = 100
_PANEL_SIZE = 2.05, 1.7  # width and height in inches
# Differences of which the summary says how many are significant: factor 1 if higher is better.
_SUMMARIZED = {"accuracy": "accuracy", "aurc": "AURC"}


def panels(
    names: Sequence[str], runs: Sequence[Run]
) -> tuple[list[tuple[str, "Markup"]], list[str]]:
    """Returns a small risk-coverage figure for each group of runs, the best on dev first.

    Each has the curves of its runs, which differ in their seed only, and that of the first run.

    Args:
        names: of the runs.
        runs: the runs, judged by the softmax response.

    Returns:
        The name of each group with its figure, at most `MAX_PANELS`, and the names of the runs that
        the figures do not show completely.
    """
    numbers = seeds.group(runs)
    curves = {name: _curve(run) for name, run in zip(names, runs, strict=True)}
    top, outside = plots.robust_top(curves, {})
    groups = [
        [index for index, other in enumerate(numbers) if other == number]
        for number in range(max(numbers) + 1)
    ]
    groups.sort(key=lambda members: _mean_dev_aurc([runs[index] for index in members]))
    figures = []
    for number, members in enumerate(groups[:MAX_PANELS], start=1):
        label = seeds.label(names[members[0]], len(members))
        paint = functools.partial(
            plots.small_risk_coverage,
            curves=[_thinned(curves[names[index]]) for index in members],
            reference=_thinned(curves[names[0]]),
            top=top,
        )
        width, height = _PANEL_SIZE
        title = f"Risk-coverage curve of {label}"
        figures.append(
            (label, svg.render(f"risk-{number}", title, paint, height=height, width=width))
        )
    return figures, outside


def _curve(run: Run) -> Curve:
    return selective.risk_coverage_curve(run.response_ranking, run.correct)


def _thinned(curve: Curve) -> Curve:
    """Returns at most `_CURVE_POINTS` points of a curve, the last one included."""
    wanted = np.linspace(curve.coverage[0], curve.coverage[-1], _CURVE_POINTS)
    kept = np.unique(np.searchsorted(curve.coverage, wanted).clip(max=len(curve.coverage) - 1))
    return curve._replace(coverage=curve.coverage[kept], risk=curve.risk[kept])


def _mean_dev_aurc(runs: Sequence[Run]) -> float:
    return statistics.fmean(run.response_metrics["dev_aurc"] for run in runs)


def difference_table(
    names: Sequence[str],
    changes: Sequence[Mapping[str, Interval]],
    order: Sequence[int],
    label: Callable[[str], tuple[str, float]],
) -> tables.Table:
    """Returns the differences of the runs from the first, with a row for each run.

    Args:
        names: of the runs, the first included.
        changes: of `comparison.compare_with`, for each of the others.
        order: indices of the runs, in the order of the rows.
        label: name of a metric -> its heading and the factor of its unit.
    """
    columns = {metric: label(metric) for metric in changes[0]}
    rows = [
        [
            names[index],
            *(
                formatting.with_interval(changes[index - 1][metric], factor, sign="+")
                for metric, (_, factor) in columns.items()
            ),
        ]
        for index in order
        if index
    ]
    return tables.Table(
        f"Difference from {names[0]} with the softmax response; points are percentage points",
        ["run", *(heading for heading, _ in columns.values())],
        rows,
        "The lowest AURC on the development split first. Second lines: paired "
        f"95{formatting.SPACE}% intervals over the test images; too few: too few images count "
        "differently for the two runs. An interval without 0 is a significant difference; of many "
        "runs, one in twenty without a true difference has such an interval by chance. The "
        "variation between seeds is not included.",
    )


def sentences(names: Sequence[str], changes: Sequence[Mapping[str, Interval]]) -> list[str]:
    """Returns how many runs differ significantly from the first, for accuracy and AURC."""
    result = []
    for metric, heading in _SUMMARIZED.items():
        intervals = [change[metric] for change in changes]
        higher = sum(low > 0 for _, low, _ in intervals)
        lower = sum(high < 0 for _, _, high in intervals)
        result.append(
            f"Of the other {len(changes)} runs, {higher} have a significantly higher {heading} "
            f"than {names[0]} and {lower} a significantly lower one (paired 95{formatting.SPACE}% "
            "intervals)."
        )
    return result


def field_table(
    names: Sequence[str], runs: Sequence[Run], order: Sequence[int]
) -> tables.Table | None:
    """Returns the config fields in which the runs differ, with a row for each run; None without.

    Args:
        names: of the runs.
        runs: the runs.
        order: their indices, in the order of the rows.
    """
    fields = varying_fields(runs)
    if not fields:
        return None
    rows = [[names[index], *(values[index] for values in fields.values())] for index in order]
    return tables.Table("Fields of config.json in which the runs differ", ["run", *fields], rows)


def varying_fields(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Returns the value of each run by the name of each config field in which the runs differ."""
    configs = [flatten_dict(run.metadata["config"], sep=".") for run in runs]
    every = dict.fromkeys(name for config in configs for name in config)
    values = {
        name: [str(config.get(name, formatting.NONE)) for config in configs] for name in every
    }
    return {name: each for name, each in values.items() if len(set(each)) > 1}


def csv_link(names: Sequence[str], runs: Sequence[Run], order: Sequence[int]) -> str:
    """Returns the results as a data URL of a CSV file, with a line for each run.

    Args:
        names: of the runs.
        runs: the runs.
        order: their indices, in the order of the lines.
    """
    fields, groups = varying_fields(runs), seeds.group(runs)
    lines = [
        {
            "run": names[index].partition(": ")[2],
            "folder": str(runs[index].folder),
            "group": groups[index] + 1,
            **{field: values[index] for field, values in fields.items()},
            **_csv_metrics(runs[index]),
        }
        for index in order
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, lines[0])
    writer.writeheader()
    writer.writerows(lines)
    return f"data:text/csv;charset=utf-8,{urllib.parse.quote(text.getvalue())}"


def _csv_metrics(run: Run) -> dict[str, Any]:
    """Returns metrics with the softmax response, and at the end with the run's own score."""
    values, best = run.response_metrics, run.results["scores"][run.best_score]
    return {
        "dev_accuracy": run.results["dev"]["accuracy"] if "dev" in run.results else "",
        "dev_aurc": values["dev_aurc"],
        "test_accuracy": run.results["test"]["accuracy"],
        "test_aurc": values["aurc"],
        **{f"test_error_at_{c}": error for c, error in values["error_at_coverage"].items()},
        "best_score": run.best_score,
        "best_score_dev_aurc": best["dev_aurc"],
        "best_score_test_aurc": best["aurc"],
    }
