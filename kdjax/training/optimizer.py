"""Learning-rate schedules by name, and the optimizer of a stage, composed from optax."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax


@dataclasses.dataclass(frozen=True)
class ScheduleOptions:
    """What the schedules depend on: fields of a stage's config, under the same names.

    Attributes:
        learning_rate: after the warm-up.
        epochs: of the whole stage.
        warmup_epochs: length of the linear warm-up, in epochs.
        step_every: for `step`: epochs between two drops.
        step_factor: for `step`: factor of each drop.
    """

    learning_rate: float
    epochs: int
    warmup_epochs: float
    step_every: int
    step_factor: float


def _cosine(options: ScheduleOptions, steps_per_epoch: int, warmup: int) -> optax.Schedule:
    total = options.epochs * steps_per_epoch
    return optax.cosine_decay_schedule(options.learning_rate, max(total - warmup, 1))


def _step(options: ScheduleOptions, steps_per_epoch: int, warmup: int) -> optax.Schedule:
    drops = range(options.step_every, options.epochs, options.step_every)
    factors = {epoch * steps_per_epoch - warmup: options.step_factor for epoch in drops}
    return optax.piecewise_constant_schedule(options.learning_rate, factors)


# Name -> `(options, steps per epoch, warm-up steps) -> schedule`; its step 0 is the first step
# after the warm-up. To add one, add it here and its name to `config.SCHEDULES`.
SCHEDULES: dict[str, Callable[[ScheduleOptions, int, int], optax.Schedule]] = {
    "cosine": _cosine,
    "step": _step,
}


def learning_rate_schedule(
    name: str, options: ScheduleOptions, *, steps_per_epoch: int
) -> optax.Schedule:
    """Returns the learning rate of each step: linear warm-up, then the schedule of this name.

    The warm-up of w steps goes from `learning_rate / w` at the first step to `learning_rate` at
    the w-th, so that the first step already changes the weights.

    Args:
        name: a key of `SCHEDULES`.
        options: fields of the stage's config.
        steps_per_epoch: optimizer steps in an epoch.

    Returns:
        A function from step to learning rate.
    """
    total = options.epochs * steps_per_epoch
    warmup = min(round(options.warmup_epochs * steps_per_epoch), total)
    schedule = SCHEDULES[name](options, steps_per_epoch, warmup)
    if not warmup:
        return schedule
    peak = options.learning_rate
    ramp = optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
    return optax.join_schedules([ramp, schedule], [warmup])


def _is_kernel(params: Any) -> Any:
    """Marks the kernels: every parameter that is not a bias or a batch-norm vector."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def make_optimizer(
    learning_rate: optax.Schedule,
    *,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    decay_all: bool,
) -> optax.GradientTransformation:
    """Returns SGD with momentum; weight decay is added to the gradient before the momentum.

    Args:
        learning_rate: step -> learning rate.
        momentum: decay of the momentum.
        nesterov: whether to use Nesterov momentum.
        weight_decay: coefficient of the decay.
        decay_all: whether biases and batch-norm parameters decay too, not only kernels.
    """
    mask = None if decay_all else _is_kernel
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask),
        optax.sgd(learning_rate, momentum, nesterov=nesterov),
    )
