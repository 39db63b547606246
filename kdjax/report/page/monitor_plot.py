"""The wealth of a monitor over time, as an SVG file or an HTML page."""

import datetime
import functools
import itertools
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kdjax.errors import InputError, suggestion
from kdjax.report import monitor_table
from kdjax.report.page import html, svg, tables
from kdjax.runtime import atomic_io

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".svg", ".html")
_WIDTH, _HEIGHT = 8.2, 4.2  # inches


def check_path(path: str) -> pathlib.Path:
    """Returns the path of a plot.

    Raises:
        InputError: for another suffix than those of `SUFFIXES`, or a folder that does not exist.
    """
    file = pathlib.Path(path)
    if file.suffix not in SUFFIXES:
        near = suggestion(file.suffix, SUFFIXES)
        raise InputError(f"--plot={path}: the name must end in .svg or .html{near}")
    if not file.parent.is_dir():
        raise InputError(f"--plot={path}: no folder {str(file.parent)!r}")
    return file


def write(
    path: pathlib.Path,
    history: Sequence[Sequence[Any]],
    report: Mapping[str, Any],
    alarms: Sequence[str],
) -> None:
    """Writes the plot, or a page with the plot and the table.

    Args:
        path: of `check_path`.
        history: `[example, time, log wealth of each test ...]`.
        report: of `kdjax.predict.monitoring.report`.
        alarms: a line for each alarm.

    Raises:
        InputError: if the file cannot be written.
    """
    title = "Wealth of each test over the images"
    paint = functools.partial(draw, history=history, report=report)
    figure = svg.render("monitor", title, paint, height=_HEIGHT, width=_WIDTH)
    if path.suffix == ".html":
        html.save(path, "monitor.html.jinja", _content(figure, report, alarms))
        return
    try:
        atomic_io.write_file(path, svg.standalone(str(figure)))
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be written: {error.strerror}") from error


def draw(figure: "Figure", *, history: Sequence[Sequence[Any]], report: Mapping[str, Any]) -> None:
    """Draws the logarithm of the wealths, their limit, and the first alarms.

    Args:
        figure: empty.
        history: `[example, time, log wealth of each test ...]`.
        report: of `kdjax.predict.monitoring.report`.
    """
    x, label, examples = axis(history)
    axes = figure.add_subplot(xlabel=label, ylabel="wealth, power of ten")
    for index, (name, test) in enumerate(report["tests"].items()):
        look = {**svg.style(index), "lw": 1.8}
        values = np.array([point[2 + index] for point in history]) / math.log(10)
        axes.plot(x, values, label=name, marker="o", markersize=3, markevery=[-1], **look)
        if alarm := test["alarm"]:
            at = x[min(int(np.searchsorted(examples, alarm["example"])), len(x) - 1)]
            height = alarm["log_wealth"] / math.log(10)
            look = {"color": look["color"], "marker": "D", "markerfacecolor": "none"}
            axes.plot([at], [height], ls="none", mew=1.8, markersize=8, **look)
    limit = math.log10(report["limit"])
    ink = svg.COLOURS["ink"]
    axes.axhline(limit, color=ink, lw=1.2, ls=":", label=f"alarm, {report['limit']:.4g}")
    figure.legend(loc="outside lower center", ncols=4)


def axis(history: Sequence[Sequence[Any]]) -> tuple[Sequence[Any], str, np.ndarray]:
    """Returns the positions of the points, the label of their axis, and the numbers of the images.

    Positions are dates if all times are dates of ISO 8601 in ascending order, and otherwise the
    numbers of the images.
    """
    examples = np.array([point[0] for point in history])
    try:
        dates = [datetime.datetime.fromisoformat(point[1]) for point in history]
        if all(a <= b for a, b in itertools.pairwise(dates)) and dates[0] < dates[-1]:
            return dates, "time", examples
    except (TypeError, ValueError):  # no time, other text, or dates with and without a time zone
        pass
    return examples.tolist(), "number of the image", examples


def _content(figure: Any, report: Mapping[str, Any], alarms: Sequence[str]) -> dict[str, Any]:
    rows = [list(cells) for cells in monitor_table.rows(report)]
    *notes, verdict = monitor_table.summary(report, [])
    table = tables.Table(monitor_table.title(report), monitor_table.COLUMNS, rows)
    return {
        "figure": figure,
        "verdict": verdict,
        "alarms": [re.sub(r"^(\w)", lambda match: match[1].upper(), line) for line in alarms],
        "table": table,
        "notes": notes,
        "versions": html.versions(),
    }
