"""The network as a function of any number of images, also for code that needs a known number."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp

from kdjax.models import apply
from kdjax.models.folding import FOLDABLE
from kdjax.models.user_class import failure

Forward = Callable[[jax.Array], jax.Array]


def forward(
    model: nn.Module, variables: Mapping[str, Any], image_shape: tuple[int, ...]
) -> Forward:
    """Returns the network in evaluation mode, for tracing with an unknown number of images.

    Args:
        model: the network. One that needs a known number of images, as in
            `images.reshape(len(images), -1)`, is applied to one image at a time under vmap.
        variables: its `params` and `batch_stats`.
        image_shape: height, width and channels.

    Raises:
        InputError: if it cannot be traced in either way.
    """

    def batched(images: jax.Array) -> jax.Array:
        return apply.apply_eval(model, dict(variables), images)

    def mapped(images: jax.Array) -> jax.Array:
        return jax.vmap(lambda image: batched(image[None])[0])(images)

    if isinstance(model, FOLDABLE) or _error(batched, image_shape) is None:
        return batched
    error = _error(mapped, image_shape)
    if error is None:
        return mapped
    raise failure(getattr(model, "reference", type(model).__name__), error) from error


def _error(function: Forward, image_shape: tuple[int, ...]) -> Exception | None:
    """Returns what tracing a function with an unknown number of images raises; None if nothing."""
    (batch,) = jax.export.symbolic_shape("n")
    images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32)
    try:
        jax.eval_shape(function, images)
    except Exception as error:  # of the user's code, of any type
        return error
    return None
