"""The tables of a page, as text in rows."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kdjax.report import results
from kdjax.report.page import evidence, words
from kdjax.report.page.runs import Run
from kdjax.report.table import RANKING
from kdjax.selective import Interval

MATRIX_CLASSES = 20  # of more a matrix is no longer read
CERTIFIERS = {"sgr": "SGR", "learn_then_test": "Learn then Test"}

SHIFTED = {"coverage": "answered", "error": "wrong of these", "accuracy": "accuracy over all"}


class Table(NamedTuple):
    """A table; the first cell of a row heads it.

    Attributes:
        caption: says what the numbers are, and their unit.
        head: of each column.
        rows: cells; a line break within one separates an estimate from its interval.
        note: what a reader needs to know besides.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def errors(run: Run, intervals: Mapping[str, Mapping[str, Interval]]) -> Table:
    """Returns the error at each coverage by score, with intervals where there are any."""
    coverages = list(run.results["scores"][run.best]["error_at_coverage"])
    rows = []
    for name, values in run.results["scores"].items():
        found = values["error_at_coverage"]
        cells = [words.cell(found[coverage]) for coverage in coverages]
        for index, coverage in enumerate(coverages):
            if interval := intervals.get(name, {}).get(f"error_at_{float(coverage) / 100}"):
                cells[index] = words.with_interval(interval)
        rows.append([_marked(run, name), *cells])
    return Table(
        "Wrong among the answered, %, when the most confident part of the test images is answered",
        ["score", *(f"{coverage}{words.SPACE}%" for coverage in coverages)],
        rows,
        "* the best on the development split, which the run goes by. Below an estimate: its "
        f"95{words.SPACE}% bootstrap interval over the test images.",
    )


def ranking(run: Run) -> Table:
    """Returns how well each score puts wrong predictions last."""
    rows = [
        [
            _marked(run, name),
            *(f"{1000 * values[key]:.2f}" for key in RANKING),
            words.cell(values["auroc"]),
        ]
        for name, values in run.results["scores"].items()
    ]
    note = f"MaxLogit-pNorm with p = {run.results['pnorm']:g}, chosen on the development split."
    if run.right.all() or not run.right.any():
        note += (
            f" AUROC is not defined: all predictions are {'right' if run.right[0] else 'wrong'}."
        )
    return Table(
        "How well wrong predictions come last on test (areas times 1,000: lower is better)",
        ["score", *RANKING.values(), "AUROC, %"],
        rows,
        note,
    )


def thresholds(run: Run) -> Table:
    """Returns the plain thresholds of the best score, which promise nothing."""
    rows = [
        [
            f"{coverage}{words.SPACE}%",
            f"{found['threshold']:.6g}",
            words.cell(found["test_coverage"]),
            words.cell(found["test_error"]),
        ]
        for coverage, found in run.results["scores"][run.best]["thresholds"].items()
    ]
    return Table(
        f"Thresholds of {score(run)} that answer a given share of the development images",
        ["answers on dev", "threshold", "answered on test, %", "wrong among these, %"],
        rows,
    )


def certificates(run: Run, guarantee: Mapping[str, Any]) -> Table:
    """Returns what can be promised at which risk, and what test then gives."""
    rows = [
        _certificate(entry, name, " *" if entry["risk"] == guarantee["risk"] else "")
        for entry in guarantee["certificates"]
        for name in CERTIFIERS
    ]
    head = ["promised", "certified by", "threshold", "bound, %", "answered, %"]
    return Table(
        f"Certified thresholds of {score(run)}, each with "
        f"{words.exactly(1 - guarantee['delta'])} certainty, from {guarantee['examples']:,} "
        "calibration images",
        [*head, "answered on test, %", "wrong among these, %"],
        rows,
        "* the error that the run was asked to promise; it goes by Learn then Test.",
    )


def _certificate(entry: Mapping[str, Any], name: str, mark: str) -> list[str]:
    found = entry[name]
    none = found["threshold"] is None
    return [
        words.exactly(entry["risk"]) + mark,
        CERTIFIERS[name],
        "none" if none else f"{found['threshold']:.6g}",
        words.cell(None if none else found["risk_bound"]),
        words.cell(found["coverage"]),
        words.cell(found["test_coverage"]),
        words.cell(found["test_error"]),
    ]


def shifted(found: Mapping[str, Any]) -> Table:
    """Returns what a fixed threshold answers of shifted test images, and how much is wrong."""
    lines = [("as they are", {"severity": "", **found["clean"]})]
    lines += [(name, line) for name, each in found["shifts"].items() for line in each]
    rows = [
        [name, str(one["severity"]), *(words.cell(one[key]) for key in SHIFTED)]
        for name, one in lines
    ]
    return Table(
        f"Test images, shifted, in %: what is answered at the threshold {found['threshold']:.6g}",
        ["shift", "severity", *SHIFTED.values()],
        rows,
    )


def confused(run: Run, rows: np.ndarray, caption: str) -> Table:
    """Returns the most frequent confusions among some test images, bool `[n]`."""
    found = results.correction(run.test.logits[rows, :-1], run.test.labels[rows])
    return pairs(run.classes, found, caption)


def pairs(classes: Sequence[str], found: Mapping[str, Any], caption: str) -> Table:
    """Returns the most frequent pairs of classes as `results.correction` counts them."""
    cells = [[classes[i], classes[j], f"{count:,}"] for i, j, count in found["pairs"]]
    return Table(caption, ["true class", "taken for", "images"], cells)


def corrected(run: Run, found: Mapping[str, Any]) -> Table:
    """Returns how many training images of each class the teacher has wrong, the most first."""
    order = np.argsort(-np.array(found["by_class"]), kind="stable")[:MATRIX_CLASSES]
    rows = [[run.classes[index], f"{found['by_class'][index]:,}"] for index in order]
    return Table("Training images that the teacher has wrong", ["true class", "images"], rows)


class Cell(NamedTuple):
    """One count of a confusion matrix.

    Attributes:
        images: how many.
        right: whether it lies on the diagonal.
        tint: of its background, in [0, 1], from its share of the row.
    """

    images: int
    right: bool
    tint: float


def matrix(run: Run, rows: np.ndarray) -> list[tuple[str, list[Cell]]]:
    """Returns the confusion matrix of some test images, bool `[n]`: a class and its row each."""
    counts = evidence.confusion(run.test.labels[rows], run.predicted[rows], len(run.classes))
    diagonal = np.eye(len(counts), dtype=bool)
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    # Mistakes are rarer, and their tint rises faster; neither ends where the digits would drown.
    mistaken = np.where(counts > 0, np.minimum(0.45, 0.1 + 2 * shares), 0)
    tints = np.where(diagonal, 0.35 * shares, mistaken).round(3)
    cells = [list(map(Cell, *row)) for row in zip(counts, diagonal, tints, strict=True)]
    return list(zip(run.classes, cells, strict=True))


def score(run: Run) -> str:
    """Returns the name of the score that the run goes by."""
    return words.score(run.best)


def _marked(run: Run, name: str) -> str:
    return words.score(name) + (" *" if name == run.best else "")
