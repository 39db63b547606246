"""The section of a page on coverage and selective risk by class."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

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


# Of predicted classes, with the promise for each of them.
OWN_COLUMNS = (
    "threshold of the class",
    f"accepted with it,{formatting.SPACE}%",
    "wrong among these",
)


def section(run: Run) -> dict[str, Any]:
    """Returns the variables of the section: `certified`, `warnings`, `tables` and `complete`.

    It is computed from the predictions, so that older workdirs and other risks have it too.
    `complete` has the tables of all classes; it is empty if `tables` already shows all of them.
    """
    rates = per_class.per_class(run.results, run.test, run.classes)
    own = own_thresholds(run, rates["predicted"]["examples"])
    tables = [
        table(rates, grouping, own if grouping == "predicted" else None)
        for grouping in classes.LABELS
    ]
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


class OwnThresholds(NamedTuple):
    """The cells of `OWN_COLUMNS` by class, and a note on them."""

    cells: Sequence[Sequence[str]]
    note: str


def own_thresholds(run: Run, examples: Sequence[int]) -> OwnThresholds | None:
    """Returns the thresholds of the classes and what they do on test; None in older results.

    Args:
        run: a finished run.
        examples: number of test images by predicted class.
    """
    promise = (run.results.get("promises") or {}).get("by_class")
    if promise is None:
        return None
    test = promise["test"]
    columns = promise["threshold"], examples, test["accepted"], test["errors"]
    cells = [
        (
            _threshold(run, threshold),
            f"{100 * accepted / total:.2f}" if total else formatting.NONE,
            f"{errors:,}" if accepted else formatting.NONE,
        )
        for threshold, total, accepted, errors in zip(*columns, strict=True)
    ]
    risk, sure = (f"{100 * share:g}" for share in (promise["risk"], 1 - promise["delta"]))
    note = (
        f" Threshold of the class: certified, so that at most {risk}{formatting.SPACE}% of what is "
        f"accepted as the class is wrong, with {sure}{formatting.SPACE}% certainty for all classes "
        "together; none: this could not be shown."
    )
    return OwnThresholds(cells, note)


def table(rates: Mapping[str, Any], grouping: str, own: OwnThresholds | None = None) -> Table:
    """Returns the rates of every class, the lowest coverage first.

    Args:
        rates: of `per_class.at_operating_point`.
        grouping: `true` or `predicted`.
        own: of `own_thresholds`; None: without these columns.
    """
    label = classes.LABELS[grouping]
    level = f"{100 * rates['level']:g}{formatting.SPACE}%"
    coverage = [np.inf if share is None else share for share in rates[grouping]["coverage"]]
    order = np.argsort(coverage, kind="stable").tolist()
    rows = [[rates["classes"][index], *_cells(rates[grouping], index)] for index in order]
    note = f"Second lines: exact {level} intervals, each for one class."
    columns = [label, *COLUMNS]
    if own:
        columns += OWN_COLUMNS
        rows = [[*row, *own.cells[index]] for row, index in zip(rows, order, strict=True)]
        note += own.note
    return Table(f"Test images by {label}, the lowest coverage first", columns, rows, note)


def _cells(rates: Mapping[str, Any], index: int) -> list[str]:
    """Returns the cells of `COLUMNS`."""
    shares = (_with_interval(rates, name, index) for name in ("coverage", "risk"))
    return [*shares, *(f"{rates[name][index]:,}" for name in ("examples", "accepted", "errors"))]


def _with_interval(rates: Mapping[str, Any], name: str, index: int) -> str:
    if rates[name][index] is None:
        return formatting.NONE
    ends = (rates[f"{name}_{end}"][index] for end in ("low", "high"))
    return formatting.with_interval(Interval(rates[name][index], *ends))
