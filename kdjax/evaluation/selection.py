"""The choice of a setting of a sweep on the development split, and the table of the sweep."""

import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from kdjax import selective
from kdjax.errors import InputError
from kdjax.evaluation import certification, predictions

# Coverages at which the error on dev and on test is in the table.
COVERAGES = (0.9, 0.8)
# What every table of a sweep says about its numbers.
NOTES = (
    "The setting was chosen on dev. Dev also chose each checkpoint and score, so that the dev "
    "values of the chosen setting are too good; test was used for no choice, and its values for "
    "the other settings are shown for information.",
    "As calibration and test have no part in the choice, the certificate of the chosen setting "
    "holds at its own delta, however many settings were tried. To choose another setting after a "
    "look at certificates or test results, certify at delta / S for S settings.",
)
Row = dict[str, Any]


def row(folder: pathlib.Path, results: Mapping[str, Any]) -> Row:
    """Returns the line of a setting, or of a seed, in the table of a sweep.

    Args:
        folder: its workdir.
        results: content of its `results.json`.

    Returns:
        `name`, that of the folder; `score`, the one with the lowest AURC on dev; and `dev` and
        `test` with `aurc`, `accuracy`, `error_at_90` and `error_at_80` with this score, and
        `abstained`, the share of images on which the abstention output is the largest (None if the
        method does not train it).
    """
    score = results["best_score"]
    values = results["scores"][score]
    split = predictions.load(predictions.path_of(folder, "dev"))
    confidence = certification.scores_of(results)[score](split.logits)
    errors = selective.error_at_coverage(confidence, split.correct, COVERAGES)
    on_test = [values["error_at_coverage"][f"{100 * coverage:g}"] for coverage in COVERAGES]
    return {
        "name": folder.name,
        "score": score,
        "dev": _metrics(results["dev"], values["dev_aurc"], errors.tolist()),
        "test": _metrics(results["test"], values["aurc"], on_test),
    }


def _metrics(split: Mapping[str, Any], aurc: float, errors: Sequence[float]) -> dict[str, Any]:
    return {
        "aurc": aurc,
        "accuracy": split["accuracy"],
        **{f"error_at_{100 * c:g}": error for c, error in zip(COVERAGES, errors, strict=True)},
        "abstained": split.get("abstained"),
    }


def choose(rows: Sequence[Row], metric: str) -> str:
    """Returns the name of the setting that is best on dev, the first of `rank`.

    Args:
        rows: of `row`, in the order of the sweep.
        metric: `aurc` or `accuracy`.

    Raises:
        InputError: if no setting has finite metrics.
    """
    best = rank(rows, metric)[0]
    if not _is_finite(best):
        raise InputError("no setting of the sweep has a finite AURC and accuracy on dev")
    name: str = best["name"]
    return name


def rank(rows: Sequence[Row], metric: str) -> list[Row]:
    """Returns the settings in the order of their metric on dev, the best first.

    The lowest AURC, or the highest accuracy; among equals the one that is better by the other of
    the two, and among those the first of the sweep. A setting whose AURC or accuracy is not finite
    comes last.
    """

    def order(entry: Row) -> tuple[bool, float, float]:
        if not _is_finite(entry):
            return True, 0.0, 0.0
        area, accuracy = entry["dev"]["aurc"], entry["dev"]["accuracy"]
        return (False, area, -accuracy) if metric == "aurc" else (False, -accuracy, area)

    return sorted(rows, key=order)


def _is_finite(entry: Row) -> bool:
    return math.isfinite(entry["dev"]["aurc"]) and math.isfinite(entry["dev"]["accuracy"])


def mean_and_deviation(rows: Sequence[Row]) -> tuple[Row, Row]:
    """Returns the mean and the standard deviation (n - 1) of each metric over seeds.

    Args:
        rows: of `row`, at least one.

    Returns:
        `dev` and `test` by metric; None where a metric is None for a seed, and the deviation also
        for a single seed.
    """
    mean: Row = {}
    deviation: Row = {}
    for split in ("dev", "test"):
        values = {name: [entry[split][name] for entry in rows] for name in rows[0][split]}
        mean[split] = {name: _apply(statistics.fmean, each, 1) for name, each in values.items()}
        deviation[split] = {
            name: _apply(statistics.stdev, each, 2) for name, each in values.items()
        }
    return mean, deviation


def _apply(function: Any, values: Sequence[float | None], least: int) -> float | None:
    return None if None in values or len(values) < least else function(values)
