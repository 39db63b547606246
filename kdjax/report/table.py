"""`results.json` as tables for a terminal, a log or a text file."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from kdjax.report.guarantees import CERTIFIERS

RANKING = {"aurc": "AURC", "e_aurc": "E-AURC", "augrc": "AUGRC"}


def show(results: Mapping[str, Any], title: str) -> None:
    """Prints what a run has reached: accuracy, error at coverage, ranking and thresholds.

    Args:
        results: as `kdjax.report.results.summarize` returns them, perhaps with a `teacher`.
        title: of the first table.
    """
    _print(
        _accuracy(results, title),
        *(part(results) for part in (_coverage, _ranking, _thresholds, _certificates)),
    )


def show_many(found: Mapping[str, Mapping[str, Any]], title: str) -> None:
    """Prints what several students have reached on test, a line for each.

    Args:
        found: results as in `show`, by the name of the student.
        title: of the table.
    """
    columns = ("student", "accuracy %", "score", "error % at 90 %", "at 80 %", "AURC x 1000")
    table = _table(title, *columns)
    for name, results in found.items():
        chosen = results["best_score"]
        values = results["scores"][chosen]
        errors = (_percent(values["error_at_coverage"][coverage]) for coverage in ("90", "80"))
        accuracy, area = _percent(results["test"]["accuracy"]), f"{1000 * values['aurc']:.2f}"
        table.add_row(name, accuracy, chosen, *errors, area)
    _print(table, Text("score: the one with the lowest AURC on dev"))


def show_shift(found: Mapping[str, Any], title: str) -> None:
    """Prints what a run accepts of inputs that have shifted, and of other data.

    Args:
        found: as `kdjax.shifted.shifted` returns it.
        title: of the first table, such as the name of the run.
    """
    _print(_shifts(found, title), *([_others(found)] if found["ood"] else []))


def _print(*parts: RenderableType) -> None:
    # Wide enough for every column: a log wraps no better than it is told to.
    console = Console(soft_wrap=True)
    console.width = max(console.width, 100)
    for part in parts:
        console.print(part)


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
        for split in ("dev", "calibration", "test"):
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


def _certificates(results: Mapping[str, Any]) -> Group:
    found = results["guarantee"]
    sure = 100 * (1 - found["delta"])
    table = _table(
        f"Thresholds of {results['best_score']} certified on {found['examples']:,} calibration "
        f"examples, each with {sure:g} % certainty",
        "risk %",
        "certified by",
        "threshold",
        "coverage %",
        "test coverage %",
        "test error %",
    )
    for entry in found["certificates"]:
        for name in CERTIFIERS:
            values = entry[name]
            threshold = values["threshold"]
            table.add_row(
                f"{100 * entry['risk']:g}{' *' if entry['risk'] == found['risk'] else ''}",
                name,
                "none" if threshold is None else f"{threshold:.6g}",
                _percent(values["coverage"]),
                _percent(values["test_coverage"]),
                _percent(values["test_error"]),
            )
    return Group(table, Text("* the risk that was asked for"))


def _shifts(found: Mapping[str, Any], title: str) -> Group:
    table = _table(
        f"{title}: {found['examples']:,} test images, accepted where {found['score']} >= "
        f"{found['threshold']:.6g}",
        "shift",
        "severity",
        "coverage %",
        "error %",
        "accuracy %",
        "mean confidence",
    )
    rows = {"clean": [found["clean"]], **found["shifts"]}
    for name, severities in rows.items():
        for values in severities:
            shares = (_percent(values[key]) for key in ("coverage", "error", "accuracy"))
            severity, confidence = values.get("severity", "-"), f"{values['confidence']:.4f}"
            table.add_row(name, str(severity), *shares, confidence)
    notes = "error: among the accepted; accuracy: of all; threshold from: "
    return Group(table, Text(f"{notes}{found['threshold_from']}"))


def _others(found: Mapping[str, Any]) -> Table:
    table = _table(
        "Other data (AUROC: the run's test images told from them by confidence)",
        "data set",
        "images",
        "accepted %",
        "AUROC %",
        "fitted",
    )
    for name, values in found["ood"].items():
        shares = (_percent(values[key]) for key in ("accepted", "auroc"))
        table.add_row(name, f"{values['examples']:,}", *shares, values["fitted"] or "as they are")
    return table


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def _marked(name: str, results: Mapping[str, Any]) -> str:
    return f"{name} *" if name == results["best_score"] else name
