"""Logits of a trained network for every example of a split."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from kdjax.data import deployment_views
from kdjax.data.augment import Augmentation, apply_augmentation, normalize
from kdjax.data.batches import Examples, RawBatch, iterate_batches, take_batch
from kdjax.data.deployment_views import IDENTITY, View
from kdjax.models.apply import Variables, apply_eval
from kdjax.runtime import compiler, sharding

NO_CHANGE = Partial(lambda images, indices: images)
# A batch is padded to its full size at most up to this one, above only to the size of the split.
MAX_PADDED_BATCH = 4096


# Apart from the network, so that splits of all sizes share one compiled program of the network.
_take_batch = jax.jit(take_batch, static_argnames="size")


@compiler.cached_program()
def _forward(model: nn.Module) -> Callable:
    def forward(variables: Variables, batch: RawBatch, change: Partial) -> jax.Array:
        images = normalize(change(batch.images, batch.indices), batch.mean, batch.std)
        return apply_eval(model, variables, images)

    return compiler.jit(forward)


def predict_logits(
    model: nn.Module,
    variables: Variables,
    examples: Examples,
    *,
    batch_size: int,
    change: Partial = NO_CHANGE,
    rows: np.ndarray | None = None,
    views: Sequence[View] = (IDENTITY,),
) -> np.ndarray:
    """Returns the logits of every example, in the order of the split, or those of some rows.

    Args:
        model: the network.
        variables: its `params` and `batch_stats`.
        examples: the split.
        batch_size: rounded up to a multiple of the device count; more than the split holds is the
            same as the split.
        change: `(images uint8 [b, h, w, c], indices int32 [b]) -> images`, applied before the
            normalization. Its bound arguments are traced: other values do not recompile.
        rows: int [r], at least one, of the split; None for all of its n rows.
        views: of each image, after `change`; their logits are averaged in float32.

    Returns:
        float32 [n, outputs], or [r, outputs].
    """
    if rows is None:
        rows = np.arange(len(examples.labels))
    count = len(rows)
    batch_size = min(batch_size, max(count, MAX_PADDED_BATCH))
    batch_size = sharding.round_up_batch_size(batch_size)
    forward, steps = _forward(model), -(-count // batch_size)
    # The last batch is padded with copies of the last example, which are cut off again.
    order = rows[np.minimum(np.arange(steps * batch_size), count - 1)].astype(np.int32)
    with iterate_batches(examples, order, batch_size) as sources:
        batches = (
            _take_batch(source, position, size=batch_size)
            for position, source in zip(range(steps), sources, strict=False)
        )
        logits = [
            [forward(variables, batch, view) for view in _with_views(change, views)]
            for batch in batches
        ]
    means = [_mean(of_views) for of_views in jax.device_get(logits)]
    return np.concatenate(means)[:count]


def _mean(logits: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the mean logits of several views in float32, those of a single one unchanged."""
    return logits[0] if len(logits) == 1 else deployment_views.mean_logits(logits)


def _with_views(change: Partial, views: Sequence[View]) -> list[Partial]:
    """Returns a change of the images for each view; all of them run in one compiled program."""
    if tuple(views) == (IDENTITY,):
        return [change]
    augmentation, numbers = deployment_views.augmentation(views)
    viewed = _viewed(augmentation)
    return [Partial(viewed, change, jnp.int32(number)) for number in numbers]


@functools.cache
def _viewed(augmentation: Augmentation) -> Callable:
    """Returns `(change, number, images, indices) -> images`; one object for each augmentation."""

    def apply(change: Partial, number: jax.Array, images: jax.Array, indices: jax.Array) -> Any:
        numbers = jnp.full(indices.shape, number)
        return apply_augmentation(change(images, indices), numbers, augmentation=augmentation)

    return apply
