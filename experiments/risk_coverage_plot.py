"""Draws the README's picture: the risk-coverage curves of a finished run.

python experiments/risk_coverage_plot.py --workdir=runs/digits --out=risk_coverage.svg
"""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from absl import app, flags
from matplotlib.figure import Figure

from kdjax import selective
from kdjax.evaluation import certification, predictions
from kdjax.evaluation.certification import OperatingPoint
from kdjax.runs import workdir

WORKDIR = flags.DEFINE_string("workdir", None, "workdir of the run", required=True)
OUT = flags.DEFINE_string("out", None, "picture to write, .svg or .png", required=True)

# Score -> its name in the legend and its color.
CURVES: Mapping[str, tuple[str, str]] = {
    "softmax_response_log_odds": ("softmax response, max r", "#1f5fbf"),
    "reservation_log_odds": ("reservation, 1 - q_a", "#c2571a"),
}
COVERAGES = np.arange(2, 41) / 40
SETTINGS: Any = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "risk_coverage",  # the same ids in every run of this script
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e3e3",
}


class Outputs(NamedTuple):
    """The outputs of a run on its test split.

    Attributes:
        confidence: of each score, [n].
        correct: bool [n].
        point: by which the run accepts predictions.
        accepted: by `point`, bool [n].
    """

    confidence: Mapping[str, np.ndarray]
    correct: np.ndarray
    point: OperatingPoint
    accepted: np.ndarray


def read(folder: pathlib.Path) -> Outputs:
    """Returns the outputs of a finished run."""
    results = workdir.read_results(folder)
    test = predictions.load(predictions.path_of(folder, "test"))
    scores = certification.scores_of(results)
    point = certification.operating_point(results)
    return Outputs(
        {name: scores[name](test.logits) for name in CURVES},
        test.correct,
        point,
        point.decide(test),
    )


def draw(outputs: Outputs) -> Figure:
    """Returns the figure: one curve per score, with 95 % intervals, and the ideal curve."""
    figure = Figure(figsize=(7.2, 4.2), layout="constrained", facecolor="white")
    axes = figure.add_subplot(
        xlabel="coverage: accepted, % of the test images",
        ylabel="selective risk: error among them, %",
    )
    for name, (label, color) in CURVES.items():
        curve = selective.risk_coverage_curve(outputs.confidence[name], outputs.correct)
        axes.plot(100 * curve.coverage, 100 * curve.risk, label=label, color=color, lw=2)
        intervals = selective.bootstrap(
            outputs.confidence[name], outputs.correct, coverages=list(COVERAGES)
        )
        low, high = np.transpose([intervals[f"error_at_{each}"][1:] for each in COVERAGES])
        axes.fill_between(100 * COVERAGES, 100 * low, 100 * high, color=color, alpha=0.15, lw=0)
    accepted = np.arange(1, len(outputs.correct) + 1)
    ideal = np.maximum(0, accepted - outputs.correct.sum()) / accepted
    axes.plot(
        100 * accepted / len(accepted), 100 * ideal, label="perfect ranking", color="#777", ls=":"
    )
    _mark_point(axes, outputs)
    top = 130 * (1 - outputs.correct.mean())
    axes.set(xlim=(0, 101), ylim=(-0.02 * top, top))
    axes.legend(loc="upper left", frameon=False)
    return figure


def _mark_point(axes: Any, outputs: Outputs) -> None:
    """Marks the certified operating point and the risk that it is certified for."""
    guarantee, accepted = outputs.point.guarantee, outputs.accepted
    if not (outputs.point.certified and guarantee):
        return
    coverage = accepted.mean()
    error = (~outputs.correct[accepted]).mean() if accepted.any() else np.nan
    risk, certainty = 100 * guarantee["risk"], 100 * (1 - guarantee["delta"])
    axes.axhline(risk, color="#2c7a4b", lw=1, ls="--")
    axes.plot(100 * coverage, 100 * error, "D", color="#2c7a4b", ms=8, zorder=3)
    axes.annotate(
        f"certified: at most {risk:g} % error,\nwith {certainty:g} % certainty;\n"
        f"test: {100 * error:.2f} % at {100 * coverage:.1f} % coverage",
        (100 * coverage, 100 * error),
        (0.34, 0.5),
        textcoords="axes fraction",
        ha="center",
        color="#2c7a4b",
        arrowprops={"arrowstyle": "-", "color": "#2c7a4b"},
    )


def main(_: list[str]) -> None:
    """Runs the command."""
    with matplotlib.rc_context(SETTINGS):
        figure = draw(read(pathlib.Path(WORKDIR.value)))
        figure.savefig(OUT.value, metadata={"Date": None} if OUT.value.endswith("svg") else None)
    print(OUT.value)


if __name__ == "__main__":
    app.run(main)
