"""Weights with which the training of a network starts, in place of random ones."""

from collections.abc import Mapping, Set
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from kdjax.models import weights
from kdjax.models.apply import Variables
from kdjax.training.step import TrainState

Path = tuple[str, ...]


class InitialWeights(NamedTuple):
    """The weights of another training, of a workdir or of a file.

    Attributes:
        source: the workdir or file, for messages.
        arrays: by name, see `weights.assign`.
        head: paths of the variables of the new network's last layer.
        same_classes: whether the outputs are the classes of the new network, in their order;
            otherwise the last layer starts at random.
        num_classes: m of the new network.
    """

    source: str
    arrays: Mapping[str, Any]
    head: Set[Path]
    same_classes: bool
    num_classes: int


def fit(random: Variables, given: InitialWeights) -> tuple[Variables, str]:
    """Returns the variables with which the training starts.

    The last layer may have another number of outputs. If it has m where the network has m+1, the
    abstention output starts at random; otherwise the layer does. So do the batch statistics if none
    are given.

    Args:
        random: the variables with which it would start otherwise.
        given: the weights.

    Returns:
        The variables, and what starts at random, in words; empty if nothing does.

    Raises:
        InputError: if the weights do not fit the network; one line names every mismatch.
    """
    variables = flatten_dict({name: dict(random[name]) for name in weights.COLLECTIONS})
    arrays, unknown = weights.by_path(given.arrays, variables)
    fitted: dict[Path, Any] = {path: _fit_layer(path, variables, arrays, given) for path in arrays}
    if not any(path[0] == "batch_stats" for path in arrays):
        fitted |= {path: leaf for path, leaf in variables.items() if path[0] == "batch_stats"}
    complete = {".".join(path): array for path, array in fitted.items()}
    complete |= {name: given.arrays[name] for name in unknown}  # which `assign` refuses
    note = _note(variables, arrays, given)
    return weights.assign(random, complete, given.source), note


def start(state: TrainState, given: InitialWeights) -> TrainState:
    """Returns the state before the first step with given weights."""
    variables, _ = fit(state.variables, given)
    average = jax.tree.map(jnp.copy, variables) if state.average else state.average
    return state.replace(variables=variables, average=average)


def _fit_layer(
    path: Path, random: Mapping[Path, Any], arrays: Mapping[Path, Any], given: InitialWeights
) -> Any:
    array, template = arrays[path], random[path]
    if path not in given.head or (given.same_classes and array.shape == template.shape):
        return array
    if _lacks_abstention(array, template, given):
        return jnp.concatenate([jnp.asarray(array, template.dtype), template[..., -1:]], axis=-1)
    return template


def _lacks_abstention(array: Any, template: Any, given: InitialWeights) -> bool:
    expected = (*template.shape[:-1], given.num_classes)
    return (
        given.same_classes
        and array.shape == expected
        and template.shape[-1] == given.num_classes + 1
    )


def _note(random: Mapping[Path, Any], arrays: Mapping[Path, Any], given: InitialWeights) -> str:
    changed = [
        path
        for path in arrays.keys() & given.head
        if not given.same_classes or arrays[path].shape != random[path].shape
    ]
    parts = []
    if any(not _lacks_abstention(arrays[path], random[path], given) for path in changed):
        reason = "has another size" if given.same_classes else "is of other classes"
        parts.append(f"the last layer, which {reason}")
    elif changed:
        parts.append("the abstention output")
    has_statistics = any(path[0] == "batch_stats" for path in random)
    if has_statistics and not any(path[0] == "batch_stats" for path in arrays):
        parts.append("the batch statistics")
    return " and ".join(parts)
