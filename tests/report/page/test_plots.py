"""The content of the plots."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.testing import assert_allclose

from kdjax import selective
from kdjax.report.page import figures, plots, stats, svg
from kdjax.selective import Curve


@pytest.fixture
def figure():
    return Figure(layout="constrained")


def lines(axes):
    """Returns the points of the lines by label."""
    return {line.get_label(): np.transpose(line.get_data()) for line in axes.lines}


CONFIDENCE = np.random.default_rng(0).uniform(size=80)
CORRECT = np.random.default_rng(1).uniform(size=80) < CONFIDENCE


def test_risk_coverage_draws_curves_bands_perfect_ranking_and_operating_point(figure):
    curve = selective.risk_coverage_curve(CONFIDENCE, CORRECT)
    band = plots.Band(np.array([0.5, 1.0]), np.array([0.1, 0.3]), np.array([0.2, 0.9]))
    optimal = stats.optimal_curve(CORRECT)
    plots.risk_coverage(
        figure, {"a": curve, "b": curve}, bands={"b": band}, optimal=optimal, point=(0.4, 0.1)
    )
    (axes,) = figure.axes
    drawn = lines(axes)
    for name in ("a", "b"):
        assert_allclose(drawn[name], 100 * np.transpose([curve.coverage, curve.risk]))
    assert_allclose(drawn["perfect ranking"], 100 * np.transpose(optimal))
    assert_allclose(drawn["operating point"], [[40, 10]])
    (area,) = axes.collections
    corners = {tuple(corner) for corner in area.get_paths()[0].vertices.round(9)}
    assert corners == {(50, 10), (50, 20), (100, 30), (100, 90)}
    assert axes.get_ylim()[1] > 90 and axes.get_xlim()[1] > 100
    labels = [text.get_text() for text in figure.legends[0].texts]
    assert labels == ["a", "b", "perfect ranking", "operating point"]


def test_risk_axis_ignores_high_risks_at_small_coverage(figure):
    curve = Curve(np.array([0.01, 0.5, 1.0]), np.array([1.0, 0.02, 0.05]), np.array([3, 2, 1]))
    plots.risk_coverage(figure, {"a": curve}, bands={})
    assert 5 < figure.axes[0].get_ylim()[1] < 7


def test_a_collapsed_run_does_not_flatten_the_other_curves(figure):
    coverage = np.array([0.5, 1.0])
    curves = {
        name: Curve(coverage, risk * np.array([0.5, 1.0]), np.array([2, 1]))
        for name, risk in (("a", 0.02), ("b", 0.03), ("collapsed", 0.7))
    }
    band = plots.Band(np.array([0.1, 1.0]), np.array([0.0, 0.01]), np.array([0.9, 0.04]))
    top, outside = plots.robust_top(curves, {"a": band})
    assert (top, outside) == (0.04, ["collapsed"])
    plots.risk_coverage(figure, curves, bands={"a": band}, top=top)
    assert 4 < figure.axes[0].get_ylim()[1] < 5


@pytest.mark.parametrize("risks", [[0.0, 0.0], [0.3, 0.35, 0.4], [0.01, 0.04], [0.7]])
def test_similar_curves_are_all_shown(risks):
    curves = {
        str(index): Curve(np.ones(1), np.array([risk]), np.ones(1))
        for index, risk in enumerate(risks)
    }
    assert plots.robust_top(curves, {}) == (max(risks), [])


def test_curves_of_one_group_have_one_style_and_one_entry_in_the_legend(figure):
    curve = selective.risk_coverage_curve(CONFIDENCE, CORRECT)
    curves = dict.fromkeys(["a", "b", "a again"], curve)
    plots.risk_coverage(figure, curves, bands={}, series=[0, 1, 0])
    first, second, third = figure.axes[0].lines
    assert first.get_color() == third.get_color() != second.get_color()
    assert [text.get_text() for text in figure.legends[0].texts] == ["a", "b"]


def test_a_curve_at_zero_risk_is_within_the_frame(figure):
    curve = selective.risk_coverage_curve(CONFIDENCE, np.ones(80, bool))
    plots.risk_coverage(figure, {"a": curve}, bands={})
    low, high = figure.axes[0].get_ylim()
    assert low < 0 < high


def test_a_curve_with_a_single_point_has_a_marker(figure):
    curve = selective.risk_coverage_curve(np.zeros(80), CORRECT)
    plots.risk_coverage(figure, {"a": curve}, bands={})
    (line,) = figure.axes[0].lines
    assert len(line.get_xdata()) == 1 and line.get_marker() == "o"


def test_reliability_diagram_draws_the_bins(figure):
    bins = stats.reliability(CONFIDENCE, CORRECT)
    plots.reliability(figure, bins)
    upper, lower = figure.axes
    (errors,) = upper.containers
    points = 100 * np.transpose([bins.confidence, bins.accuracy])
    assert_allclose(np.transpose(errors.lines[0].get_data()), points)
    (bars,) = errors.lines[2]
    ends = np.array([segment[:, 1] for segment in bars.get_segments()])
    assert_allclose(ends, 100 * np.transpose([bins.low, bins.high]), atol=1e-9)
    assert [bar.get_height() for bar in lower.patches] == bins.examples.tolist()


def test_histogram_counts_correct_and_wrong_predictions(figure):
    plots.histogram(figure, CONFIDENCE, CORRECT, name="margin", threshold=0.5)
    (axes,) = figure.axes
    edges = np.linspace(CONFIDENCE.min(), CONFIDENCE.max(), 31)
    outlines = [patch for patch in axes.patches if not patch.get_fill()]
    for patch, rows in zip(outlines, (CORRECT, ~CORRECT), strict=True):
        values, drawn_edges, _ = patch.get_data()
        assert_allclose(drawn_edges, edges)
        assert_allclose(np.nan_to_num(values), np.histogram(CONFIDENCE[rows], edges)[0])
    assert lines(axes)["threshold"][0, 0] == 0.5
    assert axes.get_xlabel() == "margin"
    labels = [text.get_text() for text in figure.legends[0].texts]
    assert labels == [f"correct ({CORRECT.sum()})", f"wrong ({(~CORRECT).sum()})", "threshold"]


@pytest.mark.parametrize("correct", [True, False])
@pytest.mark.parametrize(
    "confidence",
    [[0.5], [1, 1, 1], [1, np.nextafter(np.float32(1), np.float32(0))]],
    ids=["single", "tied", "neighbours"],
)
def test_histogram_of_equal_confidences_is_drawn(figure, confidence, correct):
    values = np.array(confidence, np.float32)
    plots.histogram(figure, values, np.full(len(values), correct), name="margin")
    index = 0 if correct else 1
    outline = [patch for patch in figure.axes[0].patches if not patch.get_fill()][index]
    assert np.nansum(outline.get_data().values) == len(values)


HISTORY = [
    {"step": 10, "split": "train", "accuracy": 0.5, "loss": 2.0, "learning_rate": 0.1},
    {"step": 10, "split": "dev", "accuracy": 0.4, "nll": 3.0},
    {"step": 20, "split": "train", "accuracy": 0.6, "loss": np.nan, "learning_rate": 0.05},
    {"step": 20, "split": "dev", "accuracy": 0.7},
]


def test_training_curves_are_over_epochs_without_nan(figure):
    plots.training(figure, HISTORY, steps_per_epoch=10)
    accuracy, loss, rate = ([line.get_xydata().tolist() for line in a.lines] for a in figure.axes)
    assert accuracy == [[[1, 50], [2, 60]], [[1, 40], [2, 70]]]
    assert loss == [[[1, 2]], [[1, 3]]]
    assert rate == [[[1, 0.1], [2, 0.05]]]
    assert [text.get_text() for text in figure.legends[0].texts] == ["train", "dev"]


def test_training_curves_may_be_incomplete(figure):
    plots.training(figure, HISTORY[1:2], steps_per_epoch=10)
    assert [len(line.get_xdata()) for line in figure.axes[0].lines] == [0, 1]


def test_shift_curves_start_at_severity_zero_and_have_gaps_where_nothing_is_accepted(figure):
    clean = {"coverage": 0.9, "error": 0.01}
    severities = [
        {"severity": 1, "coverage": 0.5, "error": 0.2},
        {"severity": 2, "coverage": 0.0, "error": None},
    ]
    plots.shift(figure, clean, {"noise": severities})
    coverage, risk = figure.axes
    assert_allclose(lines(coverage)["noise"], [[0, 90], [1, 50], [2, 0]])
    (line,) = risk.lines
    assert_allclose(line.get_xydata(), [[0, 1], [1, 20], [2, np.nan]])


def test_the_first_series_is_solid():
    assert svg.style(0)["dashes"] == (None, None)


@pytest.mark.parametrize(("n", "least"), [(1, 0.525), (3, 0.175), (10, 0.075), (1000, 0.025)])
def test_intervals_are_at_coverages_that_accept_something(n, least):
    coverages = figures.coverage_grid(n)
    assert coverages[0] == least and coverages[-1] == 1
    intervals = selective.bootstrap(CONFIDENCE[:n], CORRECT[:n], coverages=coverages, resamples=3)
    band = figures.band(intervals, coverages)
    assert_allclose(band.coverage, coverages)
    expected = [intervals[f"error_at_{coverage}"].high for coverage in coverages]
    assert_allclose(band.high, expected)
    assert np.all(band.low <= band.high)
