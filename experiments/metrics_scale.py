"""Times the metrics, certificates and intervals of kdjax.selective on millions of predictions.

python -m experiments.metrics_scale --out=experiments/results/metrics_scale.md [--only NAME ...]

Each function runs in a process of its own, `--rounds` times, in turn with the others; the peak
memory is that of the process while the function runs, in which the imports take about 200 MiB and
the predictions what the column says. It needs Linux.
"""

import argparse
import concurrent.futures
import importlib.metadata
import multiprocessing
import os
import pathlib
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments.benchmark.protocol import processor, public_command
from kdjax import selective

RISK, CLASSES, COVERAGES, RESAMPLES = 0.05, 10, (0.95, 0.9, 0.8, 0.7), 1000
GOALS = {"predictions": 3.0, "resamples": 30.0}  # seconds


class Sample(NamedTuple):
    """Predictions `[n]` of two runs, with groups; the share of errors is 13 %."""

    confidence: np.ndarray
    correct: np.ndarray
    group: np.ndarray
    other_confidence: np.ndarray
    other_correct: np.ndarray

    @property
    def accepted(self) -> np.ndarray:
        """Whether each prediction is accepted at confidence 0, half of them."""
        return self.confidence > 0


class Matrix(NamedTuple):
    """Probabilities `[n, CLASSES]`, float32, and labels `[n]`."""

    values: np.ndarray
    labels: np.ndarray


def draw_sample(n: int) -> Sample:
    """Returns predictions that are correct with the log-odds 3 + 2 confidence."""
    rng = np.random.default_rng(0)
    confidence = rng.normal(size=n)
    correct = rng.random(n) < 1 / (1 + np.exp(-3 - 2 * confidence))
    other = confidence + 0.3 * rng.normal(size=n)
    differs = rng.random(n) < 0.02
    return Sample(confidence, correct, rng.integers(CLASSES, size=n), other, correct ^ differs)


def draw_matrix(n: int) -> Matrix:
    """Returns random probabilities and labels."""
    rng = np.random.default_rng(0)
    values = np.exp(rng.normal(size=(n, CLASSES)).astype(np.float32))
    values /= values.sum(axis=1, keepdims=True)
    return Matrix(values, rng.integers(CLASSES, size=n))


Draw = Callable[[int], Any]
Function = Callable[[Any], Any]
SAMPLE: Mapping[str, Function] = {
    "learn_then_test": lambda s: selective.learn_then_test(s.confidence, s.correct, risk=RISK),
    "sgr": lambda s: selective.sgr(s.confidence, s.correct, risk=RISK),
    "classwise, 10 groups": lambda s: selective.classwise(
        s.confidence, s.correct, s.group, risk=RISK
    ),
    "joint_certificate": lambda s: selective.joint_certificate(
        s.confidence, s.correct, risk=RISK, coverage=0.7
    ),
    "certified_ladder, 3 risks": lambda s: selective.certified_ladder(
        s.confidence, s.correct, risks=(0.01, 0.02, RISK)
    ),
    "risk_coverage_curve": lambda s: selective.risk_coverage_curve(s.confidence, s.correct),
    "aurc": lambda s: selective.aurc(s.confidence, s.correct),
    "e_aurc": lambda s: selective.e_aurc(s.confidence, s.correct),
    "augrc": lambda s: selective.augrc(s.confidence, s.correct),
    "auroc": lambda s: selective.auroc(s.confidence, s.correct),
    "fpr_at_tpr": lambda s: selective.fpr_at_tpr(s.confidence, s.correct),
    "error_at_coverage, 4 coverages": lambda s: selective.error_at_coverage(
        s.confidence, s.correct, COVERAGES
    ),
    "coverage_at_risk, 3 risks": lambda s: selective.coverage_at_risk(
        s.confidence, s.correct, (0.01, 0.02, 0.05)
    ),
    "threshold_at_coverage": lambda s: selective.threshold_at_coverage(s.confidence, coverage=0.9),
    "accept_at": lambda s: selective.accept_at(s.confidence, s.correct, 0.0),
    "expected_calibration_error": lambda s: selective.expected_calibration_error(
        np.exp(-np.exp(-s.confidence)), s.correct
    ),
    "group_rates, 10 groups": lambda s: selective.group_rates(
        s.accepted, s.correct, s.group, num_groups=CLASSES
    ),
    "check_promise": lambda s: selective.check_promise(s.accepted, s.correct, risk=RISK),
}
MATRIX: Mapping[str, Function] = {
    "negative_log_likelihood, 10 classes": lambda m: selective.negative_log_likelihood(*m),
    "brier, 10 classes": lambda m: selective.brier(*m),
    "confusion_matrix": lambda m: selective.confusion_matrix(m.labels, m.labels, CLASSES),
}
INTERVALS: Mapping[str, Function] = {
    "bootstrap, 1,000 resamples": lambda s: selective.bootstrap(
        s.confidence, s.correct, resamples=RESAMPLES
    ),
    "compare, 1,000 resamples": lambda s: selective.compare(*s[:2], *s[3:], resamples=RESAMPLES),
}


class Work(NamedTuple):
    """A function with its data.

    Attributes:
        draw: `n -> data`.
        function: of the data.
        n: number of predictions.
        goal: seconds.
    """

    draw: Draw
    function: Function
    n: int
    goal: float


class Measured(NamedTuple):
    """The seconds of a call, and MiB of the process at its peak and of its data."""

    seconds: float
    peak: float
    data: float


def all_work(n: int, resampled_n: int) -> dict[str, Work]:
    """Returns what is measured by name.

    Args:
        n: predictions of the metrics and certificates.
        resampled_n: predictions of the bootstrap.
    """
    goal = GOALS["predictions"]
    return {
        **{name: Work(draw_sample, f, n, goal) for name, f in SAMPLE.items()},
        **{name: Work(draw_matrix, f, n, goal) for name, f in MATRIX.items()},
        **{
            name: Work(draw_sample, f, resampled_n, GOALS["resamples"])
            for name, f in INTERVALS.items()
        },
    }


def measure(name: str, n: int, resampled_n: int) -> Measured:
    """Returns the time and memory of a function in this process."""
    work = all_work(n, resampled_n)[name]
    data = work.draw(work.n)
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak of the drawing does not count
    start = time.perf_counter()
    work.function(data)
    seconds = time.perf_counter() - start
    return Measured(seconds, _peak(), sum(array.nbytes for array in data) / 2**20)


def _peak() -> float:
    """Returns the largest memory of this process since `clear_refs` was written, in MiB."""
    status = pathlib.Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 2**10


def measure_alone(name: str, n: int, resampled_n: int) -> Measured:
    """Returns the same from a new process, whose peak is that of this function."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measure, name, n, resampled_n).result()


def table(results: Mapping[str, list[Measured]], work: Mapping[str, Work]) -> str:
    """Returns a Markdown table of the medians, with ranges."""
    lines = [
        "| function | predictions | seconds (min to max) | goal | peak memory, MiB | data, MiB |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, runs in results.items():
        seconds = [run.seconds for run in runs]
        low, median, high = min(seconds), statistics.median(seconds), max(seconds)
        lines.append(
            f"| {name} | {work[name].n:,} | {median:.2f} ({low:.2f} to {high:.2f}) "
            f"| {work[name].goal:g} | {max(run.peak for run in runs):,.0f} "
            f"| {runs[0].data:,.0f} |"
        )
    return "\n".join(lines)


def conditions(rounds: int) -> str:
    """Returns the machine, the versions and the command."""
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("numpy", "scipy")
    )
    command = shlex.join(public_command("experiments.metrics_scale"))
    return (
        f"{processor()}, {len(os.sched_getaffinity(0))} cores; python {platform.python_version()}, "
        f"{versions}; medians over {rounds} rounds, in which the functions run in turn, each in a "
        f"process of its own. `{command}`"
    )


def report(results: Mapping[str, list[Measured]], work: Mapping[str, Work], rounds: int) -> str:
    """Returns the results page."""
    return "\n\n".join(
        [
            "# Metrics, certificates and intervals of millions of predictions",
            "Predictions are correct with log-odds 3 + 2 c, c normal: 13 % errors and no ties. "
            "Certificates have a risk of 5 %, intervals 7 metrics.",
            table(results, work),
            conditions(rounds) + "\n",
        ]
    )


def main(arguments: Iterable[str] | None = None) -> None:
    """Measures, and writes and prints the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--predictions", type=int, default=10_000_000)
    parser.add_argument("--resampled", type=int, default=1_000_000, help="of the bootstrap")
    parser.add_argument("--only", nargs="+", default=None, help="beginnings of function names")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    options = parser.parse_args(None if arguments is None else list(arguments))
    sizes = options.predictions, options.resampled
    work = all_work(*sizes)
    names = [n for n in work if options.only is None or n.startswith(tuple(options.only))]
    if not names:
        parser.error(f"--only {options.only}: no function begins so; there are {', '.join(work)}")
    results: dict[str, list[Measured]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in names:
            results[name].append(measure_alone(name, *sizes))
            print(f"{name}: {results[name][-1].seconds:.2f} s", file=sys.stderr, flush=True)
    page = report(results, work, options.rounds)
    options.out.write_text(page)
    print(page)


if __name__ == "__main__":
    main()
