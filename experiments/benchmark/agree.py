"""Whether both libraries compute the same: logits of the same weights, and the objective."""

import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.benchmark.protocol import Ask

NETWORKS = ("alexnet", "resnet18", "resnet50")
TOLERANCE = 1e-4


def agree(asks: Mapping[str, Ask]) -> list[dict[str, Any]]:
    """Returns for each network how far the sides are apart.

    Args:
        asks: of kdjax, which makes the weights, and of torch, which reads them.
    """
    return [_one(asks, network) for network in NETWORKS]


def _one(asks: Mapping[str, Ask], network: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        losses = {
            side: asks[side]("agreement", network=network, folder=folder)["loss"]
            for side in ("kdjax", "torch")
        }
        own, other = (np.load(pathlib.Path(folder, f"{side}.npy")) for side in losses)
    return {
        "network": network,
        "difference": float(np.abs(own - other).max()),
        "largest_logit": float(np.abs(own).max()),
        "objective_difference": abs(losses["kdjax"] - losses["torch"]),
    }


def holds(found: Sequence[Mapping[str, Any]]) -> bool:
    """Returns whether all logits and objectives agree to `TOLERANCE`; not if there are NaNs."""
    return all(
        row[name] <= TOLERANCE for row in found for name in ("difference", "objective_difference")
    )
