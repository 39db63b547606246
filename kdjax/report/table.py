"""`results.json` as tables for a terminal, a log or a text file."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

RANKING = {"aurc": "AURC", "e_aurc": "E-AURC", "augrc": "AUGRC"}


def show(results: Mapping[str, Any], title: str) -> None:
    """Prints what a run has reached: accuracy, error at coverage, ranking and thresholds.

    Args:
        results: as `kdjax.report.results.summarize` returns them, perhaps with a `teacher`.
        title: of the first table.
    """
    # Wide enough for every column: a log wraps no better than it is told to.
    console = Console(soft_wrap=True)
    console.width = max(console.width, 100)
    console.print(_accuracy(results, title))
    for part in (_coverage, _ranking, _thresholds):
        console.print(part(results))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    return table


def _accuracy(results: Mapping[str, Any], title: str) -> Table:
    table = _table(title, "", "split", "examples", "accuracy %", "NLL", "ECE %")
    rows = {"student": results}
    if "teacher" in results:
        rows = {"teacher": results["teacher"], **rows}
    for name, found in rows.items():
        for split in ("dev", "test"):
            values = found[split]
            table.add_row(
                name,
                split,
                f"{values['examples']:,}",
                _percent(values["accuracy"]),
                f"{values['nll']:.4f}",
                _percent(values["ece"]),
            )
    return table


def _coverage(results: Mapping[str, Any]) -> Table:
    scores = results["scores"]
    coverages = list(next(iter(scores.values()))["error_at_coverage"])
    table = _table("Error % on test at coverage %", "score", *coverages)
    for name, values in scores.items():
        errors = values["error_at_coverage"].values()
        table.add_row(_marked(name, results), *map(_percent, errors))
    return table


def _ranking(results: Mapping[str, Any]) -> Table:
    table = _table(
        "Ranking on test (areas x 1000)", "score", *RANKING.values(), "AUROC %", "dev AURC"
    )
    for name, values in results["scores"].items():
        areas = (f"{1000 * values[key]:.2f}" for key in RANKING)
        auroc, dev = _percent(values["auroc"]), f"{1000 * values['dev_aurc']:.2f}"
        table.add_row(_marked(name, results), *areas, auroc, dev)
    return table


def _thresholds(results: Mapping[str, Any]) -> Group:
    name = results["best_score"]
    table = _table(
        f"Thresholds of {name} chosen on dev, and what they give on test",
        "coverage % on dev",
        "threshold",
        "coverage % on test",
        "error % on test",
    )
    for coverage, found in results["scores"][name]["thresholds"].items():
        table.add_row(
            coverage,
            f"{found['threshold']:.6g}",
            _percent(found["test_coverage"]),
            _percent(found["test_error"]),
        )
    return Group(table, Text("* the score with the lowest AURC on dev"))


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def _marked(name: str, results: Mapping[str, Any]) -> str:
    return f"{name} *" if name == results["best_score"] else name
