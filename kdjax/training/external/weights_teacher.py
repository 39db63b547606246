"""A teacher with a network of the user and its weights in a safetensors file."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from kdjax.data import Dataset
from kdjax.data.augment import normalize
from kdjax.errors import InputError
from kdjax.models import user_network, weights
from kdjax.models.apply import Variables, apply_eval
from kdjax.paths import user_path
from kdjax.runtime import atomic_io
from kdjax.training import spec, teacher_network
from kdjax.training.external import accuracy_check, class_order, input_fields
from kdjax.training.external.accuracy_check import Alternative

KIND = "weights"


def describe_source(config: ConfigDict, dataset: Dataset) -> tuple[dict[str, Any], str]:
    """Returns all that identifies a teacher with given weights, after its check on dev.

    Args:
        config: resolved.
        dataset: of the run.

    Returns:
        JSON values; and a line that says how accurate the teacher is.

    Raises:
        InputError: if the weights do not fit the network, or the classes those of the data set.
    """
    path = user_path(config.teacher.weights)
    rows = accuracy_check.sample(len(dataset.dev.labels))
    images, labels = np.asarray(dataset.dev.images[rows]), np.asarray(dataset.dev.labels)[rows]
    logits = _logits(config, dataset, images)
    if logits.shape != (len(rows), dataset.num_classes):
        raise InputError(
            f"{where(path)}: teacher.model {config.teacher.model!r} gives outputs {logits.shape}, "
            f"not {(len(rows), dataset.num_classes)}"
        )
    if not np.isfinite(logits).all():
        raise InputError(f"{where(path)}: the outputs of the network are not finite")

    def alternatives() -> list[Alternative]:
        return [
            Alternative(
                _changed_flags(config.teacher, changes),
                _logits(_with_fields(config, changes), dataset, images),
            )
            for changes in _other_normalizations(dataset.image_shape[-1])
        ]

    columns = class_order.columns(_names(config), dataset.class_names, where(path))
    note = accuracy_check.check(
        where(path), logits, labels, dataset.class_names, alternatives, columns
    )
    return {"kind": KIND, "file": path.name, "sha256": atomic_io.file_hash(path)}, note


def _logits(config: ConfigDict, dataset: Dataset, images: np.ndarray) -> np.ndarray:
    """Returns the outputs for images uint8 [n, h, w, c]."""
    model, variables = load(config, dataset)
    mean, std = jnp.asarray(dataset.mean), jnp.asarray(dataset.std)
    return np.asarray(apply_eval(model, variables, normalize(jnp.asarray(images), mean, std)))


def _with_fields(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    changed = ConfigDict(config.to_dict(), type_safe=False)
    changed.teacher.update(changes)
    return changed


def _other_normalizations(channels: int) -> list[dict[str, Any]]:
    """Returns common values of `teacher.input_*`, all three of each."""
    names = (input_fields.DATA, *(input_fields.NORMALIZATIONS if channels == 3 else ()))
    return [
        {"input_scale": scale, "input_mean": mean, "input_std": std}
        for scale, mean, std in (
            (input_fields.FLOAT_SCALE, "0", "1"),
            (1.0, "0", "1"),
            *((input_fields.FLOAT_SCALE, name, name) for name in names),
            (input_fields.FLOAT_SCALE, input_fields.HALF, input_fields.HALF),
        )
    ]


def _changed_flags(fields: ConfigDict, changes: Mapping[str, Any]) -> dict[str, str]:
    """Returns the config fields to set for a normalization, without those that have its values."""
    given = {**fields, "input_scale": fields.input_scale or input_fields.FLOAT_SCALE}
    return {
        f"teacher.{name}": f"{value:g}" if isinstance(value, float) else value
        for name, value in changes.items()
        if value != given[name]
    }


def _names(config: ConfigDict) -> tuple[str, ...]:
    """Returns the class names by output: given ones, else those in the file; empty if unknown."""
    fields = config.teacher
    if fields.class_names:
        return class_order.parse_names(fields.class_names)
    return class_order.names_in_metadata(weights.read(user_path(fields.weights)).metadata)


def load(config: ConfigDict, dataset: Dataset) -> tuple[Any, Variables]:
    """Returns the network with its weights, which takes images normalized by the data set.

    Its outputs are the classes of the data set in their order.

    Raises:
        InputError: as `describe_source`.
    """
    fields, path, names = config.teacher, user_path(config.teacher.weights), _names(config)
    model = spec.create_network(
        config, spec.TEACHER, len(names) or dataset.num_classes, dataset.image_shape
    )
    user_network.check(model, dataset.image_shape, len(names) or dataset.num_classes)
    variables = weights.load(path, model, dataset.image_shape)
    if (renormalized := _renormalized(fields, model, dataset)) is not None:
        model, variables = teacher_network.wrap(renormalized, variables)
    columns = class_order.columns(names, dataset.class_names, where(path))
    if columns is not None:
        selected = teacher_network.SelectedOutputs(model, columns)
        model, variables = teacher_network.wrap(selected, variables)
    return model, variables


def _renormalized(fields: Any, model: Any, dataset: Dataset) -> teacher_network.Renormalized | None:
    """Returns the network with its own normalization; None if it is that of the data set."""
    if not (fields.input_scale or fields.input_mean or fields.input_std):
        return None
    mean, std = input_fields.normalization(fields, dataset, ((0.0,), (1.0,)))
    scale = fields.input_scale or input_fields.FLOAT_SCALE
    data_mean, data_std = np.float64(dataset.mean), np.float64(dataset.std)
    # x / 255 = data_std * normalized + data_mean, and the network takes (x / scale - mean) / std.
    brightness = 255 / scale
    factor = data_std * brightness / np.asarray(std)
    shift = (data_mean * brightness - np.asarray(mean)) / np.asarray(std)
    return teacher_network.Renormalized(model, tuple(factor.tolist()), tuple(shift.tolist()))


def where(path: pathlib.Path) -> str:
    """Returns the field with its value, for messages."""
    return f"teacher.weights {str(path)!r}"
