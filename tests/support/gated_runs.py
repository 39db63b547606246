"""A short run on the digits with many calibration images, whose gate is Mahalanobis."""

import pathlib
from typing import Any

from ml_collections import ConfigDict

import kdjax.config
from support.tiny_network import TINY_NETWORK

RISK, ACCEPTANCE = 0.3, 0.9


def gated_config(data_dir: pathlib.Path, **changes: Any) -> ConfigDict:
    """Returns the config of a run of a second with 719 calibration images, resolved."""
    config = kdjax.config.base()
    config.update_from_flattened_dict(
        {
            "data.dir": str(data_dir),
            "data.pad": 1,
            "data.flip": False,
            "data.calibration_fraction": 0.5,
            "size": "laptop",
            "objective.method": "ce",
            "selective.risk": RISK,
            "selective.gate": "mahalanobis",
            "selective.gate_acceptance": ACCEPTANCE,
            "selective.views": "shift",
            "student.model": TINY_NETWORK,
            "student.width": 8,
            "student.epochs": 6,
            "eval_every": 6,
            "student.batch_size": 64,
            **changes,
        }
    )
    return kdjax.config.resolve(config)
