"""The figures of a page. Each draws on an empty matplotlib figure; `svg.render` makes it SVG."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from kdjax.report.page import svg
from kdjax.report.page.evidence import Bins
from kdjax.selective import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED = svg.COLOURS["ink"], svg.COLOURS["muted"]
HISTOGRAM_BINS = 30
LEGEND_ROW = 0.2  # inches
LEAST = 0.5  # of a log axis of counts: where none are drawn


class Band(NamedTuple):
    """An interval at each of some coverages, `[g]` each, in [0, 1]."""

    coverage: np.ndarray
    low: np.ndarray
    high: np.ndarray


def risk_coverage(
    figure: "Figure",
    curves: Mapping[str, Curve],
    *,
    bands: Mapping[str, Band],
    ideal: tuple[np.ndarray, np.ndarray] | None = None,
    point: tuple[float, float] | None = None,
    columns: int = 2,
) -> None:
    """Draws the error among the answered over the share answered, one line a curve.

    Args:
        figure: empty.
        curves: by the name in the legend, the most important first.
        bands: of some of the curves.
        ideal: coverage and risk of a perfect ranking.
        point: coverage and risk at the threshold of the certificate.
        columns: of the legend.
    """
    axes = figure.add_subplot(xlabel="answered, % of the test images", ylabel="wrong, % of these")
    for index, (name, curve) in enumerate(curves.items()):
        look = svg.style(index)
        if band := bands.get(name):
            low, high = 100 * band.low, 100 * band.high
            axes.fill_between(
                100 * band.coverage, low, high, color=look["color"], alpha=0.2, linewidth=0
            )
        # The mark at the end is all there is of a curve of one point.
        end: dict[str, Any] = {"marker": "o", "markersize": 3, "markevery": [-1]}
        width = 2.2 if index == 0 else 1.4
        axes.plot(100 * curve.coverage, 100 * curve.risk, label=name, lw=width, **look, **end)
    if ideal:
        axes.plot(*(100 * values for values in ideal), label="ideal", color=INK, lw=1, ls=":")
    if point:
        look = {"color": INK, "marker": "D", "markerfacecolor": "none", "markersize": 8}
        axes.plot(*(100 * value for value in point), label="this run", ls="none", mew=1.8, **look)
    _risk_limits(axes, list(curves.values()), list(bands.values()))
    _legend(figure, columns)


def _risk_limits(axes: "Axes", curves: Sequence[Curve], bands: Sequence[Band]) -> None:
    """Leaves out the first steps, where one error among a handful is all of the height."""
    risks = [curve.risk[curve.coverage >= 0.1].max(initial=0) for curve in curves]
    risks += [band.high[band.coverage >= 0.1].max(initial=0) for band in bands]
    top = 108 * max(risks) or 1.0
    axes.set(xlim=(0, 102), ylim=(-0.02 * top, top))


def reliability(figure: "Figure", bins: Bins) -> None:
    """Draws accuracy over confidence, and below it how many predictions each point stands for."""
    upper, lower = _stacked(figure, (3, 1))
    upper.plot((0, 100), (0, 100), color=MUTED, lw=1, ls=":", label="accuracy = confidence")
    points = 100 * bins.confidence, 100 * bins.accuracy
    ends = np.abs(100 * np.stack([bins.low, bins.high]) - points[1])
    look = {"color": svg.style(0)["color"], "marker": "o", "markersize": 4.5, "lw": 1.2}
    upper.errorbar(*points, yerr=ends, **look, capsize=2, elinewidth=1, label="this run")
    upper.set(ylabel="right, %", ylim=(0, 103))
    lower.bar(points[0], bins.examples, width=4, color=svg.style(0)["color"])
    lower.set(ylabel="images", xlim=(0, 102), xlabel="confidence, %")
    _counts(lower)
    _legend(figure)


def histogram(
    figure: "Figure",
    confidence: np.ndarray,
    right: np.ndarray,
    *,
    name: str,
    threshold: float | None = None,
) -> None:
    """Draws how many right and how many wrong predictions have which confidence.

    Args:
        figure: empty.
        confidence: `[n]`, finite.
        right: bool `[n]`.
        name: of the score.
        threshold: from which on the run answers.
    """
    axes = figure.add_subplot(xlabel=name, ylabel="test images (log scale)")
    # In float32 neighbours near 1 leave no room for bins between them.
    edges = np.histogram_bin_edges(confidence.astype(np.float64), HISTOGRAM_BINS)
    for index, (group, rows) in enumerate({"right": right, "wrong": ~right}.items()):
        counts = np.histogram(confidence[rows], edges)[0]
        heights = np.where(counts > 0, counts, np.nan)
        look = {"color": svg.style(index)["color"], "baseline": LEAST}
        axes.stairs(heights, edges, **look, fill=True, alpha=0.25)
        axes.stairs(heights, edges, **look, lw=1.8, label=f"{group} ({rows.sum():,})")
    if threshold is not None:
        axes.axvline(threshold, color=INK, lw=1.4, ls="--", label="threshold")
    _counts(axes)
    _legend(figure)


def training(figure: "Figure", history: Sequence[Mapping[str, Any]], steps_per_epoch: int) -> None:
    """Draws accuracy, loss and learning rate over the epochs.

    Args:
        figure: empty.
        history: lines of `metrics.jsonl`.
        steps_per_epoch: optimizer steps.
    """
    accuracy, loss, rate = _stacked(figure, (3, 3, 1.6))
    for axes, split, key, factor in (
        (accuracy, "train", "accuracy", 100),
        (accuracy, "dev", "accuracy", 100),
        (loss, "train", "loss", 1),
        (loss, "dev", "nll", 1),
        (rate, "train", "learning_rate", 1),
    ):
        points = [
            (line["step"] / steps_per_epoch, factor * line[key])
            for line in history
            if line["split"] == split and np.isfinite(line.get(key, np.nan))
        ]
        look = {**svg.style(split == "dev"), "marker": "o", "markersize": 2, "lw": 1.4}
        label = split if axes is accuracy else None
        axes.plot(*np.reshape(points, (-1, 2)).T, label=label, **look)
    accuracy.set_ylabel("accuracy, %")
    loss.set_ylabel("loss")
    rate.set(ylabel="rate", xlabel="epoch")
    _legend(figure)


def shift(
    figure: "Figure", clean: Mapping[str, Any], shifts: Mapping[str, Sequence[Mapping[str, Any]]]
) -> None:
    """Draws the share answered, and the error among the answered, over the severity.

    Args:
        figure: empty.
        clean: `coverage` and `error` of the test images as they are.
        shifts: the same at each `severity`, by the name of the shift.
    """
    answered, wrong = _stacked(figure, (1, 1))
    for index, (name, found) in enumerate(shifts.items()):
        points = [{"severity": 0, **clean}, *found]
        look = {**svg.style(index), "marker": "o", "markersize": 3.5, "lw": 1.6}
        for axes, key in ((answered, "coverage"), (wrong, "error")):
            # Nothing answered, no error: the line has a gap there.
            values = [np.nan if one[key] is None else 100 * one[key] for one in points]
            label = name if axes is answered else None
            axes.plot([one["severity"] for one in points], values, label=label, **look)
    answered.set(ylabel="answered, %", ylim=(0, 103))
    wrong.set(ylabel="wrong of these, %", xlabel="severity (0: as they are)")
    wrong.set_ylim(bottom=0)
    _legend(figure)


def _stacked(figure: "Figure", heights: Sequence[float]) -> Sequence["Axes"]:
    """Axes above one another that share what they are drawn over."""
    return figure.subplots(len(heights), sharex=True, height_ratios=list(heights))


def _counts(axes: "Axes") -> None:
    """A log scale, so that a single image shows beside thousands."""
    axes.set_yscale("log")
    axes.set_ylim(bottom=LEAST)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_minor_formatter("")


def _legend(figure: "Figure", columns: int = 2) -> None:
    """A legend below the axes: there it covers nothing."""
    figure.legend(loc="outside lower center", ncols=columns)
