"""The training of the teacher of a run: one network, or one for each fold."""

import pathlib
import warnings
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from kdjax.data import Dataset, dataset_metadata, folds
from kdjax.runs import fold_workdirs, workdir
from kdjax.runtime import multihost
from kdjax.training.loop import train_stage
from kdjax.training.spec import TEACHER, TrainSpec, train_spec
from kdjax.training.train_group import TrainJob


def check(config: ConfigDict, dataset: Dataset) -> TrainSpec:
    """Returns the spec of the teacher, or of the one that is trained without the largest fold.

    Args:
        config: resolved, of a run that trains its teacher.
        dataset: of the run.

    Raises:
        InputError: if the data set does not allow the config, or its number of folds.
    """
    metadata, count = dataset_metadata(dataset), config.teacher.folds
    if count:
        train, seed = dataset.train, config.data.split_seed
        assigned = folds.stratified_folds(train.labels, count, seed, train.units)
        _warn_of_single_images(count, dataset)
        metadata["train_examples"] -= int(np.bincount(assigned).max())
    return train_spec(config, TEACHER, metadata)


def train(config: ConfigDict, folder: pathlib.Path, dataset: Dataset) -> None:
    """Trains the teacher, or that of each fold, from the latest checkpoint in its workdir.

    The teachers of folds are trained one after the other: they see different images, so that a
    program of all of them would not share any work, and only one is in memory.

    Args:
        config: resolved.
        folder: the workdir of the teacher; those of folds have workdirs within it.
        dataset: of the run.

    Raises:
        InputError: if the workdir belongs to another teacher.
        FloatingPointError, Preempted, KeyboardInterrupt: see `train_stage`.
    """
    metadata = workdir.run_metadata(config, TEACHER, dataset_metadata(dataset))
    if not config.teacher.folds:
        _train(config, folder, dataset, metadata)
        return
    units = fold_workdirs.units(folder, dataset)
    undivided = {} if units is None else {fold_workdirs.UNDIVIDED: True}
    with multihost.primary_first("workdir of the teachers claimed"):
        workdir.claim(folder, metadata | undivided)
    labels, count = dataset.train.labels, config.teacher.folds
    assigned = folds.stratified_folds(labels, count, config.data.split_seed, units)
    for fold in range(count):
        part = folds.without_fold(dataset, assigned, fold)
        kept = len(part.train.labels)
        if multihost.is_primary():
            print(
                f"teacher {fold + 1} of {count}: trained without fold {fold}, "
                f"{len(labels) - kept:,} of {len(labels):,} images",
                flush=True,
            )
        fold_metadata = fold_workdirs.fold_metadata(config, metadata["dataset"], fold, kept)
        _train(config, fold_workdirs.fold_folder(folder, fold), part, fold_metadata)


def _train(
    config: ConfigDict, folder: pathlib.Path, dataset: Dataset, metadata: dict[str, Any]
) -> None:
    """Trains a teacher on a train split, in a workdir with this `config.json`."""
    spec = train_spec(config, TEACHER, dataset_metadata(dataset))
    with multihost.primary_first("teacher workdir claimed"):
        workdir.claim(folder, metadata)
    train_stage(
        [TrainJob(spec, folder, config.to_dict())], dataset, placement=config.data.placement
    )


def _warn_of_single_images(count: int, dataset: Dataset) -> None:
    labels, units = dataset.train.labels, dataset.train.units
    pairs = np.stack([labels, np.arange(len(labels)) if units is None else units])
    different = np.bincount(np.unique(pairs, axis=1)[0], minlength=dataset.num_classes)
    single = [dataset.class_names[index] for index in np.flatnonzero(different == 1)]
    if single:
        more = f" and {len(single) - 1} more" if len(single) > 1 else ""
        only = "one training image" if units is None else "one training image or group of images"
        warnings.warn(
            f"teacher.folds {count}: there is {only} of class {single[0]!r}{more}, and the teacher "
            "that has not seen it does not know the class",
            RuntimeWarning,
            stacklevel=4,
        )
