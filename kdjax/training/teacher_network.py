"""Networks that adapt one or several trained networks for use as a teacher."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from kdjax import models
from kdjax.models.apply import Variables
from kdjax.models.folding import fold_batch_norm

# Collection of variables with the folds of the training images, of `OutOfFold`.
FOLDS = "folds"


class Ensemble(nn.Module):
    """The mean of the log-probabilities of several networks.

    Attributes:
        members: the networks, at least one.
    """

    members: tuple[nn.Module, ...]

    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Returns mean_k log softmax(z_k), float32 [b, m], for images [b, h, w, c]."""
        outputs: list[Any] = [member(images, train=train) for member in self.members]
        return mean_log_probabilities(outputs)


class OutOfFold(Ensemble):
    """Networks of which each was trained without one fold of the training images.

    Applied to images it is their ensemble. The logits of a training image are those of the network
    that has not seen it, see `training/out_of_fold.py`. The collection `FOLDS` of its variables
    holds `folds`, int32 [n]: for each training image that network.
    """


class SelectedOutputs(nn.Module):
    """A network with its outputs in another order, or with some of them.

    Attributes:
        network: the network.
        columns: its output for each class.
    """

    network: nn.Module
    columns: tuple[int, ...]

    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Returns logits [b, m] for images [b, h, w, c]."""
        logits: Any = self.network(images, train=train)
        selected: jax.Array = logits[..., jnp.asarray(self.columns)]
        return selected


class Renormalized(nn.Module):
    """A network that was trained with another normalization of its images.

    Attributes:
        network: the network.
        factor: per channel; the network is applied to factor * images + shift.
        shift: per channel.
    """

    network: nn.Module
    factor: tuple[float, ...]
    shift: tuple[float, ...]

    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Returns logits [b, m] for images [b, h, w, c], normalized by the data set."""
        shape = (1, 1, 1, -1)
        factor, shift = (
            jnp.asarray(values, images.dtype).reshape(shape) for values in (self.factor, self.shift)
        )
        logits: jax.Array = self.network(images * factor + shift, train=train)
        return logits


def ensemble(networks: Sequence[tuple[nn.Module, Variables]]) -> tuple[Ensemble, Variables]:
    """Returns the ensemble of networks with their variables."""
    variables: Variables = {}
    for index, (_, member) in enumerate(networks):
        for collection, values in member.items():
            variables.setdefault(collection, {})[f"members_{index}"] = values
    return Ensemble(tuple(model for model, _ in networks)), variables


def out_of_fold(
    networks: Sequence[tuple[nn.Module, Variables]], folds: np.ndarray
) -> tuple[nn.Module, Variables]:
    """Returns `OutOfFold` of networks with their variables.

    Args:
        networks: one for each fold, which it has not seen.
        folds: int32 [n], the fold of each training image.
    """
    model, variables = ensemble(networks)
    return OutOfFold(model.members), {**variables, FOLDS: {"folds": folds}}


def members(model: Ensemble, variables: Variables) -> list[tuple[nn.Module, Variables]]:
    """Returns the networks of an ensemble with their variables."""
    return [
        (member, _of_member(variables, f"members_{index}"))
        for index, member in enumerate(model.members)
    ]


def mean_log_probabilities(logits: Sequence[jax.Array]) -> jax.Array:
    """Returns mean_k log softmax(z_k), float32 [..., m], for logits [..., m] of networks."""
    return jnp.mean(jnp.stack([jax.nn.log_softmax(values) for values in logits]), axis=0)


def wrap(wrapper: nn.Module, variables: Variables) -> tuple[nn.Module, Variables]:
    """Returns `SelectedOutputs` or `Renormalized` with the variables of its network."""
    return wrapper, {collection: {"network": values} for collection, values in variables.items()}


def with_dtype(model: nn.Module, dtype: DTypeLike) -> nn.Module:
    """Returns a network, or all networks of a teacher, with another dtype of the computation."""
    if isinstance(model, Ensemble):
        return model.clone(members=tuple(with_dtype(member, dtype) for member in model.members))
    if isinstance(model, (SelectedOutputs, Renormalized)):
        return model.clone(network=with_dtype(model.network, dtype))
    return models.with_dtype(model, dtype)


def fold(model: nn.Module, variables: Variables) -> tuple[nn.Module, Variables]:
    """Returns an equivalent network without batch normalization, see `fold_batch_norm`."""
    if isinstance(model, Ensemble):
        folded_members = [fold(*member) for member in members(model, variables)]
        if isinstance(model, OutOfFold):
            return out_of_fold(folded_members, variables[FOLDS]["folds"])
        return ensemble(folded_members)
    if isinstance(model, (SelectedOutputs, Renormalized)):
        network, folded = fold(model.network, _of_member(variables, "network"))
        return wrap(model.clone(network=network), folded)
    return fold_batch_norm(model, variables)


def _of_member(variables: Variables, name: str) -> Variables:
    return {collection: values[name] for collection, values in variables.items() if name in values}
