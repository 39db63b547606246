"""Forward passes of a Linen network, in training and in evaluation mode."""

from typing import Any

import flax.linen as nn
import jax

# Collections of a network by name: `params` and `batch_stats`.
Variables = dict[str, Any]


def apply_eval(model: nn.Module, variables: Variables | None, images: jax.Array) -> jax.Array:
    """Returns the logits [b, outputs] in evaluation mode, from the running batch statistics."""
    logits: Any = model.apply(variables or {}, images, train=False)
    return logits


def apply_train(
    model: nn.Module, variables: Variables, images: jax.Array
) -> tuple[jax.Array, Variables]:
    """Returns the logits [b, outputs] in training mode, and the new batch statistics."""
    logits, updated = model.apply(variables, images, train=True, mutable=["batch_stats"])
    return logits, updated.get("batch_stats", {})
