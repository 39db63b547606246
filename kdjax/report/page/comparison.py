"""The comparison of several runs on the same test images."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kdjax import selective
from kdjax.config_fields import differences
from kdjax.errors import InputError
from kdjax.evaluation import certification, selection
from kdjax.evaluation.promises.words import listed
from kdjax.report.page import (
    figures,
    formatting,
    html,
    many,
    plots,
    seeds,
    svg,
    sweep,
    tables,
)
from kdjax.report.page.runs import Run, certify_for_all
from kdjax.runs import sweeps
from kdjax.selective import Interval
from kdjax.selective.resampling import COVERAGES, least_differing

if TYPE_CHECKING:
    from markupsafe import Markup

MAX_BANDS = 2  # more bands would hide each other
MAX_NAME = 32  # characters that fit in a legend
# By which all runs are compared: every network has it, and it has no parameter that was chosen.
COMMON_SCORE = "softmax response"
# Fewer test images on which two runs differ give no interval.
LEAST_DIFFERING, LEAST_OF_AREAS = (least_differing(0.95, area=area) for area in (False, True))


def write(runs: Sequence[Run], out: pathlib.Path) -> pathlib.Path:
    """Writes a page that compares finished runs.

    Args:
        runs: of `runs.read`, at least two; each is compared with the first.
        out: the file to write.

    Returns:
        The file.

    Raises:
        InputError: if a run is given twice, the test images are not the same, or the file cannot
            be written.
    """
    folders = [run.folder.resolve() for run in runs]
    for index, run in enumerate(runs):
        if folders[index] in folders[:index]:
            raise InputError(f"the run {str(run.folder)!r} is given twice")
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


def write_sweep(folder: pathlib.Path, runs: Sequence[Run], out: pathlib.Path) -> pathlib.Path:
    """Writes the page of a sweep: its table, and the comparison of its settings.

    Args:
        folder: the workdir of the sweep.
        runs: of `runs.read`, the settings and perhaps the seeds of the chosen one.
        out: the file to write.

    Returns:
        The file.

    Raises:
        InputError: if the sweep is not finished, or the file cannot be written.
    """
    table = sweeps.read(folder)
    by_name = {run.folder.name: run for run in runs if run.folder.parent.parent == folder}
    ranked = selection.rank(table["settings"], table["metric"])
    ranked.sort(key=lambda row: row["name"] != table["chosen"])  # first, also if ranked again
    settings = [by_name[row["name"]] for row in ranked]
    content = _content(settings) | {"sweep": sweep.section(table)}
    html.save(out, "comparison.html.jinja", content)
    return out


def _content(runs: Sequence[Run]) -> dict[str, Any]:
    """Returns the variables of the template."""
    longest = MAX_NAME if len(runs) <= many.FEW else None
    names = [_name(number, run, longest) for number, run in enumerate(runs, start=1)]
    changes = [compare_with(runs[0], run) for run in runs[1:]]
    return {
        "runs": list(zip(names, runs, strict=True)),
        "score": COMMON_SCORE,
        "best": names[rank(runs)[0]],
        "choice": certification.CHOICE,
        "sweep": None,
        "collapsed": [
            f"{name} {run.results['collapse']}"
            for name, run in zip(names, runs, strict=True)
            if "collapse" in run.results
        ],
        "seen_images": sorted({certification.seen_images_note(run.results) for run in runs} - {""}),
        "results": results_table(names, runs),
        "csv": many.csv_link(names, runs, rank(runs)),
        "groups": seeds.table(names, runs),
        "certificates": certificate_table(names, runs),
        **(_few if len(runs) <= many.FEW else _many)(names, runs, changes),
        "versions": html.versions(),
    }


def _few(
    names: Sequence[str], runs: Sequence[Run], changes: Sequence[Mapping[str, Interval]]
) -> dict[str, Any]:
    """Returns the variables of the template for runs that fit side by side."""
    figure, outside = _risk_coverage(names, runs)
    return {
        "risk_coverage": figure,
        "panels": [],
        "outside": listed(outside) if outside else "",
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
        "field_table": None,
    }


def _many(
    names: Sequence[str], runs: Sequence[Run], changes: Sequence[Mapping[str, Interval]]
) -> dict[str, Any]:
    """Returns the same for more runs: a row for each, and small multiples."""
    panels, outside = many.panels(names, runs)
    order = rank(runs)
    return {
        "risk_coverage": None,
        "panels": panels,
        "outside": listed(outside) if outside else "",
        "sentences": many.sentences(names, changes),
        "differences": many.difference_table(names, changes, order, metric_label),
        "fields": [],
        "field_table": many.field_table(names, runs, order),
    }


def rank(runs: Sequence[Run]) -> list[int]:
    """Returns the indices of the runs by AURC of the common score on dev, the best first."""
    areas = [run.response_metrics["dev_aurc"] for run in runs]
    return sorted(range(len(runs)), key=areas.__getitem__)


def _name(number: int, run: Run, longest: int | None) -> str:
    """Returns number and name of a run, cut to a number of characters unless it is None."""
    name = run.folder.absolute().name
    is_cut = longest is not None and len(name) > longest
    return f"{number}: {name[: (longest or 0) - 1] + '…' if is_cut else name}"


def results_table(names: Sequence[str], runs: Sequence[Run]) -> tables.Table:
    """Returns the test results of the common score, the run with the best AURC on dev first."""
    rows = []
    for index in rank(runs):
        values = runs[index].response_metrics
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
        f"Results on test with the {COMMON_SCORE}, in % (AURC times 1,000)",
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
        label: (run.response_ranking, run.correct) for label, run in zip(labels, runs, strict=True)
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
        run.response_ranking,
        run.correct,
        first.response_ranking,
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
    if not change.exists:
        return (
            f"{name} and {first} differ in {metric} by {abs(estimate):.2f}{unit}, without an "
            "interval: too few differing examples (fewer than "
            f"{LEAST_DIFFERING if metric == 'accuracy' else LEAST_OF_AREAS})."
        )
    interval = f"(95{formatting.SPACE}% interval {low:+.2f} to {high:+.2f}{unit})"
    if low <= 0 <= high:
        return f"{name} and {first} do not differ significantly in {metric} {interval}."
    direction = "higher" if estimate > 0 else "lower"
    return (
        f"{name} has a {direction} {metric} than {first}, by {abs(estimate):.2f}{unit} {interval}."
    )


def metric_label(metric: str) -> tuple[str, int]:
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
        for label, factor in [metric_label(metric)]
    ]
    return tables.Table(
        f"Difference from {names[0]} with the {COMMON_SCORE}; points are percentage points",
        ["metric", *names[1:]],
        rows,
        f"Second lines: paired 95{formatting.SPACE}% intervals over the test images. "
        "An interval without 0 is a significant difference. Too few: fewer than "
        f"{LEAST_DIFFERING} test images ({LEAST_OF_AREAS} for AURC and AUGRC) count differently "
        "for the two runs: too few for an interval. The variation between seeds is not included.",
    )
