"""The weights that `student.init` names: of a workdir or of a safetensors file."""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from kdjax.data import Dataset, dataset_metadata, own
from kdjax.errors import InputError
from kdjax.models import apply, weights
from kdjax.paths import user_path
from kdjax.runs import restore, workdir
from kdjax.runtime import multihost
from kdjax.training.external.class_order import names_in_metadata
from kdjax.training.initial import InitialWeights, fit
from kdjax.training.spec import STUDENT, create_network, last_layer

SUFFIX = ".safetensors"


def loader(
    config: ConfigDict, folder: pathlib.Path, dataset: Dataset
) -> Callable[[], InitialWeights] | None:
    """Returns a function that gives the weights with which a student's training starts.

    They are loaded at once, so that an error shows before anything is trained; but not if the
    workdir has a checkpoint, with which training goes on unless it is damaged or another student of
    the run has none.

    Args:
        config: of the student, resolved.
        folder: its workdir.
        dataset: of the run.

    Returns:
        None if they are random. The function raises an error as `load` does.

    Raises:
        InputError: see `load`.
    """
    if not config.student.init:
        return None
    get = functools.cache(functools.partial(load, config, dataset))
    # Orbax gives an unfinished checkpoint a name with a suffix.
    if not any(path.name.isdigit() for path in (folder / "checkpoints").glob("*")):
        get()
    return get


def load(config: ConfigDict, dataset: Dataset) -> InitialWeights:
    """Returns the weights of `student.init`, checked.

    Args:
        config: of the student, resolved.
        dataset: of the run.

    Raises:
        InputError: if there is no such workdir or file, it does not fit the student, or it was
            trained on another split of the same images.
    """
    given = _read(config, dataset)
    model = create_network(config, STUDENT, dataset.num_classes, dataset.image_shape)
    shapes = apply.abstract_variables(model, dataset.image_shape)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    _, random_parts = fit(zeros, given)
    if random_parts and multihost.is_primary():
        print(f"{given.source}: {random_parts} will start at random", flush=True)
    return given


def unknown_source(init: str, data: Mapping[str, Any], dataset: Mapping[str, Any]) -> str:
    """Returns the weights that may have seen images of the calibration split, for a message.

    Args:
        init: `student.init`.
        data: `config.data` of the student.
        dataset: of the student, of `dataset_metadata`.

    Returns:
        The file, or the workdir if it was trained on other images or is gone, also if that of
        `init` was trained from it; empty if it is known that they have not seen any.
    """
    path = user_path(init) if init else pathlib.Path()
    if not init or path.suffix == SUFFIX or not (path / "config.json").exists():
        return init
    stored = workdir.read_metadata(path)
    if not _same_images(stored["dataset"], dataset) or workdir.split_differences(stored, data):
        return init
    return unknown_source(stored["config"].get(STUDENT, {}).get("init", ""), data, dataset)


def _check_split(
    folder: pathlib.Path, stored: Mapping[str, Any], config: ConfigDict, dataset: Dataset
) -> None:
    """Raises if a workdir, with this metadata, was trained on another split of the same images."""
    lines = workdir.split_differences(stored, config.data)
    if lines and _same_images(stored["dataset"], dataset_metadata(dataset)):
        raise InputError(
            f"student.init {str(folder)!r} was trained on another split of the same images, so on "
            "some of those that choose the checkpoint and the threshold here; its fields and "
            f"yours: {'; '.join(lines)}"
        )


def _same_images(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    # The version of own images is a hash of their content; the name is where they lie.
    return a["version"] == b["version"] and (bool(own.parse(b["name"])) or a["name"] == b["name"])


def _read(config: ConfigDict, dataset: Dataset) -> InitialWeights:
    path = user_path(config.student.init)
    if path.suffix == SUFFIX:
        content = weights.read(path)
        arrays, class_names = content.arrays, names_in_metadata(content.metadata)
    else:
        arrays, class_names = _of_workdir(path, config, dataset)
    return InitialWeights(
        source=f"student.init {config.student.init}",
        arrays=arrays,
        head=last_layer(config, STUDENT, dataset.num_classes, dataset.image_shape),
        same_classes=not class_names or tuple(class_names) == dataset.class_names,
        num_classes=dataset.num_classes,
    )


def _of_workdir(
    folder: pathlib.Path, config: ConfigDict, dataset: Dataset
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns the trained weights by name, and the names of their classes."""
    if not (folder / "config.json").exists():
        raise InputError(
            f"student.init {str(folder)!r} is neither a workdir nor a file that ends in {SUFFIX}"
        )
    stored = workdir.read_metadata(folder)
    _check_split(folder, stored, config, dataset)
    names = stored["dataset"]["class_names"]
    variables = restore.restore(folder).variables
    return flatten_dict(variables, sep="."), tuple(names)
