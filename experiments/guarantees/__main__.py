"""Simulates how often each guarantee is violated, and writes the page of results.

python -m experiments.guarantees [--draws=20000] [--only NAME ...] [--out=FILE.md]

Calibration splits are drawn from distributions with a known risk at every threshold, adversarial
ones among them. Exits with status 1 if a frequency of violations exceeds its delta by more than two
standard errors. The choice among several runs takes half an hour and has a page of its own:
experiments/certificates.py.
"""

import argparse
import concurrent.futures
import os
import pathlib
import time
from collections.abc import Callable, Sequence

from experiments.guarantees import (
    cascade,
    classwise,
    gate,
    joint,
    ladder,
    monitoring,
    page,
    selective_risk,
    sets,
)
from experiments.guarantees.rows import Row

# Title of the table and its simulation (draws, seed) -> rows, by name.
SIMULATIONS: dict[str, tuple[str, Callable[[int, int], list[Row]]]] = {
    "selective_risk": ("Error among accepted images", selective_risk.simulate),
    "joint": ("Error and share of accepted images together", joint.simulate),
    "ladder": ("Several limits for the error at once", ladder.simulate),
    "by_class": ("Error within each class", classwise.simulate),
    "sets": ("Right class missing from a prediction set (delta: alpha)", sets.simulate),
    "cascade": ("Error of student and teacher together", cascade.simulate),
    "gate": ("Share of images that a gate passes, and the error of what passes", gate.simulate),
    "monitoring": ("False alarms of a monitor", monitoring.simulate),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the page, or also writes it."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.guarantees",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--draws", type=int, default=20_000, help="simulated splits in a setting")
    parser.add_argument("--only", nargs="+", choices=SIMULATIONS, default=list(SIMULATIONS))
    parser.add_argument("--out", type=pathlib.Path, help="the Markdown file to write")
    options = parser.parse_args(arguments)
    # The simulations are independent; each uses one core.
    with concurrent.futures.ProcessPoolExecutor(_workers(len(options.only))) as pool:
        found = pool.map(_simulate, options.only, [options.draws] * len(options.only))
        results = dict(zip(options.only, found, strict=True))
    titles = {name: title for name, (title, _) in SIMULATIONS.items()}
    text = page.markdown(results, titles, _command(options), options.draws)
    print(text)
    if options.out:
        options.out.write_text(text)
    if any(row.exceeds() for simulated in results.values() for row in simulated.rows):
        raise SystemExit(1)


def _workers(simulations: int) -> int:
    return max(1, min(simulations, len(os.sched_getaffinity(0))))


def _simulate(name: str, draws: int) -> page.Simulated:
    start = time.perf_counter()
    rows = SIMULATIONS[name][1](draws, 0)
    return page.Simulated(rows, time.perf_counter() - start)


def _command(options: argparse.Namespace) -> str:
    only = "" if options.only == list(SIMULATIONS) else f" --only {' '.join(options.only)}"
    out = f" --out={options.out}" if options.out else ""
    return f"python -m experiments.guarantees --draws={options.draws}{only}{out}"


if __name__ == "__main__":
    main()
