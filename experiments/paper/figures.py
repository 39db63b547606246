"""Figures of the comparison, SVG: risk-coverage curves and differences in AURC."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from experiments.paper import table
from experiments.paper.collect import Ranking
from experiments.paper.table import Cells, Row
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


def write(out: pathlib.Path, folder: pathlib.Path) -> list[pathlib.Path]:
    """Draws the figures of all result files.

    Args:
        out: folder of the result files.
        folder: of the figures.

    Returns:
        The files that were written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with matplotlib.rc_context(SETTINGS):
        for (data, setting), rows in table.read(out)[0].items():
            for name, draw in (("curves", curves), ("differences", differences)):
                path = folder / f"{data}-{setting}-{name}.svg"
                draw(rows).savefig(path, metadata={"Date": None})
                paths.append(path)
    return paths


def risks(one: Ranking) -> np.ndarray:
    """Returns the selective risk in % at `COVERAGES`."""
    return 100 * np.asarray(
        selective.error_at_coverage(one.rank.astype(np.float64), one.correct, COVERAGES)
    )


def curves(rows: Mapping[Row, Cells]) -> Figure:
    """Returns risk-coverage curves on test: mean over seeds, the band from least to largest.

    A teacher is out-of-fold where there is one; predictions are averaged over mirror images.
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for method, color in CURVES.items():
        chosen = [row for row in table.judged(rows) if row.method == method]
        if not chosen:
            continue
        values = np.array([risks(one) for one in _on_test(rows[chosen[-1]])])
        axes.plot(100 * COVERAGES, values.mean(axis=0), color=color, label=_label(chosen[-1]))
        axes.fill_between(
            100 * COVERAGES, values.min(axis=0), values.max(axis=0), color=color, alpha=0.15, lw=0
        )
    axes.set(xlabel="coverage, %", ylabel="selective risk on test, %", xlim=(10, 100))
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return figure


def differences(rows: Mapping[Row, Cells]) -> Figure:
    """Returns the differences in AURC on test from `kd` with the in-sample teacher."""
    (reference,) = (row for row in table.references(rows) if row.method == "kd")
    others = [row for row in table.judged(rows) if row != reference]
    estimates = [table.differences(table.pairs(rows, row, reference)) for row in others]
    figure = Figure(figsize=(6.4, 0.9 + 0.28 * len(others)), layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(0, color="#333333", lw=1)
    for place, (per_seed, low, high) in enumerate(each["AURC x 1000"] for each in estimates):
        axes.plot([low, high], [place, place], color="#1f5fbf", lw=2)
        axes.plot(per_seed, [place] * len(per_seed), "o", color="#1f5fbf", ms=3, alpha=0.6)
    axes.set_yticks(range(len(others)), list(map(_label, others)))
    axes.invert_yaxis()
    axes.set_xlabel("AURC x 1000 minus that of kd: 95 % interval over images, points: seeds")
    return figure


def _on_test(cells: Cells) -> Sequence[Ranking]:
    return [one for (split, _), one in sorted(cells.items()) if split == "test"]


def _label(row: Row) -> str:
    return f"{row.method}{f', {row.teacher}' if row.teacher else ''}".replace("_", " ")
