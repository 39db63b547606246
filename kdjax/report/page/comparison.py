"""Several runs side by side: the same test images, each run's answers."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kdjax import selective
from kdjax.config import differences
from kdjax.errors import InputError
from kdjax.report import guarantees
from kdjax.report.page import figures, html, plots, svg, tables, words
from kdjax.report.page.runs import Run
from kdjax.selective import Interval
from kdjax.selective.uncertainty import COVERAGES

if TYPE_CHECKING:
    from markupsafe import Markup

BANDS = 2  # a third would hide the others
LONGEST = 32  # characters of a name that a legend has room for


def write(found: Sequence[Run], out: pathlib.Path) -> pathlib.Path:
    """Writes one page on several finished runs.

    Args:
        found: as `runs.read` returns each; the others are compared with the first.
        out: the file.

    Returns:
        The file.

    Raises:
        InputError: if the test images are not the same, or the file cannot be written.
    """
    for other in found[1:]:
        _check_same_test(found[0], other)
    html.save(out, "comparison.html.jinja", _content(found))
    return out


def _check_same_test(first: Run, other: Run) -> None:
    one, two = (run.identity["dataset"]["name"] for run in (first, other))
    if one != two or first.classes != other.classes:
        raise InputError(
            f"{str(other.folder)!r} is a run on {two}, {str(first.folder)!r} one on {one}: only "
            "runs on the same data set can be compared"
        )
    if not np.array_equal(first.test.labels, other.test.labels):
        raise InputError(
            f"{str(other.folder)!r} and {str(first.folder)!r} were not tested on the same images: "
            "the labels in their predictions/test.npz differ"
        )


def _content(found: Sequence[Run]) -> dict[str, Any]:
    """What the template lays out."""
    names = [_name(number, run) for number, run in enumerate(found, start=1)]
    changes = [_differences(found[0], other) for other in found[1:]]
    return {
        "runs": list(zip(names, found, strict=True)),
        "summary": _summary(names, found),
        "risk_coverage": _risk_coverage(names, found),
        "sentences": [
            sentence
            for pair in zip(names[1:], changes, strict=True)
            for sentence in _told_apart(names[0], *pair)
        ],
        "differences": _difference_table(names, changes),
        "fields": [
            (name, differences(found[0].identity, other.identity))
            for name, other in zip(names[1:], found[1:], strict=True)
        ],
        "versions": html.versions(),
    }


def _name(number: int, run: Run) -> str:
    name = run.folder.absolute().name
    return f"{number}: {name if len(name) <= LONGEST else name[: LONGEST - 1] + '…'}"


def _summary(names: Sequence[str], found: Sequence[Run]) -> tables.Table:
    rows = [[name, *_cells(run)] for name, run in zip(names, found, strict=True)]
    errors = (f"wrong at {100 * one:g}{words.SPACE}%" for one in COVERAGES)
    return tables.Table(
        "On the test images, in % but for AURC (times 1,000)",
        ["run", "score", "accuracy", "AURC", *errors, "promised", "answered", "wrong of these"],
        rows,
        "Wrong at a coverage: among the most confident images that make it up. Promised: the error "
        "that Learn then Test certifies, and what its threshold then gives.",
    )


def _cells(run: Run) -> list[str]:
    values = run.results["scores"][run.best]
    certificate = guarantees.operating(run.guarantee) if run.guarantee else {}
    return [
        tables.score(run),
        words.cell(run.results["test"]["accuracy"]),
        f"{1000 * values['aurc']:.2f}",
        *(words.cell(values["error_at_coverage"].get(f"{100 * one:g}")) for one in COVERAGES),
        words.exactly(run.guarantee["risk"]) if run.guarantee else words.NONE,
        words.cell(certificate.get("test_coverage")),
        words.cell(certificate.get("test_error")),
    ]


def _risk_coverage(names: Sequence[str], found: Sequence[Run]) -> "Markup":
    coverages = figures.grid(len(found[0].right))
    best = {
        name: (run.confidence[run.best], run.right) for name, run in zip(names, found, strict=True)
    }
    paint = functools.partial(
        plots.risk_coverage,
        curves={name: selective.risk_coverage_curve(*sample) for name, sample in best.items()},
        bands={
            name: figures.band(selective.bootstrap(*best[name], coverages=coverages), coverages)
            for name in names[:BANDS]
        },
        columns=1,
    )
    height = 3.4 + plots.LEGEND_ROW * len(names)
    return svg.render("risk", "Risk-coverage curves of the runs", paint, height=height)


def _differences(first: Run, other: Run) -> dict[str, Interval]:
    """Intervals of other - first, paired."""
    least = 1 / len(first.right)
    return selective.compare(
        other.confidence[other.best],
        other.right,
        first.confidence[first.best],
        first.right,
        coverages=[coverage for coverage in COVERAGES if coverage >= least],
    )


def _told_apart(first: str, name: str, change: Mapping[str, Interval]) -> list[str]:
    """Whether a run is better than the first: by its accuracy, and by how it ranks its errors."""
    return [
        _sentence(first, name, change["accuracy"], "accuracy", "points", 100),
        _sentence(first, name, change["aurc"], "AURC (lower is better)", "thousandths", 1000),
    ]


def _sentence(
    first: str, name: str, change: Interval, metric: str, unit: str, factor: float
) -> str:
    estimate, low, high = (factor * value for value in change)
    interval = f"95{words.SPACE}% interval {low:+.2f} to {high:+.2f} {unit}"
    if low <= 0 <= high:
        return f"{name} and {first} cannot be told apart by {metric}: {interval}."
    than = "higher" if estimate > 0 else "lower"
    return f"{name} has the {than} {metric}, by {abs(estimate):.2f} against {first}: {interval}."


def _labelled(metric: str) -> tuple[str, int]:
    """What a metric of `selective.compare` is called, and what it is multiplied by."""
    if metric in ("aurc", "augrc"):
        return f"{metric.upper()}, times 1,000", 1000
    if metric == "accuracy":
        return "accuracy, points", 100
    coverage = float(metric.removeprefix("error_at_"))
    return f"wrong at {100 * coverage:g}{words.SPACE}%, points", 100


def _difference_table(
    names: Sequence[str], changes: Sequence[Mapping[str, Interval]]
) -> tables.Table:
    """A row a metric, a column a run."""
    rows = [
        [label, *(words.with_interval(change[metric], factor, sign="+") for change in changes)]
        for metric in changes[0]
        for label, factor in [_labelled(metric)]
    ]
    return tables.Table(
        f"Difference to {names[0]}",
        ["metric", *names[1:]],
        rows,
        f"Below: its 95{words.SPACE}% interval over paired bootstrap resamples of the test images. "
        "One without 0 tells the runs apart; it says nothing of what another seed would give.",
    )
