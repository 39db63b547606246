"""The comparison of several runs on the same test images."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kdjax import selective
from kdjax.config_fields import differences
from kdjax.errors import InputError
from kdjax.evaluation import certification
from kdjax.report.page import figures, formatting, html, plots, seeds, svg, tables
from kdjax.report.page.runs import Run, certify_for_all
from kdjax.selective import Interval
from kdjax.selective.resampling import COVERAGES

if TYPE_CHECKING:
    from markupsafe import Markup

MAX_BANDS = 2  # more bands would hide each other
MAX_NAME = 32  # characters that fit in a legend
# By which all runs are compared: every network has it, and it has no parameter that was chosen.
COMMON_SCORE = "softmax_response"


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
    figure, outside = _risk_coverage(names, runs)
    return {
        "runs": list(zip(names, runs, strict=True)),
        "score": formatting.score_name(COMMON_SCORE),
        "best": names[rank(runs)[0]],
        "choice": certification.CHOICE,
        "teachers": sorted(
            {certification.external_teacher_note(run.results) for run in runs} - {""}
        ),
        "results": results_table(names, runs),
        "groups": seeds.table(names, runs, COMMON_SCORE),
        "certificates": certificate_table(names, runs),
        "risk_coverage": figure,
        "outside": formatting.join_with_and(outside) if outside else "",
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


def rank(runs: Sequence[Run]) -> list[int]:
    """Returns the indices of the runs by AURC of the common score on dev, the best first."""
    areas = [run.results["scores"][COMMON_SCORE]["dev_aurc"] for run in runs]
    return sorted(range(len(runs)), key=areas.__getitem__)


def _name(number: int, run: Run) -> str:
    name = run.folder.absolute().name
    return f"{number}: {name if len(name) <= MAX_NAME else name[: MAX_NAME - 1] + '…'}"


def results_table(names: Sequence[str], runs: Sequence[Run]) -> tables.Table:
    """Returns the test results of the common score, the run with the best AURC on dev first."""
    rows = []
    for index in rank(runs):
        values = runs[index].results["scores"][COMMON_SCORE]
        risks = (values["error_at_coverage"].get(f"{100 * c:g}") for c in COVERAGES)
        rows.append(
            [
                names[index],
                f"{1000 * values['dev_aurc']:.2f}",
                formatting.cell(runs[index].results["test"]["accuracy"]),
                f"{1000 * values['aurc']:.2f}",
                *map(formatting.cell, risks),
            ]
        )
    risks = (f"risk at {100 * coverage:g}{formatting.SPACE}%" for coverage in COVERAGES)
    return tables.Table(
        f"Results on test with the {formatting.score_name(COMMON_SCORE)}, in % (AURC times 1,000)",
        ["run", "AURC on dev", "accuracy", "AURC", *risks],
        rows,
        "The lowest AURC on the development split first. Risk: selective risk (error among "
        f"accepted). Risk at 95{formatting.SPACE}%: at this coverage (share of accepted images) on "
        "test.",
    )


def certificate_table(names: Sequence[str], runs: Sequence[Run]) -> tables.Table:
    """Returns each run's own score with its certificate, alone and for all runs together."""
    rows = []
    for index in rank(runs):
        run = runs[index]
        values, guarantee = run.results["scores"][run.best_score], run.operating_point.guarantee
        all_runs = certify_for_all(run, len(runs)) or {}
        rows.append(
            [
                names[index],
                tables.score(run),
                f"{1000 * values['dev_aurc']:.2f}",
                f"{1000 * values['aurc']:.2f}",
                formatting.exact_percent(guarantee["risk"]) if guarantee else formatting.NONE,
                *(
                    formatting.cell(certificate.get(key))
                    for certificate in (run.operating_point.certificate, all_runs)
                    for key in ("coverage", "test_coverage", "test_error")
                ),
            ]
        )
    together = f"for all {len(runs)} runs: "
    columns = ("coverage", "coverage on test", "risk on test")
    return tables.Table(
        "Best score of each run and its threshold certified by Learn then Test, in % (AURC times "
        "1,000)",
        ["run", "best score", "AURC on dev", "AURC", "certified risk", *columns]
        + [together + column for column in columns],
        rows,
        "Best score: the one with the lowest AURC on the development split of the run. Coverage: "
        "on the calibration split. For all "
        f"{len(runs)} runs: certified at delta / {len(runs)}, so that the certificates of all runs "
        "hold together, whichever run is chosen.",
    )


def _risk_coverage(names: Sequence[str], runs: Sequence[Run]) -> tuple["Markup", list[str]]:
    """Returns the figure, and the names of the runs that it does not show completely."""
    coverages = figures.coverage_grid(len(runs[0].correct))
    numbers = seeds.group(runs)
    labels = [
        seeds.label(name, numbers.count(number)) if numbers.index(number) == index else name
        for index, (name, number) in enumerate(zip(names, numbers, strict=True))
    ]
    samples = {
        label: (run.confidence[COMMON_SCORE], run.correct)
        for label, run in zip(labels, runs, strict=True)
    }
    curves = {label: selective.risk_coverage_curve(*sample) for label, sample in samples.items()}
    firsts = [label for index, label in enumerate(labels) if numbers.index(numbers[index]) == index]
    bands = {
        label: figures.band(selective.bootstrap(*samples[label], coverages=coverages), coverages)
        for label in firsts[:MAX_BANDS]
    }
    top, outside = plots.robust_top(curves, bands)
    paint = functools.partial(
        plots.risk_coverage,
        curves=curves,
        bands=bands,
        columns=1,
        series=numbers,
        top=top,
    )
    height = 3.4 + plots.LEGEND_ROW * len(firsts)
    title = "Risk-coverage curves of the runs"
    return svg.render("risk", title, paint, height=height), outside


def compare_with(first: Run, run: Run) -> dict[str, Interval]:
    """Returns the paired intervals of the differences run - first, with the common score."""
    smallest_coverage = 1 / len(first.correct)
    return selective.compare(
        run.confidence[COMMON_SCORE],
        run.correct,
        first.confidence[COMMON_SCORE],
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
        f"Difference from {names[0]} with the {formatting.score_name(COMMON_SCORE)}; points are "
        "percentage points",
        ["metric", *names[1:]],
        rows,
        f"Second lines: paired 95{formatting.SPACE}% intervals over the test images. "
        "An interval without 0 is a significant difference. The variation between seeds is not "
        "included.",
    )
