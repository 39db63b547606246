"""Runs on the embedded digits, as small as possible, and what they left in their workdirs."""

import importlib.util
import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

import kdjax.config
from kdjax.runs import restore, workdir
from kdjax.training import step
from kdjax.training.checkpoint import Checkpoints, RestoredCheckpoint
from kdjax.training.preemption import Preemption
from kdjax.training.spec import train_spec
from kdjax.training.train_group import TrainGroup
from support.commands import ROOT
from support.tiny_network import TINY_NETWORK


def get_config(path: pathlib.Path) -> ConfigDict:
    """Returns what `get_config` of a config file returns."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def tiny(data_dir: pathlib.Path, **changes: Any) -> ConfigDict:
    """Returns the digits config, shrunk to a second of training, resolved."""
    config = get_config(ROOT / "configs" / "digits.py")
    networks = {"teacher.model": TINY_NETWORK, "student.model": TINY_NETWORK}
    changes = {"smoke": True, **networks, **changes}
    config.update_from_flattened_dict({"data.dir": str(data_dir), **changes})
    return kdjax.config.resolve(config)


def log_lines(folder: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the lines of `metrics.jsonl`."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def checkpoint(folder: pathlib.Path, which: str) -> RestoredCheckpoint:
    """Returns the `latest` or the `best` checkpoint of a workdir."""
    metadata = workdir.read_metadata(folder)
    spec = train_spec(restore.load_config(folder), metadata["stage"], metadata["dataset"])
    template = step.abstract_state(spec, tuple(metadata["dataset"]["image_shape"]))
    with Checkpoints(folder / "checkpoints", {}) as checkpoints:
        restored = getattr(checkpoints, which)(template)
    assert restored is not None
    return restored


def final_arrays(folder: pathlib.Path) -> tuple[int, list[np.ndarray]]:
    """Returns the step and the arrays of the latest checkpoint of a workdir."""
    latest = checkpoint(folder, "latest")
    return latest.step, [np.asarray(leaf) for leaf in jax.tree.leaves(latest.state)]


def stop_at_step(patch: pytest.MonkeyPatch, step: int) -> None:
    """Stops the training after this step of a stage, as SIGTERM would."""
    reached, run_steps = [0], TrainGroup.run_steps

    def record(group: TrainGroup, *arguments: Any) -> None:
        run_steps(group, *arguments)
        reached.append(group.step)

    patch.setattr(TrainGroup, "run_steps", record)
    patch.setattr(Preemption, "requested", lambda self: reached[-1] == step)
