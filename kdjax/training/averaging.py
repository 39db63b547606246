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
from kdjax.models.user_network import UserNetwork
from kdjax.runtime import compiler, prng

UpdateBatchStats = Callable[[Variables, Any, Examples, jax.Array, jax.Array], Variables]


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
    batches of the epoch, as in arXiv 1803.05407. Other variables of the collection `batch_stats`,
    such as those of a frozen batch normalization or of `nn.SpectralNorm`, are not means over
    batches: they start with the values of the newest network, and the batches update them.

    Args:
        model: the network.
        batches: of the training.
        count: batches to use, at most an epoch.

    Returns:
        `(averaged variables, batch statistics of the newest network, train split, order of the
        epoch, finished steps) -> variables`.
    """

    def compute_stats(
        batches: BatchSpec, params: Any, before: Any, source: BatchSource, step: jax.Array
    ) -> tuple[Any, Any]:
        """Returns the statistics of a batch, and which of them are running means."""
        images = make_batch(batches, source, step).images
        kept = _kept_share(model, images, before)
        running = jax.tree.map(lambda share: (share > 0) & (share < 1), kept)
        start = jax.tree.map(lambda means, leaf: jnp.where(means, 0, leaf), running, before)
        key = jax.random.fold_in(prng.key(0), step)
        _, stats = apply_train(model, {"params": params, "batch_stats": start}, images, key)

        def of_batch(leaf: jax.Array, share: Any, means: Any) -> jax.Array:
            # Starting from zero, a running mean becomes (1 - momentum) times that of the batch.
            return jnp.where(means, leaf / jnp.where(means, 1 - share, 1), leaf)

        return jax.tree.map(of_batch, stats, kept, running), running

    batch_stats = functools.partial(compiler.jit(compute_stats), prng.with_array_seeds(batches))
    count = min(count, batches.steps_per_epoch)

    def update(
        average: Variables, newest: Any, examples: Examples, order: Any, step: Any
    ) -> Variables:
        epoch_start = (step - 1) // batches.steps_per_epoch * batches.steps_per_epoch
        total, stats, running = jax.tree.map(jnp.zeros_like, newest), newest, None
        used = order[: count * batches.batch_size]
        with iterate_batches(examples, used, batches.batch_size) as sources:
            for position in range(count):
                stats, running = batch_stats(
                    average["params"], stats, next(sources), epoch_start + position
                )
                total = jax.tree.map(jnp.add, total, stats)
        stats = jax.tree.map(
            lambda means, sums, last: jnp.where(means, sums / count, last), running, total, stats
        )
        return {**average, "batch_stats": stats}

    return update


def _kept_share(model: nn.Module, images: jax.Array, stats: Any) -> Any:
    """Returns the share of the old batch statistics in each update, of the structure of `stats`."""
    if not isinstance(model, UserNetwork):
        return jax.tree.map(lambda _: NORM_MOMENTUM, stats)
    # Without weights, the statistics of a batch are zero after the first layer.
    shapes = apply.abstract_variables(model, images.shape[1:])["params"]
    params = jax.tree.map(jnp.zeros_like, shapes)
    before, after = (
        apply_train(model, {"params": params, "batch_stats": start}, images * 0, prng.key(0))[1]
        for start in (jax.tree.map(fill, stats) for fill in (jnp.zeros_like, jnp.ones_like))
    )
    return jax.tree.map(jnp.subtract, after, before)
