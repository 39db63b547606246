"""The comparison of several runs on the same test images."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kdjax import selective
from kdjax.config import differences
from kdjax.errors import InputError
from kdjax.report.page import figures, formatting, html, plots, svg, tables
from kdjax.report.page.runs import Run
from kdjax.selective import Interval
from kdjax.selective.resampling import COVERAGES

if TYPE_CHECKING:
    from markupsafe import Markup

MAX_BANDS = 2  # more bands would hide each other
MAX_NAME = 32  # characters that fit in a legend


def write(runs: Sequence[Run], out: pathlib.Path) -> pathlib.Path:
    """Writes a page that compares finished runs.

    Args:
        runs: of `runs.read`, at least two; each is compared with the first.
        out: the file to write.

    Returns:
        The file.

    Raises:
        InputError: if the test images are not the same, or the file cannot be written.
    """
    for run in runs[1:]:
        _check_same_test(runs[0], run)
    html.save(out, "comparison.html.jinja", _content(runs))
    return out


def _check_same_test(first: Run, run: Run) -> None:
    first_name, name = (each.metadata["dataset"]["name"] for each in (first, run))
    if first_name != name or first.classes != run.classes:
        raise InputError(
            f"{str(run.folder)!r} is a run on {name}, {str(first.folder)!r} one on {first_name}: "
            "only runs on the same data set can be compared"
        )
    if not np.array_equal(first.test.labels, run.test.labels):
        raise InputError(
            f"{str(run.folder)!r} and {str(first.folder)!r} were not tested on the same images: "
            "the labels in their predictions/test.npz differ"
        )


def _content(runs: Sequence[Run]) -> dict[str, Any]:
    """Returns the variables of the template."""
    names = [_name(number, run) for number, run in enumerate(runs, start=1)]
    changes = [compare_with(runs[0], run) for run in runs[1:]]
    return {
        "runs": list(zip(names, runs, strict=True)),
        "results": results_table(names, runs),
        "risk_coverage": _risk_coverage(names, runs),
        "sentences": [
            sentence
            for name, change in zip(names[1:], changes, strict=True)
            for sentence in _significance(names[0], name, change)
        ],
        "differences": difference_table(names, changes),
        "fields": [
            (name, differences(runs[0].metadata, run.metadata))
            for name, run in zip(names[1:], runs[1:], strict=True)
        ],
        "versions": html.versions(),
    }


def _name(number: int, run: Run) -> str:
    name = run.folder.absolute().name
    return f"{number}: {name if len(name) <= MAX_NAME else name[: MAX_NAME - 1] + '…'}"


def results_table(names: Sequence[str], runs: Sequence[Run]) -> tables.Table:
    """Returns the test results of each run, by its name."""
    rows = [[name, *_cells(run)] for name, run in zip(names, runs, strict=True)]
    risks = (f"risk at {100 * coverage:g}{formatting.SPACE}%" for coverage in COVERAGES)
    return tables.Table(
        "Results on test, in % (AURC times 1,000)",
        ["run", "score", "accuracy", "AURC", *risks, "certified risk", "coverage", "risk"],
        rows,
        "Risk: selective risk (error among accepted). Coverage: share of accepted images. Risk at "
        f"95{formatting.SPACE}%: at this coverage on test. Certified risk: the requested one. The "
        "last two columns are measured on test at the threshold that Learn then Test certified.",
    )


def _cells(run: Run) -> list[str]:
    values = run.results["scores"][run.best_score]
    certificate, guarantee = run.operating_point.certificate, run.operating_point.guarantee
    risks = values["error_at_coverage"]
    return [
        tables.score(run),
        formatting.cell(run.results["test"]["accuracy"]),
        f"{1000 * values['aurc']:.2f}",
        *(formatting.cell(risks.get(f"{100 * coverage:g}")) for coverage in COVERAGES),
        formatting.exact_percent(guarantee["risk"]) if guarantee else formatting.NONE,
        formatting.cell(certificate.get("test_coverage")),
        formatting.cell(certificate.get("test_error")),
    ]


def _risk_coverage(names: Sequence[str], runs: Sequence[Run]) -> "Markup":
    coverages = figures.coverage_grid(len(runs[0].correct))
    samples = {
        name: (run.confidence[run.best_score], run.correct)
        for name, run in zip(names, runs, strict=True)
    }
    paint = functools.partial(
        plots.risk_coverage,
        curves={name: selective.risk_coverage_curve(*sample) for name, sample in samples.items()},
        bands={
            name: figures.band(selective.bootstrap(*samples[name], coverages=coverages), coverages)
            for name in names[:MAX_BANDS]
        },
        columns=1,
    )
    height = 3.4 + plots.LEGEND_ROW * len(names)
    return svg.render("risk", "Risk-coverage curves of the runs", paint, height=height)


def compare_with(first: Run, run: Run) -> dict[str, Interval]:
    """Returns the paired bootstrap intervals of the differences run - first."""
    smallest_coverage = 1 / len(first.correct)
    return selective.compare(
        run.confidence[run.best_score],
        run.correct,
        first.confidence[first.best_score],
        first.correct,
        coverages=[coverage for coverage in COVERAGES if coverage >= smallest_coverage],
    )


def _significance(first: str, name: str, change: Mapping[str, Interval]) -> list[str]:
    """Returns sentences about the differences of a run from the first in accuracy and AURC."""
    return [
        _sentence(first, name, change["accuracy"], "accuracy", f"{formatting.SPACE}points", 100),
        _sentence(first, name, change["aurc"], "AURC times 1,000", "", 1000),
    ]


def _sentence(
    first: str, name: str, change: Interval, metric: str, unit: str, factor: float
) -> str:
    estimate, low, high = (factor * value for value in change)
    interval = f"(95{formatting.SPACE}% interval {low:+.2f} to {high:+.2f}{unit})"
    if low <= 0 <= high:
        return f"{name} and {first} do not differ significantly in {metric} {interval}."
    direction = "higher" if estimate > 0 else "lower"
    return (
        f"{name} has a {direction} {metric} than {first}, by {abs(estimate):.2f}{unit} {interval}."
    )


def _label(metric: str) -> tuple[str, int]:
    """Returns the display name of a metric of `selective.compare`, and the factor of its unit."""
    if metric in ("aurc", "augrc"):
        return f"{metric.upper()}, times 1,000", 1000
    if metric == "accuracy":
        return "accuracy, points", 100
    coverage = float(metric.removeprefix("error_at_"))
    return f"risk at {100 * coverage:g}{formatting.SPACE}%, points", 100


def difference_table(
    names: Sequence[str], changes: Sequence[Mapping[str, Interval]]
) -> tables.Table:
    """Returns the differences of the runs from the first, with a row for each metric.

    Args:
        names: of the runs, the first included.
        changes: of `compare_with`, for each of the others.
    """
    rows = [
        [label, *(formatting.with_interval(change[metric], factor, sign="+") for change in changes)]
        for metric in changes[0]
        for label, factor in [_label(metric)]
    ]
    return tables.Table(
        f"Difference from {names[0]}; points are percentage points",
        ["metric", *names[1:]],
        rows,
        f"Second lines: 95{formatting.SPACE}% intervals of the paired bootstrap over test images. "
        "An interval without 0 is a significant difference. The variation between seeds is not "
        "included.",
    )
