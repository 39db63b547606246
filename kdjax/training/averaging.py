"""Averages of the weights over training: EMA and SWA, and their batch statistics."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from kdjax.data.batches import BatchSource, BatchSpec, Examples, iterate_batches, make_batch
from kdjax.models import NORM_MOMENTUM, apply
from kdjax.models.apply import Variables, apply_train
from kdjax.models.own import OwnNetwork
from kdjax.runtime import compiler, prng

UpdateBatchStats = Callable[[Variables, Examples, jax.Array, jax.Array], Variables]


def average_weight(
    kind: str, *, start: float, ema_decay: float, epochs: int, steps_per_epoch: int
) -> Callable[[jax.Array], jax.Array] | None:
    """Weight w of the newest parameters in the average: average <- (1 - w) average + w newest.

    `ema`: w = max(1 - ema_decay, 1 / (t + 1)), t the steps since averaging began, so that it
    starts as a plain mean. `swa`: w = 1 / (e + 1) at the last step of each epoch, e the epochs
    since averaging began, and 0 at the other steps. Before the start w = 1: the average equals the
    newest parameters.

    Args:
        kind: `none`, `ema` or `swa`.
        start: share of the epochs after which averaging begins.
        ema_decay: per step.
        epochs: of the whole stage.
        steps_per_epoch: optimizer steps in an epoch.

    Returns:
        A function from the number of finished steps to w; None for `none`.

    Source: SWA, Izmailov et al., arXiv 1803.05407.
    """
    if kind == "none":
        return None
    # Whole epochs; the tolerance is for products such as 0.29 * 100 = 28.999999999999996.
    first = int(start * epochs + 1e-9) * steps_per_epoch

    def ema(step: jax.Array) -> jax.Array:
        since = jnp.maximum(step - 1 - first, 0)
        return jnp.maximum(1 - ema_decay, 1 / (since + 1))

    def swa(step: jax.Array) -> jax.Array:
        epochs_since = (step - first) // steps_per_epoch
        at_end = jnp.where(step % steps_per_epoch == 0, 1 / jnp.maximum(epochs_since, 1), 0)
        return jnp.where(step <= first, 1, at_end)

    return ema if kind == "ema" else swa


def update_average(average: Variables, params: Any, weight: jax.Array) -> Variables:
    """Returns the averaged network after a step; its batch statistics stay as they are.

    Args:
        average: `params` and `batch_stats` of the averaged network.
        params: the newest parameters.
        weight: w of `average_weight`.
    """
    return {**average, "params": optax.incremental_update(params, average["params"], weight)}


def make_batch_stats_update(model: nn.Module, batches: BatchSpec, count: int) -> UpdateBatchStats:
    """Returns a function that recomputes the batch statistics of an averaged network.

    The activations of the averaged weights differ from those of the weights during training, so
    the running statistics do not fit them. The new statistics are the mean over the first `count`
    batches of the epoch, as in arXiv 1803.05407.

    Args:
        model: the network.
        batches: of the training.
        count: batches to use, at most an epoch.

    Returns:
        `(averaged variables, train split, order of the epoch, finished steps) -> variables`.
    """

    def compute_stats(
        batches: BatchSpec, params: Any, zeros: Any, source: BatchSource, step: jax.Array
    ) -> Variables:
        images = make_batch(batches, source, step).images
        key = jax.random.fold_in(prng.key(0), step)
        _, stats = apply_train(model, {"params": params, "batch_stats": zeros}, images, key)
        # Starting from zero, the running statistics become (1 - momentum) times the batch's.
        return jax.tree.map(lambda leaf, kept: leaf / (1 - kept), stats, momentum(images, zeros))

    def momentum(images: jax.Array, zeros: Any) -> Any:
        """Returns the share of the old running statistics in each update."""
        if not isinstance(model, OwnNetwork):
            return jax.tree.map(lambda _: NORM_MOMENTUM, zeros)
        # Without weights, the statistics of a batch are zero after the first layer.
        shapes = apply.abstract_variables(model, images.shape[1:])["params"]
        params = jax.tree.map(jnp.zeros_like, shapes)
        before, after = (
            apply_train(model, {"params": params, "batch_stats": stats}, images * 0, prng.key(0))[1]
            for stats in (zeros, jax.tree.map(jnp.ones_like, zeros))
        )
        return jax.tree.map(jnp.subtract, after, before)

    batch_stats = functools.partial(compiler.jit(compute_stats), prng.with_array_seeds(batches))
    count = min(count, batches.steps_per_epoch)

    def update(average: Variables, examples: Examples, order: Any, step: Any) -> Variables:
        zeros = jax.tree.map(jnp.zeros_like, average["batch_stats"])
        epoch_start = (step - 1) // batches.steps_per_epoch * batches.steps_per_epoch
        total = zeros
        used = order[: count * batches.batch_size]
        with iterate_batches(examples, used, batches.batch_size) as sources:
            for position in range(count):
                stats = batch_stats(average["params"], zeros, next(sources), epoch_start + position)
                total = jax.tree.map(jnp.add, total, stats)
        return {**average, "batch_stats": jax.tree.map(lambda leaf: leaf / count, total)}

    return update
