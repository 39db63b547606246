"""Networks that adapt one or several trained networks for use as a teacher."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax.models.apply import Variables
from kdjax.models.folding import fold_batch_norm


class Ensemble(nn.Module):
    """The mean of the log-probabilities of several networks.

    Attributes:
        members: the networks, at least one.
    """

    members: tuple[nn.Module, ...]

    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Returns mean_k log softmax(z_k), float32 [b, m], for images [b, h, w, c]."""
        outputs: list[Any] = [member(images, train=train) for member in self.members]
        return jnp.mean(jnp.stack([jax.nn.log_softmax(logits) for logits in outputs]), axis=0)


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


def ensemble(networks: Sequence[tuple[nn.Module, Variables]]) -> tuple[nn.Module, Variables]:
    """Returns the ensemble of networks with their variables."""
    variables: Variables = {}
    for index, (_, member) in enumerate(networks):
        for collection, values in member.items():
            variables.setdefault(collection, {})[f"members_{index}"] = values
    return Ensemble(tuple(model for model, _ in networks)), variables


def wrap(wrapper: nn.Module, variables: Variables) -> tuple[nn.Module, Variables]:
    """Returns `SelectedOutputs` or `Renormalized` with the variables of its network."""
    return wrapper, {collection: {"network": values} for collection, values in variables.items()}


def fold(model: nn.Module, variables: Variables) -> tuple[nn.Module, Variables]:
    """Returns an equivalent network without batch normalization, see `fold_batch_norm`."""
    if isinstance(model, Ensemble):
        members = [
            fold(member, _of_member(variables, f"members_{index}"))
            for index, member in enumerate(model.members)
        ]
        return ensemble(members)
    if isinstance(model, (SelectedOutputs, Renormalized)):
        network, folded = fold(model.network, _of_member(variables, "network"))
        return wrap(model.clone(network=network), folded)
    return fold_batch_norm(model, variables)


def _of_member(variables: Variables, name: str) -> Variables:
    return {collection: values[name] for collection, values in variables.items() if name in values}
