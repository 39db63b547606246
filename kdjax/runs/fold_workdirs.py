"""The workdirs of the teachers of folds, within that of all of them."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from kdjax.data import Dataset
from kdjax.runs import workdir
from kdjax.training.spec import TEACHER

# In `config.json`: whether folds divide neither copies of an image nor a group.
UNDIVIDED = "undivided_units"


def fold_folder(teacher: pathlib.Path, fold: int) -> pathlib.Path:
    """Returns the workdir of the teacher of a fold, within the workdir of all of them."""
    return teacher / "folds" / str(fold)


def units(teacher: pathlib.Path, dataset: Dataset) -> np.ndarray | None:
    """Returns the units of the train split that the folds of a teacher do not divide.

    Args:
        teacher: workdir of the teachers; it may be missing.
        dataset: of the run.

    Returns:
        None without units, or if the workdir is of an earlier version, whose folds divide them.
    """
    if not (teacher / "config.json").exists():
        return dataset.train.units
    return dataset.train.units if workdir.read_metadata(teacher).get(UNDIVIDED) else None


def fold_metadata(
    config: ConfigDict, dataset: Mapping[str, Any], fold: int, examples: int
) -> dict[str, Any]:
    """Returns the content of `config.json` of the teacher of a fold.

    It is that of a teacher without folds, with the data set of the run, and `fold`: its `number`,
    the number of folds, `of`, and the number of `train_examples` outside the fold.

    Args:
        config: of the run, resolved.
        dataset: of the run, of `data.dataset_metadata`.
        fold: that is left out.
        examples: number of training images outside the fold.
    """
    metadata = workdir.run_metadata(config, TEACHER, dataset)
    metadata["config"][TEACHER]["folds"] = 0
    number_of = {"number": fold, "of": config.teacher.folds, "train_examples": examples}
    return {**metadata, "fold": number_of}


def trained_dataset(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the properties of the data set on which the network of a workdir was trained.

    Args:
        metadata: of `workdir.read_metadata`; that of the teacher of a fold has `fold`, see
            `fold_metadata`.
    """
    fold = metadata.get("fold")
    if fold is None:
        return dict(metadata["dataset"])
    return {**metadata["dataset"], "train_examples": fold["train_examples"]}
