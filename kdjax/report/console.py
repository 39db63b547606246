"""Tables of the results on the terminal, for a log or a text file."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kdjax import selective
from kdjax.evaluation import cost_table, selection
from kdjax.evaluation.certification import CHOICE, coverage_on_dev, seen_images_note
from kdjax.evaluation.predictions import SPLITS
from kdjax.report import certificates, classes, outcomes, sweep_table, teacher, terminal

# Keys of a score's metrics, with their column headings.
RANKING = {"aurc": "AURC", "e_aurc": "E-AURC", "augrc": "AUGRC"}
# Further columns for shifted inputs and other data sets if the run has a gate; the last one only
# for other data sets.
GATE_COLUMNS = ("gate passes %", "without gate %", "gate AUROC %")
GATE_NOTE = "without gate: share that the threshold alone would accept"


def show(results: Mapping[str, Any], title: str) -> None:
    """Prints accuracy, errors with and without abstention, metrics and thresholds of a run.

    Args:
        results: of `kdjax.evaluation.summary.summarize`, optionally with `teacher` and `per_class`.
        title: of the first table.
    """
    terminal.show(
        _accuracy(results, title),
        *terminal.notes(*teacher.sentences(results)),
        _abstention({"student": results}),
        *([_classes(results["per_class"])] if "per_class" in results else []),
        *(build(results) for build in (_selective_risk, _ranking, _thresholds, certificates.table)),
        *certificates.promised(results),
        *_collapse(results),
    )


def show_many(results_by_student: Mapping[str, Mapping[str, Any]], title: str) -> None:
    """Prints one line of test results for each of several students.

    Args:
        results_by_student: results as in `show`, by the name of the student.
        title: of the table.
    """
    columns = ("student", "dev AURC", "accuracy %", "score", "risk % at 90 %", "at 80 %", "AURC")
    table = terminal.table(title, *columns)
    for name, results in results_by_student.items():
        best = results["best_score"]
        values = results["scores"][best]
        risks = (
            terminal.percent(values["error_at_coverage"][coverage]) for coverage in ("90", "80")
        )
        areas = [f"{1000 * values[key]:.2f}" for key in ("dev_aurc", "aurc")]
        accuracy = terminal.percent(results["test"]["accuracy"])
        score = selective.display_name(best)
        table.add_row(name, areas[0], accuracy, score, *risks, areas[1])
    notes = (
        "score: the one with the lowest AURC on dev; AURC times 1,000",
        "risk: selective risk (error among accepted) at 90 % and 80 % coverage of test",
        f"choose a student by its AURC on dev. {CHOICE}",
        "comparison.html has certificates that hold for all students together",
        *filter(None, {seen_images_note(results) for results in results_by_student.values()}),
        *teacher.of_students(results_by_student.values()),
    )
    warnings = [
        f"{name}: {warning}"
        for name, results in results_by_student.items()
        for warning in results.get("per_class", {}).get("warnings", [])
    ]
    lines = classes.warning_lines(warnings)
    collapsed = (_collapse(values, name) for name, values in results_by_student.items())
    terminal.show(
        table,
        *terminal.notes(*notes),
        _abstention(results_by_student),
        *terminal.notes(*lines),
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
    terminal.show(
        *parts, *terminal.notes(*notes), _abstention({table["chosen"]: chosen}), *_collapse(chosen)
    )


def _sweep(title: str, rows: Sequence[Sequence[str]]) -> Table:
    table = terminal.table(title, "", *sweep_table.COLUMNS[: sweep_table.ON_TERMINAL])
    for cells in rows:
        table.add_row(*map(Text, cells[: 1 + sweep_table.ON_TERMINAL]))
    return table


def _collapse(results: Mapping[str, Any], name: str = "the student") -> list[Text]:
    """Returns the warning that a student has collapsed; empty if it has not."""
    return terminal.notes(f"warning: {name} {results['collapse']}") if "collapse" in results else []


def show_sizes(costs_by_student: Mapping[str, Mapping[str, Any] | None]) -> None:
    """Prints size and latency of students and of their teacher; nothing if none was measured.

    Args:
        costs_by_student: of `kdjax.evaluation.cost.read_cost`, by the name of the student.
    """
    networks = cost_table.networks_of(costs_by_student)
    if networks:
        table = terminal.table(cost_table.TITLE, *cost_table.COLUMNS)
        for cells in cost_table.rows(networks):
            table.add_row(*cells)
        machine = next(costs["machine"] for costs in costs_by_student.values() if costs)
        terminal.show(table, *terminal.notes(cost_table.note(machine)))


def show_shift(shifts: Mapping[str, Any], title: str) -> None:
    """Prints coverage and selective risk on shifted inputs, and acceptance of other data sets.

    Args:
        shifts: of `kdjax.evaluation.robustness.evaluate_shifts`.
        title: of the first table, such as the name of the run.
    """
    terminal.show(_shifts(shifts, title), *([_other_data(shifts["ood"])] if shifts["ood"] else []))


def _accuracy(results: Mapping[str, Any], title: str) -> Table:
    if (views := results.get("views", "none")) != "none":
        title += f" (logits averaged over views: {views})"
    table = terminal.table(title, "", "split", "examples", "accuracy %", "NLL", "ECE %")
    networks = {"student": results}
    if "teacher" in results:
        networks = {"teacher": results["teacher"], **networks}
    for name, network in networks.items():
        # A teacher that is given as logits may lack some splits.
        for split in filter(network.__contains__, SPLITS):
            values = network[split]
            table.add_row(
                name,
                split,
                f"{values['examples']:,}",
                terminal.percent(values["accuracy"]),
                f"{values['nll']:.4f}",
                terminal.percent(values["ece"]),
            )
    return table


def _abstention(results_by_student: Mapping[str, Mapping[str, Any]]) -> Group:
    """Returns the errors of each network with and without abstention, the best one in words."""
    first, *_ = results_by_student.values()
    table = terminal.table(
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
    return Group(table, *terminal.notes(*notes))


def _classes(rates: Mapping[str, Any]) -> Group:
    """Returns the worst classes and the warnings; `rates` is from `per_class`."""
    table = terminal.table(classes.title(rates), *classes.COLUMNS)
    for cells in classes.worst(rates):
        table.add_row(*map(Text, cells))
    return Group(table, *terminal.notes(*classes.warning_lines(rates["warnings"])))


def _selective_risk(results: Mapping[str, Any]) -> Group:
    scores = results["scores"]
    coverages = list(next(iter(scores.values()))["error_at_coverage"])
    table = terminal.table("Selective risk % on test at coverage %", "score", *coverages)
    for name, values in scores.items():
        risks = values["error_at_coverage"].values()
        table.add_row(_marked(name, results), *map(terminal.percent, risks))
    notes = (
        "coverage: share of predictions that are accepted, the most confident first; the model",
        "abstains on the rest. selective risk: error among accepted",
    )
    return Group(table, *map(Text, notes))


def _ranking(results: Mapping[str, Any]) -> Group:
    table = terminal.table(
        "Ranking on test (areas x 1000)", "score", *RANKING.values(), "AUROC %", "dev AURC"
    )
    for name, values in results["scores"].items():
        areas = (f"{1000 * values[key]:.2f}" for key in RANKING)
        auroc, dev_aurc = terminal.percent(values["auroc"]), f"{1000 * values['dev_aurc']:.2f}"
        table.add_row(_marked(name, results), *areas, auroc, dev_aurc)
    return Group(table, Text("AURC: area under the risk-coverage curve, lower is better"))


def _thresholds(results: Mapping[str, Any]) -> Group:
    name = results["best_score"]
    table = terminal.table(
        f"Thresholds of {selective.display_name(name)} chosen on dev (no guarantee), evaluated on "
        "test",
        "coverage % on dev",
        "threshold",
        "coverage % on test",
        "selective risk % on test",
    )
    for coverage, values in results["scores"][name]["thresholds"].items():
        table.add_row(
            coverage_on_dev(coverage, values),
            selective.shown_threshold(name, values["threshold"]),
            terminal.percent(values["test_coverage"]),
            terminal.percent(values["test_error"]),
        )
    areas = [values["dev_aurc"] for values in results["scores"].values()]
    tied = areas.count(results["scores"][name]["dev_aurc"]) > 1
    first = "; of equal ones the first" if tied else ""
    return Group(table, Text(f"* the score with the lowest AURC on dev{first}"))


def _gated(values: Mapping[str, Any], key: str) -> list[str]:
    """Returns the cells of `GATE_COLUMNS`: none of a run without a gate."""
    if "passed" not in values:
        return []
    return [terminal.percent(values["passed"]), terminal.percent(values["without_gate"][key])]


def _shifts(shifts: Mapping[str, Any], title: str) -> Group:
    has_gate = "gate" in shifts
    table = terminal.table(
        f"{title}: {shifts['examples']:,} test images, accepted if "
        f"{selective.display_name(shifts['score'])} >= "
        f"{selective.shown_threshold(shifts['score'], shifts['threshold'])}"
        f"{' and the gate passes' if has_gate else ''}",
        "shift",
        "severity",
        "coverage %",
        "selective risk %",
        "accuracy %",
        "mean confidence",
        *GATE_COLUMNS[: 2 * has_gate],
    )
    rows = {"none": [shifts["clean"]], **shifts["shifts"]}
    for name, severities in rows.items():
        for values in severities:
            shares = (terminal.percent(values[key]) for key in ("coverage", "error", "accuracy"))
            severity, confidence = values.get("severity", "-"), f"{values['confidence']:.4f}"
            gated = _gated(values, "coverage")
            table.add_row(name, str(severity), *shares, confidence, *gated)
    notes = (
        "coverage: share of accepted images; selective risk: error among accepted",
        f"threshold from: {shifts['threshold_from']}",
        *([GATE_NOTE] if has_gate else []),
    )
    return Group(table, *map(Text, notes))


def _other_data(ood: Mapping[str, Any]) -> Group:
    has_gate = any("passed" in values for values in ood.values())
    table = terminal.table(
        "Other data sets, all of which should be abstained on",
        "data set",
        "images",
        "accepted %",
        "AUROC %",
        *(GATE_COLUMNS if has_gate else ()),
        "conversion",
    )
    for name, values in ood.items():
        shares = [terminal.percent(values[key]) for key in ("accepted", "auroc")]
        gated = _gated(values, "accepted")
        gated += [terminal.percent(values["gate_auroc"])] if gated else []
        conversion = values["fitted"] or "none"
        table.add_row(name, f"{values['examples']:,}", *shares, *gated, conversion)
    note = "AUROC: of separating the run's test images from these images by confidence"
    return Group(table, Text(note), *([Text(GATE_NOTE)] if has_gate else []))


def _marked(name: str, results: Mapping[str, Any]) -> str:
    return selective.display_name(name) + (" *" if name == results["best_score"] else "")
