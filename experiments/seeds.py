"""Runs a config with several seeds and prints mean and standard deviation on test.

python experiments/seeds.py --config=configs/digits.py --seeds=5 --out=runs/digits_seeds [FLAGS]

FLAGS are passed to kdjax.main. A finished seed is not trained again. The config must be of one
student.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from absl import flags
from ml_collections import config_flags

Results = Mapping[str, Any]
Metric = Callable[[Results], float]


def num_listed_students(config: str, arguments: Sequence[str]) -> int:
    """Returns the length of the config's `students`; 0 for a single student.

    Returns 0 for an invalid config, too: kdjax.main reports what is wrong.

    Args:
        config: the config file.
        arguments: flags of kdjax.main.
    """
    sys.path.insert(0, str(pathlib.Path.cwd()))  # as `python -m kdjax.main` does
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values)
    overrides = [argument for argument in arguments if argument.startswith("--config.")]
    try:
        values(["seeds.py", f"--config={config}", *overrides])
        return len(values.config.students)
    except (flags.Error, AttributeError, OSError, TypeError, ValueError):
        return 0


def run(config: str, seed: int, folder: pathlib.Path, arguments: Sequence[str]) -> Results:
    """Trains one seed in a new process and returns its results; exits if that fails."""
    command = [sys.executable, "-m", "kdjax.main", f"--config={config}", f"--workdir={folder}"]
    status = subprocess.run([*command, f"--config.seed={seed}", *arguments]).returncode
    if status:
        fail(f"the run of seed {seed} in {folder} ended with status {status}", status)
    return json.loads((folder / "results.json").read_text())


def fail(message: str, status: int) -> NoReturn:
    """Prints an error and exits."""
    print(f"seeds.py: error: {message}", file=sys.stderr)
    sys.exit(status)


def error_at(coverage: str, score: str) -> Metric:
    """Returns the metric: selective risk in % of a score at a coverage in %, on test."""
    return lambda results: 100 * results["scores"][score]["error_at_coverage"][coverage]


def make_metrics(results: Results) -> dict[str, Metric]:
    """Returns the metrics of the table by name, for runs with the same fields as these results."""
    metrics: dict[str, Metric] = {}
    if "teacher" in results:
        metrics["teacher accuracy %"] = lambda each: 100 * each["teacher"]["test"]["accuracy"]
    metrics["student accuracy %"] = lambda each: 100 * each["test"]["accuracy"]
    for score in results["scores"]:
        for coverage in ("100", "90", "80"):
            metrics[f"error % at {coverage} % coverage, {score}"] = error_at(coverage, score)
    return metrics


def table(all_results: Sequence[Results]) -> str:
    """Returns the Markdown table: metric, mean, standard deviation, value of each seed."""
    lines = [f"| on test | mean | sd | seeds 0 to {len(all_results) - 1} |", "|---|---|---|---|"]
    for name, metric in make_metrics(all_results[0]).items():
        values = [metric(results) for results in all_results]
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        per_seed = ", ".join(f"{value:.2f}" for value in values)
        lines.append(f"| {name} | {statistics.mean(values):.2f} | {deviation:.2f} | {per_seed} |")
    return "\n".join(lines)


def main() -> None:
    """Runs every seed and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="the config file")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, from 0")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of the workdirs")
    options, arguments = parser.parse_known_args()
    if count := num_listed_students(options.config, arguments):
        fail(
            f"{options.config} lists {count} students: give a config of one student, with empty "
            "`students` and its method in `objective.method`",
            2,
        )
    all_results = [
        run(options.config, seed, options.out / f"seed-{seed}", arguments)
        for seed in range(options.seeds)
    ]
    print(f"\n{table(all_results)}")


if __name__ == "__main__":
    main()
