"""The figures of one run, as SVG."""

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from kdjax import selective, workdir
from kdjax.report.page import evidence, plots, runs, svg, words
from kdjax.report.page.runs import Run
from kdjax.selective import Interval

if TYPE_CHECKING:
    from markupsafe import Markup

GRID = tuple(k / 40 for k in range(1, 41))  # coverages where intervals are drawn

Intervals = Mapping[str, Mapping[str, Interval]]


def intervals(run: Run) -> dict[str, dict[str, Interval]]:
    """Returns bootstrap intervals of the score that the run goes by, and of the reservation."""
    coverages = grid(len(run.right))
    return {
        name: selective.bootstrap(run.confidence[name], run.right, coverages=coverages)
        for name in shown_first(run)
    }


def grid(examples: int) -> list[float]:
    """Returns those coverages of `GRID` at which at least one of the examples is answered."""
    return [coverage for coverage in GRID if round(coverage * examples) >= 1]


def shown_first(run: Run) -> list[str]:
    """Returns the score that the run goes by, and the reservation if it is another."""
    return [run.best, *({"reservation"} & run.confidence.keys() - {run.best})]


def band(found: Mapping[str, Interval], coverages: list[float]) -> plots.Band:
    """Returns the intervals of the error at some coverages as a band."""
    ends = np.array([found[f"error_at_{coverage}"][1:] for coverage in coverages])
    return plots.Band(np.array(coverages), *ends.T)


def risk_coverage(run: Run, found: Intervals) -> "Markup":
    """Returns the curves of all scores, with bands, the ideal curve and the run's own point."""
    first = shown_first(run)
    order = [*first, *(name for name in run.confidence if name not in first)]
    named = {name: words.score(name) for name in order}
    coverages = grid(len(run.right))
    answered = run.accepted
    paint = functools.partial(
        plots.risk_coverage,
        curves={
            named[name]: selective.risk_coverage_curve(run.confidence[name], run.right)
            for name in order
        },
        bands={named[name]: band(found[name], coverages) for name in first},
        ideal=evidence.ideal_curve(run.right),
        point=(answered.mean(), (~run.right)[answered].mean()) if answered.any() else None,
    )
    return svg.render("risk", "Risk-coverage curves of all scores", paint, height=4.4)


def reliability(run: Run) -> "Markup":
    """Returns the reliability diagram of the softmax response."""
    bins = evidence.reliability(run.confidence["softmax_response"], run.right)
    paint = functools.partial(plots.reliability, bins=bins)
    return svg.render("reliability", "Reliability diagram", paint, height=4.0)


def histograms(run: Run) -> list[tuple[str, "Markup"]]:
    """Returns a histogram with its score's name for each score that is shown first."""
    found = []
    for name in shown_first(run):
        title = words.score(name)
        paint = functools.partial(
            plots.histogram,
            confidence=run.confidence[name],
            right=run.right,
            name=title,
            threshold=run.threshold if name == run.best else None,
        )
        label = f"Histogram of {title} for right and wrong predictions"
        found.append((title, svg.render(f"histogram-{name}", label, paint, height=3.6)))
    return found


def training(run: Run) -> list[tuple[str, "Markup"]]:
    """Returns the training curves of the run, and of the teacher in it, that have any."""
    found = []
    for folder in (run.folder, run.folder / "teacher"):
        if history := runs.history(folder):
            identity = workdir.read(folder)
            stage = identity["stage"]
            batch = identity["config"][stage]["batch_size"]
            paint = functools.partial(
                plots.training,
                history=history,
                steps_per_epoch=identity["dataset"]["train_examples"] // batch,
            )
            title = f"Training of the {stage}"
            found.append((stage, svg.render(f"training-{stage}", title, paint, height=5.4)))
    return found


def shift(found: Mapping[str, Any]) -> "Markup":
    """Returns how coverage and error change with the severity of each shift."""
    paint = functools.partial(plots.shift, clean=found["clean"], shifts=found["shifts"])
    return svg.render("shift", "Answered and wrong by severity", paint, height=4.6)
