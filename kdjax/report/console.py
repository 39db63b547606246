"""Tables of the results on the terminal, for a log or a text file."""

import textwrap
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from kdjax.evaluation.certification import CERTIFIERS, CHOICE, LTT

MIN_WIDTH = 100  # characters; below that rich would truncate columns
# Keys of a score's metrics, with their column headings.
RANKING = {"aurc": "AURC", "e_aurc": "E-AURC", "augrc": "AUGRC"}


def show(results: Mapping[str, Any], title: str) -> None:
    """Prints accuracy, selective risk, ranking metrics and thresholds of a run.

    Args:
        results: of `kdjax.evaluation.summary.summarize`, optionally with `teacher`.
        title: of the first table.
    """
    _print(
        _accuracy(results, title),
        *(build(results) for build in (_selective_risk, _ranking, _thresholds, _certificates)),
    )


def show_many(results_by_student: Mapping[str, Mapping[str, Any]], title: str) -> None:
    """Prints one line of test results for each of several students.

    Args:
        results_by_student: results as in `show`, by the name of the student.
        title: of the table.
    """
    columns = ("student", "dev AURC", "accuracy %", "score", "risk % at 90 %", "at 80 %", "AURC")
    table = _table(title, *columns)
    for name, results in results_by_student.items():
        best = results["best_score"]
        values = results["scores"][best]
        risks = (_percent(values["error_at_coverage"][coverage]) for coverage in ("90", "80"))
        areas = [f"{1000 * values[key]:.2f}" for key in ("dev_aurc", "aurc")]
        accuracy = _percent(results["test"]["accuracy"])
        table.add_row(name, areas[0], accuracy, best, *risks, areas[1])
    notes = (
        "score: the one with the lowest AURC on dev; AURC times 1,000",
        "risk: selective risk (error among accepted) at 90 % and 80 % coverage of test",
        f"choose a student by its AURC on dev. {CHOICE}",
        "comparison.html has certificates that hold for all students together",
    )
    _print(table, *(Text(line) for note in notes for line in textwrap.wrap(note, MIN_WIDTH - 10)))


def show_shift(shifts: Mapping[str, Any], title: str) -> None:
    """Prints coverage and selective risk on shifted inputs, and acceptance of other data sets.

    Args:
        shifts: of `kdjax.evaluation.robustness.evaluate_shifts`.
        title: of the first table, such as the name of the run.
    """
    _print(_shifts(shifts, title), *([_other_data(shifts["ood"])] if shifts["ood"] else []))


def _print(*parts: RenderableType) -> None:
    console = Console(soft_wrap=True)
    console.width = max(console.width, MIN_WIDTH)
    for part in parts:
        console.print(part)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    return table


def _accuracy(results: Mapping[str, Any], title: str) -> Table:
    table = _table(title, "", "split", "examples", "accuracy %", "NLL", "ECE %")
    networks = {"student": results}
    if "teacher" in results:
        networks = {"teacher": results["teacher"], **networks}
    for name, network in networks.items():
        for split in ("dev", "calibration", "test"):
            values = network[split]
            table.add_row(
                name,
                split,
                f"{values['examples']:,}",
                _percent(values["accuracy"]),
                f"{values['nll']:.4f}",
                _percent(values["ece"]),
            )
    return table


def _selective_risk(results: Mapping[str, Any]) -> Group:
    scores = results["scores"]
    coverages = list(next(iter(scores.values()))["error_at_coverage"])
    table = _table("Selective risk % on test at coverage %", "score", *coverages)
    for name, values in scores.items():
        risks = values["error_at_coverage"].values()
        table.add_row(_marked(name, results), *map(_percent, risks))
    notes = (
        "coverage: share of predictions that are accepted, the most confident first; the model",
        "abstains on the rest. selective risk: error among accepted",
    )
    return Group(table, *map(Text, notes))


def _ranking(results: Mapping[str, Any]) -> Group:
    table = _table(
        "Ranking on test (areas x 1000)", "score", *RANKING.values(), "AUROC %", "dev AURC"
    )
    for name, values in results["scores"].items():
        areas = (f"{1000 * values[key]:.2f}" for key in RANKING)
        auroc, dev_aurc = _percent(values["auroc"]), f"{1000 * values['dev_aurc']:.2f}"
        table.add_row(_marked(name, results), *areas, auroc, dev_aurc)
    return Group(table, Text("AURC: area under the risk-coverage curve, lower is better"))


def _thresholds(results: Mapping[str, Any]) -> Group:
    name = results["best_score"]
    table = _table(
        f"Thresholds of {name} chosen on dev (no guarantee), evaluated on test",
        "coverage % on dev",
        "threshold",
        "coverage % on test",
        "selective risk % on test",
    )
    for coverage, values in results["scores"][name]["thresholds"].items():
        table.add_row(
            coverage,
            f"{values['threshold']:.6g}",
            _percent(values["test_coverage"]),
            _percent(values["test_error"]),
        )
    return Group(table, Text("* the score with the lowest AURC on dev"))


def _certificates(results: Mapping[str, Any]) -> Group:
    guarantee = results["guarantee"]
    table = _table(
        f"Thresholds of {results['best_score']} certified on the calibration split "
        f"({guarantee['examples']:,} examples)",
        "certified risk %",
        "certified by",
        "threshold",
        "coverage %",
        "test coverage %",
        "test risk %",
    )
    for entry in guarantee["certificates"]:
        for name in CERTIFIERS:
            values = entry[name]
            threshold = values["threshold"]
            table.add_row(
                f"{100 * entry['risk']:g}{' *' if entry['risk'] == guarantee['risk'] else ''}",
                name,
                "none" if threshold is None else f"{threshold:.6g}",
                _percent(values["coverage"]),
                _percent(values["test_coverage"]),
                _percent(values["test_error"]),
            )
    notes = [
        f"with probability {100 * (1 - guarantee['delta']):g} % over calibration splits, the "
        "selective risk on new data is at most",
        "the certified risk; each line holds on its own, not all of them together",
        "* the requested risk",
        *textwrap.wrap(CHOICE, MIN_WIDTH - 10),
    ]
    if together := simultaneous_coverage(guarantee):
        values = ", ".join(f"{100 * risk:g}: {_percent(value)}" for risk, value in together.items())
        notes += [
            f"with --delta={guarantee['simultaneous']['delta']:.3g} the certificates of learn_then_"
            f"test {_scope(guarantee)} hold together;",
            f"coverage % by certified risk %: {values}",
        ]
    return Group(table, *map(Text, notes))


def simultaneous_coverage(guarantee: Mapping[str, Any]) -> dict[float, float]:
    """Returns the coverage by risk of the certificates that hold together, see `certify`.

    Empty for results of a version that did not compute them.
    """
    simultaneous = guarantee.get("simultaneous", {"certificates": []})
    return {entry["risk"]: entry[LTT]["coverage"] for entry in simultaneous["certificates"]}


def _scope(guarantee: Mapping[str, Any]) -> str:
    """Returns which certificates hold together."""
    runs = guarantee["runs"]
    students = f" and of all {runs} students" if runs > 1 else ""
    return f"at all these risks{students}"


def _shifts(shifts: Mapping[str, Any], title: str) -> Group:
    table = _table(
        f"{title}: {shifts['examples']:,} test images, accepted if {shifts['score']} >= "
        f"{shifts['threshold']:.6g}",
        "shift",
        "severity",
        "coverage %",
        "selective risk %",
        "accuracy %",
        "mean confidence",
    )
    rows = {"none": [shifts["clean"]], **shifts["shifts"]}
    for name, severities in rows.items():
        for values in severities:
            shares = (_percent(values[key]) for key in ("coverage", "error", "accuracy"))
            severity, confidence = values.get("severity", "-"), f"{values['confidence']:.4f}"
            table.add_row(name, str(severity), *shares, confidence)
    notes = (
        "coverage: share of accepted images; selective risk: error among accepted",
        f"threshold from: {shifts['threshold_from']}",
    )
    return Group(table, *map(Text, notes))


def _other_data(ood: Mapping[str, Any]) -> Group:
    table = _table(
        "Other data sets, all of which should be abstained on",
        "data set",
        "images",
        "accepted %",
        "AUROC %",
        "conversion",
    )
    for name, values in ood.items():
        shares = (_percent(values[key]) for key in ("accepted", "auroc"))
        table.add_row(name, f"{values['examples']:,}", *shares, values["fitted"] or "none")
    note = "AUROC: of separating the run's test images from these images by confidence"
    return Group(table, Text(note))


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def _marked(name: str, results: Mapping[str, Any]) -> str:
    return f"{name} *" if name == results["best_score"] else name
