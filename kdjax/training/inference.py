"""Logits of a trained network for every example of a split."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import numpy as np
from jax.tree_util import Partial

from kdjax.data.augment import normalize
from kdjax.data.batches import BatchSource, Examples, iterate_batches, take_batch
from kdjax.models.apply import Variables, apply_eval
from kdjax.runtime import compiler, sharding

NO_CHANGE = Partial(lambda images, indices: images)
# A batch is padded to its full size at most up to this one, above only to the size of the split.
MAX_PADDED_BATCH = 4096


@functools.cache
def _forward(model: nn.Module, batch_size: int) -> Callable:
    def forward(
        variables: Variables, source: BatchSource, position: jax.Array, change: Partial
    ) -> jax.Array:
        batch = take_batch(source, position, batch_size)
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
) -> np.ndarray:
    """Returns the logits of every example, in the order of the split.

    Args:
        model: the network.
        variables: its `params` and `batch_stats`.
        examples: the split.
        batch_size: rounded up to a multiple of the device count; more than the split holds is the
            same as the split.
        change: `(images uint8 [b, h, w, c], indices int32 [b]) -> images`, applied before the
            normalization. Its bound arguments are traced: other values do not recompile.

    Returns:
        float32 [n, outputs].
    """
    count = len(examples.labels)
    batch_size = min(batch_size, max(count, MAX_PADDED_BATCH))
    batch_size = sharding.round_up_batch_size(batch_size)
    forward, steps = _forward(model, batch_size), -(-count // batch_size)
    # The last batch is padded with copies of the last example, which are cut off again.
    order = np.minimum(np.arange(steps * batch_size, dtype=np.int32), count - 1)
    with iterate_batches(examples, order, batch_size) as sources:
        logits = [forward(variables, next(sources), position, change) for position in range(steps)]
    return np.concatenate(jax.device_get(logits))[:count]
