"""Learning-rate schedules and optimizers by name, composed from optax."""

import dataclasses
import functools
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import optax

from kdjax.models.common import FIXED
from kdjax.runtime import compiler


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


def _linear(options: ScheduleOptions, steps_per_epoch: int, warmup: int) -> optax.Schedule:
    total = options.epochs * steps_per_epoch
    return optax.linear_schedule(options.learning_rate, 0.0, max(total - warmup, 1))


# Name -> `(options, steps per epoch, warm-up steps) -> schedule`; its step 0 is the first step
# after the warm-up. To add one, add it here and its name to `config_checks.SCHEDULES`.
SCHEDULES: dict[str, Callable[[ScheduleOptions, int, int], optax.Schedule]] = {
    "cosine": _cosine,
    "step": _step,
    "linear": _linear,
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
    schedule: optax.Schedule = compiler.shared(
        _with_warmup, SCHEDULES[name], options, steps_per_epoch
    )
    return schedule


def _with_warmup(
    make: Callable[[ScheduleOptions, int, int], optax.Schedule],
    options: ScheduleOptions,
    steps_per_epoch: int,
) -> optax.Schedule:
    total = options.epochs * steps_per_epoch
    warmup = min(round(options.warmup_epochs * steps_per_epoch), total)
    schedule = make(options, steps_per_epoch, warmup)
    if not warmup:
        return schedule
    peak = options.learning_rate
    ramp = optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
    return optax.join_schedules([ramp, schedule], [warmup])


@compiler.cached_program(maxsize=32)
def schedule_program(schedule: optax.Schedule) -> Callable[[int], Any]:
    """Returns a schedule as one program, for use outside jit; a constant one needs none.

    Args:
        schedule: step -> learning rate.
    """
    if not jax.make_jaxpr(schedule)(0).eqns:
        return schedule
    return compiler.jit(schedule, "schedule")


@dataclasses.dataclass(frozen=True)
class OptimizerOptions:
    """What the optimizers depend on: fields of a stage's config, under the same names, and a layer.

    Attributes:
        momentum: decay of the momentum.
        nesterov: whether to use Nesterov momentum.
        weight_decay: coefficient of the decay.
        decay_all: whether biases and batch-norm parameters decay too, not only kernels; no effect
            on `muon`.
        bn_bias_factor: factor of the learning rate of the biases of normalization layers; no
            effect on `muon`.
        sam_rho: for `sam`: length of the step to the perturbed weights.
        last_layer: for `muon`: paths of the variables whose shape depends on the number of outputs,
            see `spec.last_layer`.
    """

    momentum: float
    nesterov: bool
    weight_decay: float
    decay_all: bool
    bn_bias_factor: float = 1.0
    sam_rho: float = 0.05
    last_layer: frozenset[tuple[str, ...]] = frozenset()


def make_optimizer(
    name: str, learning_rate: optax.Schedule, options: OptimizerOptions
) -> optax.GradientTransformation:
    """Returns the optimizer of this name.

    Args:
        name: a key of `OPTIMIZERS`.
        learning_rate: step -> learning rate.
        options: fields of the stage's config.

    Returns:
        The transformation. `update` of `sam` needs the argument `grad_fn`, see
        `step.apply_gradients`.
    """
    made: optax.GradientTransformation = compiler.shared(OPTIMIZERS[name], learning_rate, options)
    return made


def _sgd(learning_rate: optax.Schedule, options: OptimizerOptions) -> optax.GradientTransformation:
    """SGD with momentum; weight decay is added to the gradient before the momentum."""
    steps = [
        _coupled_decay(options),
        optax.sgd(learning_rate, options.momentum, nesterov=options.nesterov),
    ]
    if options.bn_bias_factor != 1:
        steps.append(optax.masked(optax.scale(options.bn_bias_factor), _mark_norm_biases))
    return optax.chain(*steps)


def _sam(learning_rate: optax.Schedule, options: OptimizerOptions) -> optax.GradientTransformation:
    """Sharpness-aware minimization (arXiv 2010.01412): SGD with the gradient at w + rho g / ||g||.

    g is the gradient at the weights w, over all parameters of the network.
    """
    perturbation = optax.stateless(lambda gradient, _: _scaled_to(-options.sam_rho, gradient))
    return optax.contrib.sam(_sgd(learning_rate, options), perturbation, opaque_mode=True)


def _muon(learning_rate: optax.Schedule, options: OptimizerOptions) -> optax.GradientTransformation:
    """Muon for the kernels of hidden layers, Adam for the others.

    A kernel [kh, kw, c, d] is a matrix [kh kw c, d]. The update has the root mean square of an
    update of Adam (arXiv 2502.16982), so that both have the same learning rate. The weight decay is
    decoupled: these kernels shrink by the learning rate times the coefficient.
    """
    return optax.contrib.muon(
        learning_rate,
        beta=options.momentum,
        nesterov=options.nesterov,
        weight_decay=options.weight_decay,
        muon_weight_dimension_numbers=functools.partial(_matrix_axes, options.last_layer),
        consistent_rms=MUON_RMS,
    )


# Root mean square of the updates of Muon, in units of the learning rate: as Adam's, arXiv
# 2502.16982.
MUON_RMS = 0.2
# Name -> `(learning rate, options) -> transformation`. To add one, add it here and its name to
# `config_checks.OPTIMIZERS`.
OPTIMIZERS: dict[
    str, Callable[[optax.Schedule, OptimizerOptions], optax.GradientTransformation]
] = {"sgd": _sgd, "sam": _sam, "muon": _muon}


def _scaled_to(length: float, gradient: Any) -> Any:
    """Returns a gradient scaled to a length; zero stays zero."""
    norm = optax.tree.norm(gradient)
    factor = length / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny)
    return jax.tree.map(lambda leaf: factor * leaf, gradient)


def _coupled_decay(options: OptimizerOptions) -> optax.GradientTransformation:
    """Adds the weights, times the coefficient, to the gradient; not those that are fixed."""
    decay = options.weight_decay
    if not options.decay_all:
        return optax.add_decayed_weights(decay, _mark(_is_trained_kernel))

    def add(gradient: Any, params: Any) -> Any:
        fixed = _mark(lambda names, _: FIXED in names)(params)
        return jax.tree.map(lambda g, w, f: g if f else g + decay * w, gradient, params, fixed)

    return optax.stateless(add)


def _mark(condition: Callable[[tuple[str, ...], Any], bool]) -> Callable[[Any], Any]:
    """Returns a function from parameters to the condition on the path and value of each."""

    def mark(params: Any) -> Any:
        return jax.tree.map_with_path(lambda path, leaf: condition(_names(path), leaf), params)

    return mark


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(str(getattr(entry, "key", entry)) for entry in path)


def _is_trained_kernel(names: tuple[str, ...], leaf: Any) -> bool:
    """Whether a parameter is neither fixed nor a bias or a vector of batch normalization."""
    return leaf.ndim > 1 and FIXED not in names


def _mark_norm_biases(params: Any) -> Any:
    """Returns whether each parameter is the bias of a layer without a kernel: a normalization."""
    leaves = jax.tree.leaves_with_path(params)
    with_kernel = {_names(path)[:-1] for path, leaf in leaves if leaf.ndim > 1}
    is_bias = _mark(lambda names, _: names[-1] == "bias" and names[:-1] not in with_kernel)
    return is_bias(params)


def _matrix_axes(last_layer: Collection[tuple[str, ...]], params: Any) -> Any:
    """Returns the axes of each parameter as a matrix; None for those that Adam updates."""

    def axes(path: tuple[Any, ...], leaf: Any) -> Any:
        names = _names(path)
        if not _is_trained_kernel(names, leaf) or ("params", *names) in last_layer:
            return None
        *inputs, outputs = range(leaf.ndim)
        return optax.contrib.MuonDimensionNumbers(tuple(inputs), outputs)

    return jax.tree.map_with_path(axes, params)
