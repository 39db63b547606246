"""The plots of a page, each drawn on an empty matplotlib figure; see `svg.render`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from kdjax.report.page import svg
from kdjax.report.page.stats import Bins
from kdjax.selective import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED = svg.COLOURS["ink"], svg.COLOURS["muted"]
HISTOGRAM_BINS = 30
LEGEND_ROW = 0.2  # inches
COLLAPSED = 5  # times the median risk: such curves may leave the frame
MIN_COUNT = 0.5  # lower limit of a log axis of counts


class Band(NamedTuple):
    """Intervals of the selective risk at some coverages, `[g]` each, in [0, 1]."""

    coverage: np.ndarray
    low: np.ndarray
    high: np.ndarray


def risk_coverage(
    figure: "Figure",
    curves: Mapping[str, Curve],
    *,
    bands: Mapping[str, Band],
    optimal: tuple[np.ndarray, np.ndarray] | None = None,
    point: tuple[float, float] | None = None,
    columns: int = 2,
    series: Sequence[int] | None = None,
    top: float | None = None,
) -> None:
    """Draws risk-coverage curves.

    Args:
        figure: empty.
        curves: by legend label; the first one is drawn thicker.
        bands: by the legend label of their curve.
        optimal: coverage and risk of a perfect ranking.
        point: coverage and risk at the certified threshold.
        columns: of the legend.
        series: number of the style of each curve; of several with the same number only the first
            is in the legend. None: each has its own.
        top: largest risk of the axis, in [0, 1]; None: that of all curves and bands.
    """
    axes = figure.add_subplot(xlabel="coverage, % of the test images", ylabel="selective risk, %")
    numbers = list(series or range(len(curves)))
    for index, (name, curve) in enumerate(curves.items()):
        look = svg.style(numbers[index])
        label = name if numbers.index(numbers[index]) == index else f"_{name}"  # _: no legend
        if band := bands.get(name):
            low, high = 100 * band.low, 100 * band.high
            axes.fill_between(
                100 * band.coverage, low, high, color=look["color"], alpha=0.2, linewidth=0
            )
        # Without a marker, a curve with a single point would be invisible.
        end: dict[str, Any] = {"marker": "o", "markersize": 3, "markevery": [-1]}
        width = 2.2 if index == 0 else 1.4
        axes.plot(100 * curve.coverage, 100 * curve.risk, label=label, lw=width, **look, **end)
    if optimal:
        percents = (100 * values for values in optimal)
        axes.plot(*percents, label="perfect ranking", color=INK, lw=1, ls=":")
    if point:
        look = {"color": INK, "marker": "D", "markerfacecolor": "none", "markersize": 8}
        axes.plot(
            *(100 * value for value in point), label="operating point", ls="none", mew=1.8, **look
        )
    if top is None:
        tops = [*map(_highest_risk, curves.values()), *map(_highest_risk, bands.values())]
        top = max(tops)
    limit = 108 * top or 1.0
    axes.set(xlim=(0, 102), ylim=(-0.02 * limit, limit))
    _legend(figure, columns)


def small_risk_coverage(
    figure: "Figure", curves: Sequence[Curve], *, reference: Curve, top: float
) -> None:
    """Draws curves and a dotted reference, as one of several small figures with the same axes.

    Args:
        figure: empty.
        curves: of one group.
        reference: the same in all figures.
        top: largest risk of the axis, in [0, 1].
    """
    from matplotlib.ticker import MaxNLocator

    axes = figure.add_subplot()
    axes.plot(100 * reference.coverage, 100 * reference.risk, color=INK, lw=1.1, ls=":")
    for curve in curves:
        axes.plot(100 * curve.coverage, 100 * curve.risk, color=svg.style(0)["color"], lw=1.6)
    limit = 108 * top or 1.0
    axes.set(xlim=(0, 102), ylim=(-0.02 * limit, limit), xticks=(0, 50, 100))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4))


def _highest_risk(curve: Curve | Band) -> float:
    """Returns the largest risk; below 10 % coverage one error among few images is a high risk."""
    risk = curve.high if isinstance(curve, Band) else curve.risk
    return float(risk[curve.coverage >= 0.1].max(initial=0))


def robust_top(curves: Mapping[str, Curve], bands: Mapping[str, Band]) -> tuple[float, list[str]]:
    """Returns the largest risk of an axis on which a collapsed run does not flatten the others.

    Args:
        curves: by name.
        bands: by the name of their curve.

    Returns:
        The largest risk, and the names of the curves that exceed it: those that reach more than
        `COLLAPSED` times the lower median of all.
    """
    risks = {name: _highest_risk(curve) for name, curve in curves.items()}
    positive = sorted(filter(None, risks.values())) or [0.0]
    most = COLLAPSED * positive[(len(positive) - 1) // 2]
    shown = [name for name in curves if risks[name] <= most]
    tops = [risks[name] for name in shown]
    # A band is wide where few images are accepted, also around a curve without an error.
    tops += [bands[name].high[-1] for name in shown if name in bands]
    return max(tops), [name for name in curves if name not in shown]


def reliability(figure: "Figure", bins: Bins) -> None:
    """Draws accuracy over confidence, and below it the number of images in each bin."""
    upper, lower = _stacked(figure, (3, 1))
    upper.plot((0, 100), (0, 100), color=MUTED, lw=1, ls=":", label="accuracy = confidence")
    points = 100 * bins.confidence, 100 * bins.accuracy
    ends = np.abs(100 * np.stack([bins.low, bins.high]) - points[1])
    look = {"color": svg.style(0)["color"], "marker": "o", "markersize": 4.5, "lw": 1.2}
    upper.errorbar(*points, yerr=ends, **look, capsize=2, elinewidth=1, label="model")
    upper.set(ylabel="accuracy, %", ylim=(0, 103))
    lower.bar(points[0], bins.examples, width=4, color=svg.style(0)["color"])
    lower.set(ylabel="images", xlim=(0, 102), xlabel="confidence, %")
    _counts(lower)
    _legend(figure)


def histogram(
    figure: "Figure",
    confidence: np.ndarray,
    correct: np.ndarray,
    *,
    name: str,
    threshold: float | None = None,
) -> None:
    """Draws the histograms of the confidence of correct and of wrong predictions.

    Args:
        figure: empty.
        confidence: `[n]`, finite.
        correct: bool `[n]`.
        name: of the score.
        threshold: from which predictions are accepted.
    """
    axes = figure.add_subplot(xlabel=name, ylabel="test images (log scale)")
    # float32 cannot represent the bin edges between neighbouring values near 1.
    edges = np.histogram_bin_edges(confidence.astype(np.float64), HISTOGRAM_BINS)
    for index, (group, rows) in enumerate({"correct": correct, "wrong": ~correct}.items()):
        counts = np.histogram(confidence[rows], edges)[0]
        heights = np.where(counts > 0, counts, np.nan)
        look = {"color": svg.style(index)["color"], "baseline": MIN_COUNT}
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
        steps_per_epoch: number of optimizer steps.
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
    rate.set(ylabel="learning rate", xlabel="epoch")
    _legend(figure)


def shift(
    figure: "Figure", clean: Mapping[str, Any], shifts: Mapping[str, Sequence[Mapping[str, Any]]]
) -> None:
    """Draws coverage and selective risk over the severity of each shift.

    Args:
        figure: empty.
        clean: `coverage` and `error` of the unchanged test images.
        shifts: the same at each `severity`, by the name of the shift.
    """
    coverage, risk = _stacked(figure, (1, 1))
    for index, (name, severities) in enumerate(shifts.items()):
        points = [{"severity": 0, **clean}, *severities]
        look = {**svg.style(index), "marker": "o", "markersize": 3.5, "lw": 1.6}
        for axes, key in ((coverage, "coverage"), (risk, "error")):
            # The risk is undefined, and the line has a gap, where nothing is accepted.
            values = [np.nan if point[key] is None else 100 * point[key] for point in points]
            label = name if axes is coverage else None
            axes.plot([point["severity"] for point in points], values, label=label, **look)
    coverage.set(ylabel="coverage, %", ylim=(0, 103))
    risk.set(ylabel="selective risk, %", xlabel="severity (0: no shift)")
    risk.set_ylim(bottom=0)
    _legend(figure)


def _stacked(figure: "Figure", heights: Sequence[float]) -> Sequence["Axes"]:
    """Returns axes above one another with a common x axis."""
    return figure.subplots(len(heights), sharex=True, height_ratios=list(heights))


def _counts(axes: "Axes") -> None:
    """Sets a log scale, on which a single image is visible beside thousands."""
    axes.set_yscale("log")
    axes.set_ylim(bottom=MIN_COUNT)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_minor_formatter("")


def _legend(figure: "Figure", columns: int = 2) -> None:
    """Draws the legend below the axes, where it covers no data."""
    figure.legend(loc="outside lower center", ncols=columns)
