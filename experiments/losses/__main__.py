"""Times each jitted loss and its gradient beside the same equation in plain optax and PyTorch.

python -m experiments.losses --torch-python=PATH --rounds=20 --out=FILE.json

Logits are [65536, 101]. PATH is the Python of an environment with torch and numpy; without it
PyTorch is left out. The implementations run in turn. A ratio is the time of the other
implementation divided by the time of kdjax in the same round, so above 1 kdjax is faster.
"""

import argparse
import contextlib
import json
import pathlib
import shlex
import statistics
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from experiments.benchmark.measure import ratio
from experiments.benchmark.protocol import (
    Worker,
    WorkerError,
    processor,
    public_command,
    start_worker,
)
from experiments.losses.inputs import COLUMNS, GRADIENT, LOSS, NAMES, ROWS

TOLERANCE = 1e-5
KDJAX = "kdjax"


def measure(workers: Mapping[str, Worker], rounds: int) -> Iterator[dict[str, Any]]:
    """Yields one row for each loss, and one for its gradient.

    Args:
        workers: by side, with kdjax among them.
        rounds: timed runs of each side.

    Raises:
        WorkerError: if the values of the sides differ.
    """
    for name in NAMES:
        _check_equal(
            {side: worker("values", side=side, name=name) for side, worker in workers.items()}, name
        )
        for side, worker in workers.items():
            worker("prepare", variant={"name": f"{side} {name}", "side": side, "loss": name})
        for phase in (LOSS, GRADIENT):
            yield _row(name, phase, _time(workers, name, phase, rounds))


def _time(
    workers: Mapping[str, Worker], name: str, phase: str, rounds: int
) -> dict[str, list[float]]:
    """Returns the seconds of each round by side."""
    seconds: dict[str, list[float]] = {side: [] for side in workers}
    for _ in range(rounds):
        for side, worker in workers.items():
            reply = worker("time", variant=f"{side} {name}", phase=phase)
            seconds[side].append(reply["seconds"])
    return seconds


def _row(name: str, phase: str, seconds: Mapping[str, list[float]]) -> dict[str, Any]:
    return {
        "loss": name,
        "timed": phase,
        "seconds": {side: statistics.median(times) for side, times in seconds.items()},
        "times_as_fast_as": {
            side: ratio(times, seconds[KDJAX]) for side, times in seconds.items() if side != KDJAX
        },
    }


def _check_equal(values: Mapping[str, Mapping[str, float]], name: str) -> None:
    for quantity in (LOSS, GRADIENT):
        numbers = [side_values[quantity] for side_values in values.values()]
        if max(numbers) - min(numbers) > TOLERANCE * max(map(abs, numbers)):
            raise WorkerError(f"{name}: the values of the sides differ: {values}")


def table(results: Mapping[str, Any]) -> str:
    """Returns the Markdown table of the results."""
    sides = [side for side in results["sides"] if side != KDJAX]
    ratio_headings = " | ".join(f"speed relative to {side}" for side in sides)
    lines = [f"| loss | timed | kdjax ms | {ratio_headings} |", "|---" * (3 + len(sides)) + "|"]
    for row in results["rows"]:
        ratios = (row["times_as_fast_as"][side] for side in sides)
        cells = (f"{r['median']:.2f} ({r['min']:.2f} to {r['max']:.2f})" for r in ratios)
        milliseconds = f"{1000 * row['seconds'][KDJAX]:.1f}"
        lines.append(f"| {' | '.join([row['loss'], row['timed'], milliseconds, *cells])} |")
    return "\n".join([*lines, "", f"`{shlex.join(results['command'])}`"])


def main() -> None:
    """Measures, writes the results file and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--torch-python", default="", help="Python of an environment with torch")
    parser.add_argument("--rounds", type=int, default=20, help="timed runs of each loss and side")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the results file")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        jax_worker = stack.enter_context(start_worker(sys.executable, "experiments.losses.in_jax"))
        workers = {KDJAX: jax_worker, "optax": jax_worker}
        if options.torch_python:
            torch_worker = start_worker(options.torch_python, "experiments.losses.in_torch")
            workers["torch"] = stack.enter_context(torch_worker)
        results = _measure_all(workers, options.rounds)
    options.out.write_text(json.dumps(results, indent=2) + "\n")
    print(table(results))


def _measure_all(workers: Mapping[str, Worker], rounds: int) -> dict[str, Any]:
    return {
        "command": public_command("experiments.losses"),
        "processor": processor(),
        "logits": [ROWS, COLUMNS],
        "sides": {side: worker("describe") for side, worker in workers.items()},
        "rounds": rounds,
        "rows": list(measure(workers, rounds)),
    }


if __name__ == "__main__":
    main()
