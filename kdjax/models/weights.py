"""Weights of a network from a safetensors file, matched by name and shape."""

import os
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from kdjax.errors import InputError, nearest_name
from kdjax.models.apply import Variables, abstract_variables

COLLECTIONS = ("params", "batch_stats")
# Mismatches that an error message lists; the others are counted.
MAX_LISTED = 4


class WeightsFile(NamedTuple):
    """The content of a safetensors file.

    Attributes:
        arrays: by name.
        metadata: texts by name, which the writer of the file has added.
    """

    arrays: dict[str, np.ndarray]
    metadata: dict[str, str]


def read(path: str | os.PathLike[str]) -> WeightsFile:
    """Reads a safetensors file.

    Args:
        path: the file.

    Raises:
        InputError: if the file is missing, not in the safetensors format, or the package
            `safetensors` is not installed.
    """
    file = pathlib.Path(path)
    if not file.is_file():
        raise InputError(f"no weights at {str(path)!r}: there is no such file")
    try:
        import safetensors
    except ImportError as error:
        raise InputError(
            f"{str(path)!r} needs the package safetensors: pip install 'kdjax[weights]'"
        ) from error
    try:
        # The framework "flax" also reads bfloat16.
        with safetensors.safe_open(file, framework="flax") as content:
            names = content.keys()
            arrays = {name: np.asarray(content.get_tensor(name)) for name in names}
            return WeightsFile(arrays, dict(content.metadata() or {}))
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{str(path)!r} is not a safetensors file: {error}") from error


def load(path: str | os.PathLike[str], model: nn.Module, image_shape: tuple[int, ...]) -> Variables:
    """Returns the variables of a network from a safetensors file.

    Args:
        path: the file; see `assign` for its names.
        model: the network.
        image_shape: height, width and channels of the images that the network is applied to.

    Raises:
        InputError: if the file cannot be read, or does not fit the network; one line names every
            mismatch.
    """
    template = abstract_variables(model, image_shape)
    return assign(template, read(path).arrays, str(path))


def assign(template: Mapping[str, Any], arrays: Mapping[str, Any], source: str) -> Variables:
    """Returns arrays as the variables of a network.

    Args:
        template: `params` and `batch_stats` of the network: anything with shapes and dtypes.
        arrays: by name: the path of a variable with dots or slashes, such as
            `params.Conv_0.kernel` or `batch_stats/BatchNorm_0/mean`. The collection may be left
            out where one name has only one variable.
        source: name of the file, for messages.

    Returns:
        `params` and `batch_stats`, with the dtypes of the template.

    Raises:
        InputError: if a variable is missing or has another shape, if an array belongs to no
            variable, or is not finite; one line names every mismatch.
    """
    needed = flatten_dict({name: dict(template.get(name, {})) for name in COLLECTIONS})
    given, unknown = by_path(arrays, needed)
    problems = [
        *_missing(needed.keys() - given.keys()),
        *_unknown(unknown, needed.keys() - given.keys()),
        *(line for path in given if (line := _misfit(path, given[path], needed[path]))),
    ]
    if problems:
        more = len(problems) - MAX_LISTED
        listed = "; ".join(problems[:MAX_LISTED]) + (f"; and {more} more" if more > 0 else "")
        raise InputError(f"{source!r} does not fit the network: {listed}")
    cast = {path: jnp.asarray(given[path], needed[path].dtype) for path in needed}
    return {name: {} for name in COLLECTIONS} | unflatten_dict(cast)


def by_path(
    arrays: Mapping[str, Any], needed: Mapping[tuple[str, ...], Any]
) -> tuple[dict[tuple[str, ...], Any], list[str]]:
    """Returns the arrays by the path of their variable, and the names that belong to none.

    Args:
        arrays: by name, see `assign`.
        needed: the variables of the network by path.
    """
    given, unknown = {}, []
    for name, array in arrays.items():
        parts = tuple(re.split(r"[./]", name))
        paths = [parts, *((collection, *parts) for collection in COLLECTIONS)]
        path = next((path for path in paths if path in needed and path not in given), None)
        if path is None:
            unknown.append(name)
        else:
            given[path] = array
    return given, unknown


def _missing(paths: Iterable[tuple[str, ...]]) -> list[str]:
    names = sorted(".".join(path) for path in paths)
    return [f"{len(names)} missing: {', '.join(_shortened(names))}"] if names else []


def _unknown(names: list[str], missing: Iterable[tuple[str, ...]]) -> list[str]:
    if not names:
        return []
    listed = f"{len(names)} that it does not have: {', '.join(_shortened(sorted(names)))}"
    candidates = [".".join(path) for path in missing]
    near = nearest_name(names[0], candidates)
    hint = f" (did you mean {near}?)" if near else ""
    return [f"{listed}{hint}"]


def _shortened(names: list[str]) -> list[str]:
    return names if len(names) <= MAX_LISTED else [*names[: MAX_LISTED - 1], "..."]


def _misfit(path: tuple[str, ...], array: Any, variable: Any) -> str:
    """Returns what is wrong with an array; empty if nothing is."""
    name = ".".join(path)
    if array.shape != variable.shape:
        torch = array.shape == variable.shape[-1:] + variable.shape[-2:-1] + variable.shape[:-2]
        hint = " (the order of PyTorch: transpose it)" if torch and array.ndim > 1 else ""
        return f"{name} has shape {array.shape}, not {variable.shape}{hint}"
    if not np.isfinite(np.asarray(array, np.float32)).all():
        return f"{name} has values that are not finite"
    return ""
