"""The logits of training images by teachers that have not seen them, where there are such teachers.

A teacher that has learnt its training images is hardly ever wrong on them, so that its adjustment
would change nothing. Of an `OutOfFold` teacher, each training image gets the logits of the network
whose training images did not include it.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kdjax.models.apply import Variables, apply_eval
from kdjax.training.teacher_network import (
    FOLDS,
    Ensemble,
    OutOfFold,
    mean_log_probabilities,
    members,
)

# `(model, variables, rows or None for all) -> logits [r, m]` of rows of the train split.
Predict = Callable[[nn.Module, Variables, np.ndarray | None], np.ndarray]


def has_folds(model: nn.Module) -> bool:
    """Returns whether the logits of a training image depend on its fold."""
    if isinstance(model, OutOfFold):
        return True
    return isinstance(model, Ensemble) and any(map(has_folds, model.members))


def note(model: nn.Module) -> str:
    """Returns what to do about a teacher of which every step applies the networks of all folds.

    Args:
        model: the network of a teacher whose logits are not cached.

    Returns:
        The end of a sentence; empty for a teacher without folds.
    """
    if not has_folds(model):
        return ""
    return (
        "; the teachers of all folds are applied to every batch: with --config.teacher.views=16 or "
        "--config.data.pad=0 each is applied to the images of its fold only, once for each view"
    )


def folds_of(variables: Variables) -> np.ndarray:
    """Returns the network of `OutOfFold` that has not seen each training image, int32 [n]."""
    return np.asarray(variables[FOLDS]["folds"])


def batch_logits(
    model: nn.Module, variables: Variables, images: jax.Array, indices: jax.Array
) -> jax.Array:
    """Returns the teacher's logits of a batch of training images, float32 [b, m].

    All networks of an `OutOfFold` teacher are applied to the whole batch.

    Args:
        model: the teacher's network.
        variables: its variables.
        images: float32 [b, h, w, c], augmented and normalized.
        indices: int32 [b], of the images in the train split.
    """
    if not isinstance(model, Ensemble) or not has_folds(model):
        return apply_eval(model, variables, images)
    logits = [
        batch_logits(member, values, images, indices)
        for member, values in members(model, variables)
    ]
    if not isinstance(model, OutOfFold):
        return mean_log_probabilities(logits)
    chosen = variables[FOLDS]["folds"][indices]
    return jnp.take_along_axis(jnp.stack(logits), chosen[None, :, None], axis=0)[0]


def train_logits(model: nn.Module, variables: Variables, predict: Predict) -> np.ndarray:
    """Returns the teacher's logits of all training images, float32 [n, m].

    Each network of an `OutOfFold` teacher is applied to the images of its own fold only.

    Args:
        model: the teacher's network.
        variables: its variables.
        predict: applies a network without folds to rows of the train split.
    """
    if not isinstance(model, Ensemble) or not has_folds(model):
        return predict(model, variables, None)
    networks = members(model, variables)
    if not isinstance(model, OutOfFold):
        logits = [jnp.asarray(train_logits(*network, predict)) for network in networks]
        return np.asarray(mean_log_probabilities(logits))
    folds = folds_of(variables)
    rows = [np.flatnonzero(folds == fold) for fold in range(len(networks))]
    parts = [predict(*network, own) for network, own in zip(networks, rows, strict=True)]
    return np.concatenate(parts)[np.argsort(np.concatenate(rows))]
