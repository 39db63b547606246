"""Compares the logits of equal weights, and the objective, between kdjax and PyTorch."""

import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.benchmark.protocol import Worker

NETWORKS = ("alexnet", "alexnet_small", "fast_cnn", "resnet8", "resnet18", "resnet50")
TOLERANCE = 1e-4


def compare(workers: Mapping[str, Worker]) -> list[dict[str, Any]]:
    """Returns the differences between the two libraries, one row for each of `NETWORKS`.

    Args:
        workers: `kdjax`, which creates the weights, and `torch`, which loads them.
    """
    return [_compare_network(workers, network) for network in NETWORKS]


def _compare_network(workers: Mapping[str, Worker], network: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        losses = {
            side: workers[side]("agreement", network=network, folder=folder)["loss"]
            for side in ("kdjax", "torch")
        }
        logits = {side: np.load(pathlib.Path(folder, f"{side}.npy")) for side in losses}
    return {
        "network": network,
        "difference": float(np.abs(logits["kdjax"] - logits["torch"]).max()),
        "largest_logit": float(np.abs(logits["kdjax"]).max()),
        "objective_difference": abs(losses["kdjax"] - losses["torch"]),
    }


def within_tolerance(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Returns whether all differences are at most `TOLERANCE`; False if one is NaN.

    Args:
        rows: of `compare`.
    """
    return all(
        row[name] <= TOLERANCE for row in rows for name in ("difference", "objective_difference")
    )
