"""The tables of a page, as rows of text."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kdjax import selective
from kdjax.evaluation import certification, cost, cost_table, summary
from kdjax.report import certificates as alone
from kdjax.report import promises
from kdjax.report.console import RANKING
from kdjax.report.page import formatting
from kdjax.report.page.runs import Run
from kdjax.selective import Interval

MAX_CLASSES = 20  # of a confusion matrix, and rows of the table of teacher errors
# Keys of the metrics on shifted inputs, with their column headings.
SHIFT_COLUMNS = {
    "coverage": "coverage",
    "error": "selective risk",
    "accuracy": "accuracy on all images",
}


GATE_COLUMNS = ("passed by the gate", "coverage without the gate")


class Table(NamedTuple):
    """A table; the first cell of a row is its heading.

    Attributes:
        caption: describes the numbers and their unit.
        head: the column headings.
        rows: cells; a line break in a cell separates an estimate from its interval.
        note: below the table.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def size_and_speed(run: Run) -> Table | None:
    """Returns size and latency of the run's networks; None if they were not measured."""
    costs = cost.read_cost(run.folder)
    networks = cost_table.networks_of({"student": costs})
    if not costs or not networks:
        return None
    note = cost_table.note(costs["machine"])
    return Table(cost_table.TITLE, cost_table.COLUMNS, cost_table.rows(networks), note)


def selective_risks(run: Run, intervals: Mapping[str, Mapping[str, Interval]]) -> Table:
    """Returns the selective risk of each score by coverage.

    Args:
        run: a finished run.
        intervals: of some scores, see `figures.intervals`.
    """
    coverages = list(run.results["scores"][run.best_score]["error_at_coverage"])
    rows = []
    for name, values in run.results["scores"].items():
        cells = [formatting.cell(values["error_at_coverage"][coverage]) for coverage in coverages]
        for index, coverage in enumerate(coverages):
            if interval := intervals.get(name, {}).get(f"error_at_{float(coverage) / 100}"):
                cells[index] = formatting.with_interval(interval)
        rows.append([_marked(run, name), *cells])
    return Table(
        "Selective risk on test, in %, by coverage",
        ["score", *(f"{coverage}{formatting.SPACE}%" for coverage in coverages)],
        rows,
        "* the score with the lowest AURC on the development split; the run uses it. Second lines: "
        f"95{formatting.SPACE}% intervals over the test images.",
    )


def ranking(run: Run) -> Table:
    """Returns the ranking metrics of each score."""
    rows = [
        [
            _marked(run, name),
            *(f"{1000 * values[key]:.2f}" for key in RANKING),
            formatting.cell(values["auroc"]),
        ]
        for name, values in run.results["scores"].items()
    ]
    note = (
        "AURC: area under the risk-coverage curve. E-AURC: its excess over a perfect ranking. "
        "AUGRC: area under the curve of errors among accepted, as a share of all images. AUROC: "
        "probability that a correct prediction is more confident than a wrong one (higher is "
        f"better). MaxLogit-pNorm with p = {run.results['pnorm']:g}, chosen on the development "
        f"split.{_combination(run)}"
    )
    if run.correct.all() or not run.correct.any():
        outcome = "correct" if run.correct[0] else "wrong"
        note += f" AUROC is not defined: all predictions are {outcome}."
    return Table(
        "Ranking of correct above wrong predictions on test (areas times 1,000: lower is better)",
        ["score", *RANKING.values(), "AUROC, %"],
        rows,
        note,
    )


def _combination(run: Run) -> str:
    """Returns the fitted coefficients of `combination`; empty for results without it."""
    if not run.operating_point.combination:
        return ""
    bias, response, reservation = run.operating_point.combination
    terms = "".join(
        f" {'-' if value < 0 else '+'} {abs(value):.3g} {symbol}"
        for value, symbol in ((response, "s"), (reservation, "r"))
    )
    return (
        f" Combination: {bias:.3g}{terms}, the log-odds of being correct, with s and r the "
        "log-odds of softmax response and reservation, fitted on the development split."
    )


def thresholds(run: Run) -> Table:
    """Returns the thresholds of the best score that were chosen on dev, without a guarantee."""
    rows = [
        [
            f"{certification.coverage_on_dev(coverage, values)}{formatting.SPACE}%",
            selective.shown_threshold(run.best_score, values["threshold"]),
            formatting.cell(values["test_coverage"]),
            formatting.cell(values["test_error"]),
        ]
        for coverage, values in run.results["scores"][run.best_score]["thresholds"].items()
    ]
    return Table(
        f"Thresholds of {score(run)} chosen by their coverage on the development split, without a "
        "guarantee",
        ["coverage on dev", "threshold", "coverage on test, %", "selective risk on test, %"],
        rows,
    )


def certificates(run: Run) -> Table:
    """Returns the certified thresholds of a run that has a guarantee, with their test results.

    The risks that hold together; of results of an earlier version, each risk alone.
    """
    if promises.ladder(run.results) is not None:
        notes = ". ".join(note[0].upper() + note[1:] for note in promises.ladder_notes(run.results))
        risks = promises.ladder_rows(run.results)
        return Table(promises.ladder_title(run.results), promises.COLUMNS, risks, f"{notes}.")
    guarantee: Any = run.operating_point.guarantee
    together = alone.simultaneous_coverage(guarantee)
    rows = [
        [
            *_certificate(run, entry, name),
            formatting.cell(together.get(entry["risk"]) if name == certification.LTT else None),
        ]
        for entry in guarantee["certificates"]
        for name in certification.CERTIFIERS
    ]
    head = ["certified risk", "certified by", "threshold", "risk bound, %", "coverage, %"]
    return Table(
        f"Certified thresholds of {score(run)}, from {guarantee['examples']:,} calibration images",
        [*head, "coverage on test, %", "selective risk on test, %", "together: coverage, %"],
        rows,
        "* the requested risk, with the threshold that the run uses. Coverage: on the "
        "calibration split. Each risk bound holds with a probability of at least "
        f"{formatting.exact_percent(1 - guarantee['delta'])}. {certification.CHOICE}"
        f"{_together(guarantee)}",
    )


def _together(guarantee: Mapping[str, Any]) -> str:
    """Returns what the last column of `certificates` means; empty without such certificates."""
    if "simultaneous" not in guarantee:
        return ""
    students = f" and of all {guarantee['runs']} students" if guarantee["runs"] > 1 else ""
    return (
        f" Together: the coverage with --delta={guarantee['simultaneous']['delta']:.3g}, with "
        f"which the certificates of all these risks{students} hold at once."
    )


def _certificate(run: Run, entry: Mapping[str, Any], certifier: str) -> list[str]:
    certificate, guarantee = entry[certifier], run.operating_point.guarantee
    threshold = certificate["threshold"]
    none = threshold is None
    requested = guarantee is not None and entry["risk"] == guarantee["risk"]
    used = requested and certifier == certification.LTT
    return [
        formatting.exact_percent(entry["risk"]) + (" *" if used else ""),
        promises.NAMES[certifier],
        "none" if none else selective.shown_threshold(run.best_score, threshold),
        formatting.cell(None if none else certificate["risk_bound"]),
        formatting.cell(certificate["coverage"]),
        formatting.cell(certificate["test_coverage"]),
        formatting.cell(certificate["test_error"]),
    ]


def shifted(shifts: Mapping[str, Any]) -> Table:
    """Returns the metrics on shifted test images; `shifts` is the content of `shift.json`."""
    lines = [("none", {"severity": "", **shifts["clean"]})]
    lines += [(name, line) for name, severities in shifts["shifts"].items() for line in severities]
    rows = [
        [
            name,
            str(line["severity"]),
            *(formatting.cell(line[key]) for key in SHIFT_COLUMNS),
            *(formatting.cell(share) for share in _gated(line)),
        ]
        for name, line in lines
    ]
    return Table(
        f"Shifted test images at the threshold {shifted_threshold(shifts)}, in %",
        ["shift", "severity", *SHIFT_COLUMNS.values(), *(GATE_COLUMNS if "gate" in shifts else ())],
        rows,
    )


def _gated(line: Mapping[str, Any]) -> list[float]:
    """Returns the values of `GATE_COLUMNS`; none of a run without a gate."""
    return [line["passed"], line["without_gate"]["coverage"]] if "passed" in line else []


def shifted_threshold(shifts: Mapping[str, Any]) -> str:
    """Returns the threshold in `shift.json` as text; an older file does not name its score."""
    return selective.shown_threshold(shifts.get("score", ""), shifts["threshold"])


def confusions(run: Run, rows: np.ndarray, caption: str) -> Table:
    """Returns the most frequent pairs of confused classes among some test images, bool `[n]`."""
    counts = summary.teacher_errors(run.test.logits[rows, :-1], run.test.labels[rows])
    return confused_pairs(run.classes, counts["pairs"], caption)


def confused_pairs(
    classes: Sequence[str], pairs: Sequence[tuple[int, int, int]], caption: str
) -> Table:
    """Returns pairs of classes, as `summary.teacher_errors` counts them."""
    rows = [[classes[i], classes[j], f"{count:,}"] for i, j, count in pairs]
    return Table(caption, ["true class", "predicted class", "images"], rows)


def teacher_errors(run: Run, errors: Sequence[int]) -> Table:
    """Returns the number of the teacher's errors on train by class, the largest first."""
    order = np.argsort(-np.array(errors), kind="stable")[:MAX_CLASSES]
    rows = [[run.classes[index], f"{errors[index]:,}"] for index in order]
    return Table("Training images that the teacher misclassifies", ["true class", "images"], rows)


class MatrixCell(NamedTuple):
    """A cell of a confusion matrix.

    Attributes:
        images: the count.
        diagonal: whether the predicted class is the true one.
        tint: of the background, in [0, 1], from the share of the row.
    """

    images: int
    diagonal: bool
    tint: float


def confusion_matrix(run: Run, rows: np.ndarray) -> list[tuple[str, list[MatrixCell]]]:
    """Returns the true classes with their cells, of some test images, bool `[n]`."""
    counts = selective.confusion_matrix(
        run.test.labels[rows], run.predicted[rows], len(run.classes)
    )
    diagonal = np.eye(len(counts), dtype=bool)
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    # Errors are rare, so their tint rises faster. The limits keep the digits readable.
    errors = np.where(counts > 0, np.minimum(0.45, 0.1 + 2 * shares), 0)
    tints = np.where(diagonal, 0.35 * shares, errors).round(3)
    cells = [list(map(MatrixCell, *row)) for row in zip(counts, diagonal, tints, strict=True)]
    return list(zip(run.classes, cells, strict=True))


def score(run: Run) -> str:
    """Returns the display name of the score of the operating point."""
    return selective.display_name(run.best_score)


def _marked(run: Run, name: str) -> str:
    return selective.display_name(name) + (" *" if name == run.best_score else "")
