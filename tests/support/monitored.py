"""A model that is watched, and files as `kdjax predict` prints them, with true labels."""

import csv
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdjax.selective import drift_reference
from support import colours

THRESHOLD = -0.8
RISK = {"bound": 0.05, "delta": 0.05}
COVERAGE = {"bound": 0.7, "delta": 0.05, "split": "calibration", "accepted": 160, "images": 200}
COLUMNS = ("path", "index", "label", "accepted", "confidence", "score", "note")


def model(folder: pathlib.Path, **changes: Any) -> pathlib.Path:
    """Writes the folder of a model with a card for monitoring; returns it."""
    rng = np.random.default_rng(9)
    reference = drift_reference(rng.normal(size=300), others=rng.normal(size=300))
    drift = {name: list(values) for name, values in reference._asdict().items()}
    fields = {
        "threshold": THRESHOLD,
        "certificate": {"risk": 0.05, "delta": 0.05, "examples": 200},
        "monitoring": {"risk": RISK, "coverage": COVERAGE, "drift": drift},
        **changes,
    }
    return colours.write(folder, b"not read", **fields)


def rows(
    n: int, *, seed: int = 0, wrong: float = 0.02, labelled: float = 0.5, shift: float = 0.0
) -> list[dict[str, Any]]:
    """Returns the results of n images with columns `truth` and `time`.

    Args:
        n: number of images.
        seed: of the random numbers.
        wrong: probability of an error.
        labelled: probability of a true label.
        shift: of the scores, which are accepted from `THRESHOLD` on.
    """
    rng = np.random.default_rng(seed)
    scores, labels = rng.normal(size=n) + shift, rng.integers(3, size=n)
    truths = (labels + (rng.random(n) < wrong)) % 3
    known = rng.random(n) < labelled
    return [
        {
            "path": f"{i}.png",
            "index": i,
            "label": colours.CLASSES[labels[i]],
            "accepted": bool(scores[i] >= THRESHOLD),
            "confidence": float(1 / (1 + np.exp(-scores[i]))),
            "score": float(scores[i]),
            "note": "",
            "truth": colours.CLASSES[truths[i]] if known[i] else None,
            "time": f"2026-03-{1 + i // 100:02d}",
        }
        for i in range(n)
    ]


def write_csv(path: pathlib.Path, results: Sequence[Mapping[str, Any]]) -> str:
    """Writes results as a CSV file; returns its path."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(results[0]), lineterminator="\n")
        writer.writeheader()
        for row in results:
            writer.writerow({**row, "accepted": str(row["accepted"]).lower()})
    return str(path)


def write_json(path: pathlib.Path, results: Sequence[Mapping[str, Any]]) -> str:
    """Writes results as JSON Lines; returns the path."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in results))
    return str(path)
