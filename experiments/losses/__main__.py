"""Times each jitted loss and its gradient, beside the same formula in plain optax and in PyTorch.

python -m experiments.losses --torch-python=PATH --rounds=20 --out=FILE.json

On logits [65536, 101]. PATH is the python of an environment with torch; without it that side is
left out. The sides run in turn; a ratio is the other's time over that of kdjax in the same round.
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

from experiments.benchmark.measure import processor, ratio
from experiments.benchmark.protocol import Ask, WorkerError, public_command, worker
from experiments.losses.inputs import COLUMNS, GRADIENT, LOSS, NAMES, ROWS

TOLERANCE = 1e-5
OURS = "kdjax"


def measure(asks: Mapping[str, Ask], rounds: int) -> Iterator[dict[str, Any]]:
    """Yields a row for each loss and what was timed.

    Args:
        asks: by side, ours among them.
        rounds: turns of each side.

    Raises:
        WorkerError: if the sides do not compute the same.
    """
    for name in NAMES:
        _check_same({side: ask("values", side=side, name=name) for side, ask in asks.items()}, name)
        for side, ask in asks.items():
            ask("prepare", variant={"name": f"{side} {name}", "side": side, "loss": name})
        for road in (LOSS, GRADIENT):
            seconds: dict[str, list[float]] = {side: [] for side in asks}
            for _ in range(rounds):
                for side, ask in asks.items():
                    reply = ask("turn", variant=f"{side} {name}", road=road)
                    seconds[side].append(reply["seconds"])
            yield {
                "loss": name,
                "timed": road,
                "seconds": {side: statistics.median(own) for side, own in seconds.items()},
                "times_as_fast_as": {
                    side: ratio(own, seconds[OURS]) for side, own in seconds.items() if side != OURS
                },
            }


def _check_same(values: Mapping[str, Mapping[str, float]], name: str) -> None:
    for what in (LOSS, GRADIENT):
        found = [of_side[what] for of_side in values.values()]
        if max(found) - min(found) > TOLERANCE * max(map(abs, found)):
            raise WorkerError(f"{name}: the sides differ: {values}")


def table(found: Mapping[str, Any]) -> str:
    """Returns the Markdown table."""
    sides = [side for side in found["sides"] if side != OURS]
    lines = [
        f"| loss | timed | kdjax ms | {' | '.join(f'as fast as {side}' for side in sides)} |",
        "|---" * (3 + len(sides)) + "|",
    ]
    for row in found["rows"]:
        ratios = (row["times_as_fast_as"][side] for side in sides)
        told = (f"{r['median']:.2f} ({r['min']:.2f} to {r['max']:.2f})" for r in ratios)
        milliseconds = f"{1000 * row['seconds'][OURS]:.1f}"
        lines.append(f"| {' | '.join([row['loss'], row['timed'], milliseconds, *told])} |")
    return "\n".join([*lines, "", f"`{shlex.join(found['command'])}`"])


def main() -> None:
    """Measures, writes the file, prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--torch-python", default="")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(worker(sys.executable, "experiments.losses.in_jax"))
        asks = {OURS: ours, "optax": ours}
        if options.torch_python:
            theirs = worker(options.torch_python, "experiments.losses.in_torch")
            asks["torch"] = stack.enter_context(theirs)
        found = _all(asks, options.rounds)
    options.out.write_text(json.dumps(found, indent=2) + "\n")
    print(table(found))


def _all(asks: Mapping[str, Ask], rounds: int) -> dict[str, Any]:
    return {
        "command": public_command("experiments.losses"),
        "processor": processor(),
        "logits": [ROWS, COLUMNS],
        "sides": {side: ask("describe") for side, ask in asks.items()},
        "rounds": rounds,
        "rows": list(measure(asks, rounds)),
    }


if __name__ == "__main__":
    main()
