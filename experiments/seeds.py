"""Runs one config with several seeds and prints mean and spread of what it reaches on test.

python experiments/seeds.py --config=configs/digits.py --seeds=5 --out=runs/digits_seeds [FLAGS]

FLAGS go to kdjax.main as they are. A finished seed is not run again.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

Results = Mapping[str, Any]
Reading = Callable[[Results], float]


def run(config: str, seed: int, folder: pathlib.Path, flags: list[str]) -> Results:
    """Returns the results of one seed, trained in a process of its own."""
    command = [sys.executable, "-m", "kdjax.main", f"--config={config}", f"--workdir={folder}"]
    subprocess.run([*command, f"--config.seed={seed}", *flags], check=True)
    return json.loads((folder / "results.json").read_text())


def error_at(coverage: str, score: str) -> Reading:
    """Returns the reading of one score's error % at a coverage on test."""
    return lambda results: 100 * results["scores"][score]["error_at_coverage"][coverage]


def readings(results: Results) -> dict[str, Reading]:
    """Returns what is read from every seed's results, by name."""
    rows: dict[str, Reading] = {
        "teacher accuracy %": lambda found: 100 * found["teacher"]["test"]["accuracy"],
        "student accuracy %": lambda found: 100 * found["test"]["accuracy"],
    }
    if "teacher" not in results:
        del rows["teacher accuracy %"]
    for score in results["scores"]:
        for coverage in ("100", "90", "80"):
            rows[f"error % at {coverage} % coverage, {score}"] = error_at(coverage, score)
    return rows


def main() -> None:
    """Runs every seed, then prints a Markdown table: name, mean, standard deviation, each seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    options, flags = parser.parse_known_args()
    found = [
        run(options.config, seed, options.out / f"seed-{seed}", flags)
        for seed in range(options.seeds)
    ]
    print(f"\n| on test | mean | sd | seeds 0 to {options.seeds - 1} |\n|---|---|---|---|")
    for name, reading in readings(found[0]).items():
        values = [reading(results) for results in found]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        each = ", ".join(f"{value:.2f}" for value in values)
        print(f"| {name} | {statistics.mean(values):.2f} | {spread:.2f} | {each} |")


if __name__ == "__main__":
    main()
