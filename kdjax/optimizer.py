"""Optimizer, learning-rate schedule and weight averaging of one stage: optax, put together."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict


def schedule(stage: ConfigDict, steps_per_epoch: int) -> optax.Schedule:
    """Learning rate of each step: a linear warm-up, then a cosine to zero or a staircase.

    Args:
        stage: the stage's fields; epochs become steps here.
        steps_per_epoch: full batches in the train split.

    Returns:
        A function from step to learning rate.
    """
    total = stage.epochs * steps_per_epoch
    warmup = min(round(stage.warmup_epochs * steps_per_epoch), total)
    if stage.schedule == "cosine":
        main = optax.cosine_decay_schedule(stage.learning_rate, max(total - warmup, 1))
    else:
        drops = range(stage.step_every, stage.epochs, stage.step_every)
        steps = {epoch * steps_per_epoch - warmup: stage.step_factor for epoch in drops}
        main = optax.piecewise_constant_schedule(stage.learning_rate, steps)
    if not warmup:
        return main
    # From 1/warmup, not from 0: a first step that changes nothing would be wasted.
    ramp = optax.linear_schedule(
        stage.learning_rate / warmup, stage.learning_rate, max(warmup - 1, 1)
    )
    return optax.join_schedules([ramp, main], [warmup])


def _matrices(params: Any) -> Any:
    """Marks convolution and dense kernels: all that is not a bias or a batch-norm vector."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def optimizer(stage: ConfigDict, steps_per_epoch: int) -> optax.GradientTransformation:
    """SGD with momentum, and weight decay added to the gradient before the momentum.

    Returns:
        The optax transformation.
    """
    mask = None if stage.decay_all else _matrices
    return optax.chain(
        optax.add_decayed_weights(stage.weight_decay, mask),
        optax.sgd(schedule(stage, steps_per_epoch), stage.momentum, nesterov=stage.nesterov),
    )


def averaging(stage: ConfigDict, steps_per_epoch: int) -> Callable[[jax.Array], jax.Array] | None:
    """How much each step's weights count in the running average: average += w (weights - average).

    `ema`: w = max(1 - decay, 1 / (t + 1)), t the steps since averaging began, so that it starts as
    a plain mean. `swa`: w = 1 / (e + 1) at the last step of each epoch, e the epochs since, and 0
    at the others. Before the start w = 1: the average is the weights.

    Returns:
        A function from the number of finished steps to w, or None without averaging.

    Source: SWA, Izmailov et al., arXiv 1803.05407.
    """
    if stage.average == "none":
        return None
    # Whole epochs; a share such as 0.29 of 100 falls just short of 29 in floating point.
    start = int(stage.average_start * stage.epochs + 1e-9) * steps_per_epoch

    def ema(done: jax.Array) -> jax.Array:
        since = jnp.maximum(done - 1 - start, 0)
        return jnp.maximum(1 - stage.ema_decay, 1 / (since + 1))

    def swa(done: jax.Array) -> jax.Array:
        epochs_since = (done - start) // steps_per_epoch
        at_end = jnp.where(done % steps_per_epoch == 0, 1 / jnp.maximum(epochs_since, 1), 0)
        return jnp.where(done <= start, 1, at_end)

    return ema if stage.average == "ema" else swa
