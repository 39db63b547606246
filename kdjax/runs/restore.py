"""What a workdir's `config.json` describes, loaded: config, data set, trained network."""

import os
import pathlib
from typing import NamedTuple

import flax.linen as nn
from ml_collections import ConfigDict

from kdjax import config as configs
from kdjax import data
from kdjax.data import own
from kdjax.errors import InputError
from kdjax.models.apply import Variables
from kdjax.paths import user_path
from kdjax.runs import fold_workdirs, workdir
from kdjax.training import step, teacher_network
from kdjax.training.checkpoint import Checkpoints
from kdjax.training.spec import TEACHER, train_spec


class RestoredModel(NamedTuple):
    """A trained network.

    Attributes:
        model: the network; `model.apply(variables, images, train=False)` gives its logits.
        variables: its `params` and `batch_stats`.
    """

    model: nn.Module
    variables: Variables


def load_data(config: ConfigDict) -> data.Dataset:
    """Returns the data set that a config names, limited to `data.limit` images per split."""
    fields = config.data
    dataset = data.load(
        fields.name,
        data_dir=fields.dir or None,
        train_split=fields.train_split,
        test_split=fields.test_split,
        test_fraction=fields.test_fraction,
        dev_fraction=fields.dev_fraction,
        calibration_fraction=fields.calibration_fraction,
        split_seed=fields.split_seed,
        image_size=fields.image_size,
        fit=fields.fit,
        strict=fields.strict,
        stream=fields.pipeline == "stream",
    )
    if not fields.limit:
        return dataset
    return data.limit_examples(dataset, fields.limit, fields.split_seed)


def load_config(folder: pathlib.Path) -> ConfigDict:
    """Returns the config of a workdir; fields that its version did not have get their defaults.

    Raises:
        InputError: if the folder is not a workdir.
    """
    config = configs.base()
    config.update(workdir.read_metadata(folder)["config"])
    return config


def load_dataset(folder: pathlib.Path, data_dir: str | None = None) -> data.Dataset:
    """Returns the data set of a workdir.

    Args:
        folder: the workdir.
        data_dir: the TFDS directory, if not the one of the run.

    Raises:
        InputError: if the folder is not a workdir, or the data set has changed.
    """
    config = load_config(folder)
    config.data.dir = data_dir or config.data.dir
    dataset = load_data(config)
    workdir.check_same_run(folder, {"dataset": data.dataset_metadata(dataset)})
    return dataset


def check_own_images(folder: pathlib.Path, data_dir: str | None = None) -> None:
    """Raises if the own images of a workdir have changed; nothing is checked if they are gone.

    Args:
        folder: the workdir.
        data_dir: folder of the cache, if not the one of the run.

    Raises:
        InputError: naming what has changed.
    """
    location = own.parse(load_config(folder).data.name)
    if location and own.missing_error(location) is None:
        load_dataset(folder, data_dir)


def restore(folder: str | os.PathLike[str]) -> RestoredModel:
    """Returns the network of a workdir from its best checkpoint.

    Args:
        folder: the workdir of a student or of a teacher; of a teacher with folds, the ensemble of
            the teachers of all folds is returned.

    Raises:
        InputError: if the folder is not a workdir, or its training is not finished.
    """
    folder = user_path(folder)
    metadata = workdir.read_metadata(folder)
    if metadata["stage"] == workdir.STUDENTS:
        raise workdir.several_students_error(folder)
    if source := metadata.get("source"):
        raise InputError(
            f"{str(folder)!r} holds a teacher of kind {source['kind']!r}, which this run has not "
            "trained: only the run that uses it can evaluate it"
        )
    if metadata["config"][TEACHER]["folds"] and metadata["stage"] == TEACHER:
        return RestoredModel(*teacher_network.ensemble(restore_folds(folder)))
    try:
        spec = train_spec(
            load_config(folder), metadata["stage"], fold_workdirs.trained_dataset(metadata)
        )
    except InputError as error:  # a class of the user that has moved or changed
        raise InputError(f"{error}; config.json in {str(folder)!r} names this network") from error
    template = step.abstract_state(spec, tuple(metadata["dataset"]["image_shape"]))
    path = folder / "checkpoints"
    with Checkpoints(path, metadata["config"], read_only=True) as checkpoints:
        done = max(checkpoints.steps(), default=0)
        best = checkpoints.best(template) if done >= spec.total_steps else None
    if best is None:
        raise InputError(
            f"the training in {str(folder)!r} is not finished (step {done} of "
            f"{spec.total_steps}): the command that started it continues it"
        )
    return RestoredModel(spec.model, step.eval_variables(best.state))


def restore_folds(folder: pathlib.Path) -> list[RestoredModel]:
    """Returns the network of each fold of a teacher with folds.

    Args:
        folder: the workdir of the teacher.

    Raises:
        InputError: if the training of a fold is not finished.
    """
    count = load_config(folder).teacher.folds
    paths = [fold_workdirs.fold_folder(folder, fold) for fold in range(count)]
    for fold, path in enumerate(paths):
        if not (path / "config.json").exists():
            raise InputError(
                f"the training in {str(folder)!r} is not finished ({fold} of {count} folds): the "
                "command that started it continues it"
            )
    return list(map(restore, paths))
