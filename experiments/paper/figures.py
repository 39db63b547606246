"""Figures of the comparison, SVG: risk-coverage curves, and a forest plot of differences."""

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.paper import tables
from experiments.paper.collect import Ranking
from experiments.paper.table import AURC, Group, Row
from kdjax import selective

SETTINGS: Any = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "paper",  # the same ids in every run
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e3e3",
}
COVERAGES = np.arange(10, 101) / 100
# Methods of the figure of curves; more would hide each other.
CURVES: Mapping[str, str] = {
    "ce": "#7f7f7f",
    "kd": "#1f5fbf",
    "ka": "#2a9d8f",
    "gambler": "#c2571a",
    "ka_gambler_sum": "#8e44ad",
    "reservation_distillation": "#b8860b",
}
FOREST = "#1f5fbf"
# Names of the figures of a data set and setting, with what they show of several seeds and of one.
CAPTIONS = {
    "curves": (
        "Selective risk on test: mean over seeds, bands from the least to the largest",
        "Selective risk on test, one seed",
    ),
    "differences": (
        "Differences in AURC from kd and gambler on test, 95 % intervals over images and seeds",
        "Differences in AURC from kd and gambler on test, one seed, 95 % intervals over images",
    ),
}


def write(groups: Iterable[Group], folder: pathlib.Path) -> list[pathlib.Path]:
    """Draws the figures of all data sets and settings.

    Args:
        groups: the results.
        folder: of the figures.

    Returns:
        The files that were written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with matplotlib.rc_context(SETTINGS):
        for group in groups:
            for name, figure in (("curves", curves(group)), ("differences", forest(group))):
                path = file_of(group, name, folder)
                figure.savefig(path, metadata={"Date": None})
                paths.append(path)
    return paths


def caption(group: Group, name: str) -> str:
    """Returns what a figure shows, `name` a key of `CAPTIONS`."""
    of_several, of_one = CAPTIONS[name]
    return of_several if len(group.seeds) > 1 else of_one


def file_of(group: Group, name: str, folder: pathlib.Path) -> pathlib.Path:
    """Returns the file of a figure, `name` a key of `CAPTIONS`."""
    return folder / f"{group.data}-{group.setting}-{name}.svg"


def risks(ranked: Ranking) -> np.ndarray:
    """Returns the selective risk in % at `COVERAGES`."""
    return 100 * np.asarray(
        selective.error_at_coverage(ranked.rank.astype(np.float64), ranked.correct, COVERAGES)
    )


def curves(group: Group) -> Figure:
    """Returns risk-coverage curves on test: mean over seeds, the band from least to largest.

    A teacher is out-of-fold where there is one; predictions are averaged over mirror images.
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for method, color in CURVES.items():
        rows = [row for row in group.judged() if row.method == method]
        if rows:
            cells = group.rows[rows[-1]].items()
            values = np.array([risks(one) for (split, _), one in cells if split == "test"])
            axes.plot(100 * COVERAGES, values.mean(axis=0), color=color, label=_label(rows[-1]))
            ends = values.min(axis=0), values.max(axis=0)
            axes.fill_between(100 * COVERAGES, *ends, color=color, alpha=0.15, lw=0)
    axes.set(xlabel="coverage, %", ylabel="selective risk on test, %", xlim=(10, 100))
    axes.set_ylim(bottom=0)
    if axes.lines:
        axes.legend(frameon=False)
    return figure


def forest(group: Group) -> Figure:
    """Returns the differences in AURC on test from each of `tables.REFERENCES`."""
    rows = group.judged()
    size = (9.6, 1.2 + 0.28 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(tables.REFERENCES), sharey=True)
    for axes, method in zip(panels, tables.REFERENCES, strict=True):
        _draw_forest(axes, group, method)
    panels[0].set_yticks(range(len(rows)), list(map(_label, rows)))
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    seeds = "and seeds (of one point: over images); line: mean; points: seeds"
    words = seeds if len(group.seeds) > 1 else "of one seed"
    figure.supxlabel(f"interval: 95 %, over images {words}", fontsize=9)
    return figure


def _draw_forest(axes: Axes, group: Group, method: str) -> None:
    """Draws the differences from a method; the line of a network without one stays empty."""
    places = {row: place for place, row in enumerate(group.judged())}
    axes.axvline(0, color="#333333", lw=1)
    for row, found in tables.differences_from(group, method):
        one, place = found[AURC], places[row]
        axes.plot([one.low, one.high], [place, place], color=FOREST, lw=2)
        axes.plot(one.mean, place, "|", color=FOREST, ms=9, mew=2)
        axes.plot(one.per_seed, [place] * len(one.per_seed), "o", color=FOREST, ms=3, alpha=0.6)
    axes.set_xlabel(f"AURC x 1000 minus that of {method}")


def _label(row: Row) -> str:
    return f"{row.method}, {tables.word(row.teacher)}" if row.teacher else row.method
