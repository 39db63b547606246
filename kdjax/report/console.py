"""Tables of the results on the terminal, for a log or a text file."""

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from kdjax import selective
from kdjax.evaluation import cost_table, selection
from kdjax.evaluation.certification import CERTIFIERS, CHOICE, LTT, external_teacher_note
from kdjax.report import classes, outcomes, sweep_table, teacher

MIN_WIDTH = 100  # characters; below that rich would truncate columns
# Keys of a score's metrics, with their column headings.
RANKING = {"aurc": "AURC", "e_aurc": "E-AURC", "augrc": "AUGRC"}


def show(results: Mapping[str, Any], title: str) -> None:
    """Prints accuracy, errors with and without abstention, metrics and thresholds of a run.

    Args:
        results: of `kdjax.evaluation.summary.summarize`, optionally with `teacher` and `per_class`.
        title: of the first table.
    """
    _print(
        _accuracy(results, title),
        *_notes(*teacher.sentences(results)),
        _abstention({"student": results}),
        *([_classes(results["per_class"])] if "per_class" in results else []),
        *(build(results) for build in (_selective_risk, _ranking, _thresholds, _certificates)),
        *_collapse(results),
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
        score = selective.display_name(best)
        table.add_row(name, areas[0], accuracy, score, *risks, areas[1])
    notes = (
        "score: the one with the lowest AURC on dev; AURC times 1,000",
        "risk: selective risk (error among accepted) at 90 % and 80 % coverage of test",
        f"choose a student by its AURC on dev. {CHOICE}",
        "comparison.html has certificates that hold for all students together",
        *filter(None, {external_teacher_note(results) for results in results_by_student.values()}),
        *teacher.of_students(results_by_student.values()),
    )
    warnings = [
        f"{name}: {warning}"
        for name, results in results_by_student.items()
        for warning in results.get("per_class", {}).get("warnings", [])
    ]
    lines = classes.warning_lines(warnings)
    collapsed = (_collapse(values, name) for name, values in results_by_student.items())
    _print(
        table,
        *_notes(*notes),
        _abstention(results_by_student),
        *_notes(*lines),
        *itertools.chain.from_iterable(collapsed),
    )


def show_sweep(table: Mapping[str, Any], chosen: Mapping[str, Any], title: str) -> None:
    """Prints the settings of a sweep, the seeds of the chosen one, and what it does on test.

    Args:
        table: content of `sweep.json`, see `kdjax.runs.sweeps.read`.
        chosen: results of the chosen setting, as in `show`.
        title: of the first table.
    """
    parts: list[RenderableType] = [_sweep(f"{title}: settings", sweep_table.settings(table))]
    notes = [sweep_table.choice(table), *sweep_table.COLUMN_NOTES, *selection.NOTES]
    if table["seeds"]:
        rows = sweep_table.seeds(table)
        parts.append(_sweep(f"{table['chosen']} with other seeds", rows))
        notes.append(sweep_table.SEED_NOTE)
    _print(*parts, *_notes(*notes), _abstention({table["chosen"]: chosen}), *_collapse(chosen))


def _sweep(title: str, rows: Sequence[Sequence[str]]) -> Table:
    table = _table(title, "", *sweep_table.COLUMNS[: sweep_table.ON_TERMINAL])
    for cells in rows:
        table.add_row(*map(Text, cells[: 1 + sweep_table.ON_TERMINAL]))
    return table


def _collapse(results: Mapping[str, Any], name: str = "the student") -> list[Text]:
    """Returns the warning that a student has collapsed; empty if it has not."""
    return _notes(f"warning: {name} {results['collapse']}") if "collapse" in results else []


def show_sizes(costs_by_student: Mapping[str, Mapping[str, Any] | None]) -> None:
    """Prints size and latency of students and of their teacher; nothing if none was measured.

    Args:
        costs_by_student: of `kdjax.evaluation.cost.read_cost`, by the name of the student.
    """
    networks = cost_table.networks_of(costs_by_student)
    if networks:
        table = _table(cost_table.TITLE, *cost_table.COLUMNS)
        for cells in cost_table.rows(networks):
            table.add_row(*cells)
        machine = next(costs["machine"] for costs in costs_by_student.values() if costs)
        _print(table, *_notes(cost_table.note(machine)))


def show_shift(shifts: Mapping[str, Any], title: str) -> None:
    """Prints coverage and selective risk on shifted inputs, and acceptance of other data sets.

    Args:
        shifts: of `kdjax.evaluation.robustness.evaluate_shifts`.
        title: of the first table, such as the name of the run.
    """
    _print(_shifts(shifts, title), *([_other_data(shifts["ood"])] if shifts["ood"] else []))


def _print(*parts: RenderableType) -> None:
    console = Console(soft_wrap=True)
    unlimited = console.options.update(max_width=1000)
    widths = (Measurement.get(console, unlimited, part).maximum for part in parts)
    console.width = max(console.width, MIN_WIDTH, *widths)
    for part in parts:
        console.print(part)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    return table


def _notes(*notes: str) -> list[Text]:
    """Returns lines of text, wrapped to the width of the tables, not before a percent sign."""
    joined = [note.replace(" %", "\N{NO-BREAK SPACE}%") for note in notes]
    lines = [line for note in joined for line in textwrap.wrap(note, MIN_WIDTH - 10)]
    return [Text(line.replace("\N{NO-BREAK SPACE}", " ")) for line in lines]


def _accuracy(results: Mapping[str, Any], title: str) -> Table:
    if (views := results.get("views", "none")) != "none":
        title += f" (logits averaged over views: {views})"
    table = _table(title, "", "split", "examples", "accuracy %", "NLL", "ECE %")
    networks = {"student": results}
    if "teacher" in results:
        networks = {"teacher": results["teacher"], **networks}
    for name, network in networks.items():
        # A teacher that is given as logits may lack some splits.
        for split in filter(network.__contains__, ("dev", "calibration", "test")):
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


def _abstention(results_by_student: Mapping[str, Mapping[str, Any]]) -> Group:
    """Returns the errors of each network with and without abstention, the best one in words."""
    first, *_ = results_by_student.values()
    table = _table(
        f"Errors on the {first['test']['examples']:,} test images, without and with abstention",
        "",
        "wrong, all accepted",
        "certified risk %",
        "accepted",
        "wrong among accepted",
    )
    for name, results in outcomes.networks(results_by_student).items():
        wrong, *with_abstention = outcomes.cells(results)
        risk = f"{100 * results['guarantee']['risk']:g}"
        table.add_row(Text(name), wrong, risk, *with_abstention)
    best = {split: outcomes.best(results_by_student, split) for split in ("dev", "test")}
    notes = [outcomes.sentence(best["dev"], results_by_student[best["dev"]])]
    if len(results_by_student) > 1:
        notes.append("lowest AURC " + "; ".join(f"on {split}: {best[split]}" for split in best))
    return Group(table, *_notes(*notes))


def _classes(rates: Mapping[str, Any]) -> Group:
    """Returns the worst classes and the warnings; `rates` is from `per_class`."""
    table = _table(classes.title(rates), *classes.COLUMNS)
    for cells in classes.worst(rates):
        table.add_row(*map(Text, cells))
    return Group(table, *_notes(*classes.warning_lines(rates["warnings"])))


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
        f"Thresholds of {selective.display_name(name)} chosen on dev (no guarantee), evaluated on "
        "test",
        "coverage % on dev",
        "threshold",
        "coverage % on test",
        "selective risk % on test",
    )
    for coverage, values in results["scores"][name]["thresholds"].items():
        table.add_row(
            coverage,
            selective.shown_threshold(name, values["threshold"]),
            _percent(values["test_coverage"]),
            _percent(values["test_error"]),
        )
    areas = [values["dev_aurc"] for values in results["scores"].values()]
    tied = areas.count(results["scores"][name]["dev_aurc"]) > 1
    first = "; of equal ones the first" if tied else ""
    return Group(table, Text(f"* the score with the lowest AURC on dev{first}"))


def _certificates(results: Mapping[str, Any]) -> Group:
    guarantee, score = results["guarantee"], results["best_score"]
    table = _table(
        f"Thresholds of {selective.display_name(score)} certified on the calibration split "
        f"({guarantee['examples']:,} examples)",
        "certified risk %",
        "certified by",
        "threshold",
        "coverage %",
        "test coverage %",
        "test risk %",
    )
    used = guarantee["risk"], LTT
    for entry in guarantee["certificates"]:
        for name in CERTIFIERS:
            values = entry[name]
            threshold = values["threshold"]
            table.add_row(
                f"{100 * entry['risk']:g}{' *' if used == (entry['risk'], name) else ''}",
                name,
                "none" if threshold is None else selective.shown_threshold(score, threshold),
                _percent(values["coverage"]),
                _percent(values["test_coverage"]),
                _percent(values["test_error"]),
            )
    notes = [
        f"with probability {100 * (1 - guarantee['delta']):g} % over calibration splits, the "
        "selective risk on new data is at most",
        "the certified risk; each line holds on its own, not all of them together",
        "* the requested risk, with the threshold that the run uses",
        *textwrap.wrap(CHOICE, MIN_WIDTH - 10),
        *textwrap.wrap(external_teacher_note(results), MIN_WIDTH - 10),
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
        f"{title}: {shifts['examples']:,} test images, accepted if "
        f"{selective.display_name(shifts['score'])} >= "
        f"{selective.shown_threshold(shifts['score'], shifts['threshold'])}",
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
    return selective.display_name(name) + (" *" if name == results["best_score"] else "")
