"""The figures of a run, as SVG."""

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from kdjax import selective
from kdjax.report.page import plots, runs, stats, svg
from kdjax.report.page.runs import Run
from kdjax.runs import fold_workdirs, teachers, workdir
from kdjax.selective import Interval, ranking
from kdjax.selective.scales import LOG_FORMS, scale_name

if TYPE_CHECKING:
    from markupsafe import Markup

GRID = tuple(k / 40 for k in range(1, 41))  # coverages at which intervals are computed

Intervals = Mapping[str, Mapping[str, Interval]]


def intervals(run: Run) -> dict[str, dict[str, Interval]]:
    """Returns intervals of the metrics, by score, of the primary scores."""
    coverages = coverage_grid(len(run.correct))
    return {
        name: selective.bootstrap(run.confidence[name], run.correct, coverages=coverages)
        for name in primary_scores(run)
    }


def coverage_grid(examples: int) -> list[float]:
    """Returns the coverages of `GRID` that accept at least one of the examples."""
    return [coverage for coverage in GRID if ranking.count_at(coverage, examples) >= 1]


def primary_scores(run: Run) -> list[str]:
    """Returns the score of the operating point, and the reservation if that is another one."""
    reservation = {"reservation", LOG_FORMS["reservation"]} & run.confidence.keys()
    return [run.best_score, *(reservation - {run.best_score})]


def band(metrics: Mapping[str, Interval], coverages: list[float]) -> plots.Band:
    """Returns the intervals of the selective risk at some coverages as a band."""
    ends = np.array([metrics[f"error_at_{coverage}"][1:] for coverage in coverages])
    return plots.Band(np.array(coverages), *ends.T)


def risk_coverage(run: Run, metrics: Intervals) -> "Markup":
    """Returns the curves of all scores, with bands, a perfect ranking and the operating point.

    Args:
        run: a finished run.
        metrics: of `intervals`.
    """
    primary = primary_scores(run)
    order = [*primary, *(name for name in run.confidence if name not in primary)]
    labels = {name: selective.display_name(name) for name in order}
    coverages = coverage_grid(len(run.correct))
    accepted = run.accepted
    paint = functools.partial(
        plots.risk_coverage,
        curves={
            labels[name]: selective.risk_coverage_curve(run.confidence[name], run.correct)
            for name in order
        },
        bands={labels[name]: band(metrics[name], coverages) for name in primary},
        optimal=stats.optimal_curve(run.correct),
        point=(accepted.mean(), (~run.correct)[accepted].mean()) if accepted.any() else None,
    )
    return svg.render("risk", "Risk-coverage curves of all scores", paint, height=4.4)


def reliability(run: Run) -> "Markup":
    """Returns the reliability diagram of the softmax response."""
    bins = stats.reliability(run.response, run.correct)
    paint = functools.partial(plots.reliability, bins=bins)
    return svg.render("reliability", "Reliability diagram", paint, height=4.0)


def histograms(run: Run) -> list[tuple[str, "Markup"]]:
    """Returns the display name of each primary score with its histogram."""
    return [(selective.display_name(name), _histogram(run, name)) for name in primary_scores(run)]


def _histogram(run: Run, name: str) -> "Markup":
    title, point, scale = selective.display_name(name), run.operating_point, scale_name(name)
    paint = functools.partial(
        plots.histogram,
        confidence=run.confidence[name],
        correct=run.correct,
        name=f"{title}, {scale}" if scale else title,
        threshold=point.threshold if point.certified and name == point.score else None,
    )
    label = f"Histogram of {title} for correct and wrong predictions"
    return svg.render(f"histogram-{name}", label, paint, height=3.6)


def training(run: Run) -> list[tuple[str, "Markup"]]:
    """Returns the stages that have a `metrics.jsonl`, with their training curves.

    Of the teachers of folds, the first one is shown.
    """
    curves, folders = [], [run.folder]
    if teacher := teachers.folder_of(run.folder):
        folders += [teacher, fold_workdirs.fold_folder(teacher, 0)]
    for folder in folders:
        if history := runs.read_history(folder):
            metadata = workdir.read_metadata(folder)
            stage = metadata["stage"]
            name = f"{stage} without fold 0" if metadata.get("fold") else stage
            batch_size = metadata["config"][stage]["batch_size"]
            paint = functools.partial(
                plots.training,
                history=history,
                steps_per_epoch=fold_workdirs.trained_dataset(metadata)["train_examples"]
                // batch_size,
            )
            title = f"Training of the {name}"
            curves.append((name, svg.render(f"training-{stage}", title, paint, height=5.4)))
    return curves


def shift(shifts: Mapping[str, Any]) -> "Markup":
    """Returns coverage and selective risk by severity, from the content of `shift.json`."""
    paint = functools.partial(plots.shift, clean=shifts["clean"], shifts=shifts["shifts"])
    return svg.render("shift", "Coverage and selective risk by severity", paint, height=4.6)
