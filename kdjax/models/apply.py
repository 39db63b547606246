"""Forward passes of a Linen network, in training and in evaluation mode."""

import functools
import hashlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta

# Collections of a network by name: `params` and `batch_stats`.
Variables = dict[str, Any]
# Streams of random numbers that a layer such as dropout may draw from; `default` is that of NNX.
_STREAMS = ("params", "dropout", "default")


def init(model: nn.Module, key: jax.Array, images: jax.Array) -> Variables:
    """Returns the initial `params` and `batch_stats` of a network; the latter may be empty.

    Args:
        model: the network.
        key: of the random numbers.
        images: [b, h, w, c], float32; only the shape matters.
    """
    initial = init_all(model, key, images)
    return {"params": initial["params"], "batch_stats": initial.get("batch_stats", {})}


def init_all(model: nn.Module, key: jax.Array, images: jax.Array) -> Variables:
    """Returns the initial variables of all collections of a network; see `init`."""
    rngs = {**_keys(key), "params": key}
    variables: Variables = meta.unbox(model.init(rngs, images, train=False))
    return variables


@functools.lru_cache(maxsize=64)
def abstract_variables(model: nn.Module, image_shape: tuple[int, ...]) -> Variables:
    """Returns the shapes and dtypes of a network's variables, without computing them.

    Args:
        model: the network.
        image_shape: height, width and channels.
    """

    def initialize(images: jax.Array) -> Variables:
        return init(model, jax.random.key(0), images)

    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables: Variables = jax.eval_shape(initialize, images)
    return variables


def apply_eval(model: nn.Module, variables: Variables | None, images: jax.Array) -> jax.Array:
    """Returns the logits [b, outputs] in evaluation mode, from the running batch statistics."""
    logits: Any = model.apply(variables or {}, images, train=False)
    return logits


def apply_train(
    model: nn.Module, variables: Variables, images: jax.Array, key: jax.Array
) -> tuple[jax.Array, Variables]:
    """Returns the logits [b, outputs] in training mode, and the new batch statistics.

    Args:
        model: the network.
        variables: its `params` and `batch_stats`.
        images: [b, h, w, c], float32.
        key: of the random numbers of layers such as dropout.
    """
    logits, updated = model.apply(
        variables, images, train=True, mutable=["batch_stats"], rngs=_keys(key)
    )
    return logits, updated.get("batch_stats", {})


def variables_hash(variables: Variables) -> str:
    """Returns the SHA-256 of the numbers of all variables, in hexadecimal."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(variables):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def weights_hash(variables: Variables) -> str:
    """Returns the SHA-256 of `params` and `batch_stats`: it identifies a trained network."""
    names = ("params", "batch_stats")
    used: Variables = {name: variables[name] for name in names if name in variables}
    return variables_hash(used)


def _keys(key: jax.Array) -> dict[str, jax.Array]:
    return {name: jax.random.fold_in(key, index) for index, name in enumerate(_STREAMS)}
