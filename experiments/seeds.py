"""Runs a config with several seeds and prints mean and standard deviation on test.

python experiments/seeds.py --config=configs/digits.py --seeds=5 --out=runs/digits_seeds [FLAGS]

FLAGS are passed to kdjax.main. A finished seed is not trained again. A config of several students
gives a row for each of them.
"""

import argparse
import json
import pathlib
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from kdjax.report import outcomes

Results = Mapping[str, Any]
Students = Mapping[str, Results]
Metric = Callable[[Any], float]


def run(config: str, seed: int, folder: pathlib.Path, arguments: Sequence[str]) -> Students:
    """Trains one seed in a new process and returns the results of its students by name.

    Exits if the run fails. A single student is called "student".
    """
    command = [sys.executable, "-m", "kdjax.main", f"--config={config}", f"--workdir={folder}"]
    status = subprocess.run([*command, f"--config.seed={seed}", *arguments]).returncode
    if status:
        fail(f"the run of seed {seed} in {folder} ended with status {status}", status)
    if (folder / "results.json").exists():
        return {"student": read(folder)}
    return {path.name: read(path) for path in sorted((folder / "students").iterdir())}


def read(folder: pathlib.Path) -> Results:
    """Returns the results of a workdir."""
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


def best_score(results: Results) -> Results:
    """Returns the metrics of the score with the lowest AURC on dev."""
    return results["scores"][results["best_score"]]


def accepted_errors(results: Results) -> float:
    """Returns the errors among the images accepted by the certificate, in %; nan without any."""
    outcome = outcomes.outcome(results)
    return 100 * outcome.accepted_errors / outcome.accepted if outcome.accepted else float("nan")


# Of each of several students, with the score that has the lowest AURC on dev.
STUDENT_METRICS: dict[str, Metric] = {
    "accuracy %": lambda each: 100 * each["test"]["accuracy"],
    "error % at 90 % coverage": lambda each: 100 * best_score(each)["error_at_coverage"]["90"],
    "error % at 80 % coverage": lambda each: 100 * best_score(each)["error_at_coverage"]["80"],
    "AURC x 1000": lambda each: 1000 * best_score(each)["aurc"],
    "wrong images, all accepted": lambda each: outcomes.outcome(each).errors,
    "images accepted by the certificate": lambda each: outcomes.outcome(each).accepted,
    "wrong images among these": lambda each: outcomes.outcome(each).accepted_errors,
    "error % among these": accepted_errors,
}


def student_metrics(students: Students) -> dict[str, Metric]:
    """Returns the metrics of a seed's students, and those of their teacher, by name."""

    def of_network(metric: Metric, name: str) -> Metric:
        return lambda each: metric(outcomes.networks(each)[name])

    return {
        f"{label}, {name}": of_network(metric, name)
        for label, metric in STUDENT_METRICS.items()
        for name in outcomes.networks(students)
    }


def table(all_results: Sequence[Any], metrics: Mapping[str, Metric]) -> str:
    """Returns the Markdown table: metric, mean, standard deviation, value of each seed.

    Args:
        all_results: what the metrics take, for each seed.
        metrics: by name.
    """
    lines = [f"| on test | mean | sd | seeds 0 to {len(all_results) - 1} |", "|---|---|---|---|"]
    for name, metric in metrics.items():
        values = [metric(results) for results in all_results]
        deviation = f"{np.std(values, ddof=1):.2f}" if len(values) > 1 else "-"
        per_seed = ", ".join(f"{value:.2f}" for value in values)
        lines.append(f"| {name} | {np.mean(values):.2f} | {deviation} | {per_seed} |")
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
    if options.seeds < 1:
        fail(f"--seeds={options.seeds}: must be at least 1", 2)
    seeds = [
        run(options.config, seed, options.out / f"seed-{seed}", arguments)
        for seed in range(options.seeds)
    ]
    if "student" in seeds[0]:
        results = [each["student"] for each in seeds]
        print(f"\n{table(results, make_metrics(results[0]))}")
    else:
        print(f"\n{table(seeds, student_metrics(seeds[0]))}")


if __name__ == "__main__":
    main()
