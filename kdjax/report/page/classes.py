"""The section of a page on coverage and selective risk by class."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kdjax import selective
from kdjax.evaluation import per_class
from kdjax.report import classes
from kdjax.report.page import formatting
from kdjax.report.page.runs import Run
from kdjax.report.page.tables import MAX_CLASSES, Table
from kdjax.selective import Interval

COLUMNS = (
    f"coverage,{formatting.SPACE}%",
    f"selective risk,{formatting.SPACE}%",
    "images",
    "accepted",
    "wrong among accepted",
)


def section(run: Run) -> dict[str, Any]:
    """Returns the variables of the section: `certified`, `warnings`, `tables` and `complete`.

    It is computed from the predictions, so that older workdirs and other risks have it too.
    `complete` has the tables of all classes; it is empty if `tables` already shows all of them.
    """
    rates = per_class.per_class(run.results, run.test, run.classes)
    tables = [table(rates, grouping) for grouping in classes.LABELS]
    shortened = len(run.classes) > MAX_CLASSES
    return {
        "certified": rates["risk"] is not None,
        "threshold": _threshold(run, rates["threshold"]),
        "source": rates["threshold_from"],
        "warnings": rates["warnings"],
        "tables": [each._replace(rows=each.rows[:MAX_CLASSES]) for each in tables],
        "complete": tables if shortened else [],
    }


def _threshold(run: Run, threshold: float | None) -> str:
    """Returns a threshold as text; None is infinite."""
    return "none" if threshold is None else selective.shown_threshold(run.best_score, threshold)


def table(rates: Mapping[str, Any], grouping: str) -> Table:
    """Returns the rates of every class, the lowest coverage first.

    Args:
        rates: of `per_class.at_operating_point`.
        grouping: `true` or `predicted`.
    """
    label = classes.LABELS[grouping]
    level = f"{100 * rates['level']:g}{formatting.SPACE}%"
    coverage = [np.inf if share is None else share for share in rates[grouping]["coverage"]]
    order = np.argsort(coverage, kind="stable").tolist()
    return Table(
        f"Test images by {label}, the lowest coverage first",
        [label, *COLUMNS],
        [[rates["classes"][index], *_cells(rates[grouping], index)] for index in order],
        f"Second lines: exact {level} intervals, each for one class.",
    )


def _cells(rates: Mapping[str, Any], index: int) -> list[str]:
    """Returns the cells of `COLUMNS`."""
    shares = (_with_interval(rates, name, index) for name in ("coverage", "risk"))
    return [*shares, *(f"{rates[name][index]:,}" for name in ("examples", "accepted", "errors"))]


def _with_interval(rates: Mapping[str, Any], name: str, index: int) -> str:
    if rates[name][index] is None:
        return formatting.NONE
    ends = (rates[f"{name}_{end}"][index] for end in ("low", "high"))
    return formatting.with_interval(Interval(rates[name][index], *ends))
