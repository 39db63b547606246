"""The state of training and one optimizer step: pure functions, for use inside jit."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from kdjax.data.batches import Batch
from kdjax.models.apply import Variables, apply_train, init
from kdjax.objectives import update_running_target
from kdjax.runtime import compiler, prng, sharding
from kdjax.training import averaging
from kdjax.training.spec import TrainSpec

Metrics = dict[str, jax.Array]
# `(params, number of the pass) -> gradient`, as optax calls it.
GradientFunction = Callable[[Any, int], Any]

# The stream of random numbers for dropout, beside those of the data (`data/augment.py`).
_DROPOUT = 3


class TrainState(flax.struct.PyTreeNode):
    """All that changes while a network is trained, hence all that a checkpoint holds.

    Attributes:
        step: number of finished steps, int32[].
        variables: `params` and `batch_stats` of the network.
        opt_state: of the optimizer.
        average: `params` and `batch_stats` of the averaged network; empty without averaging.
        targets: float32 [n], the running target of each training image, see
            `objectives.update_running_target`; empty for methods without them.
    """

    step: jax.Array
    variables: Variables
    opt_state: Any
    average: Variables
    targets: Any = flax.struct.field(default_factory=dict)


@compiler.cached_program(maxsize=32)
def _initialize_program(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, ...],
    averages: bool,
    targets: int | None,
) -> Any:
    """Returns `seed -> TrainState`, jitted.

    Args:
        model: as in `TrainSpec`.
        optimizer: likewise.
        image_shape: height, width and channels.
        averages: whether the state has an averaged network.
        targets: number of running targets; None if there are none.
    """

    def initialize(seed: jax.Array) -> TrainState:
        images = jnp.zeros((1, *image_shape), jnp.float32)
        with prng.pinned():
            variables = init(model, prng.key(seed), images)
        state = TrainState(
            step=jnp.zeros((), jnp.int32),
            variables=variables,
            opt_state=optimizer.init(variables["params"]),
            average=variables if averages else {},
            targets={} if targets is None else jnp.ones(targets),
        )
        # The average starts as the same arrays as the weights, and a buffer can be donated only
        # once: jit returns an array of the copies for each.
        return jax.tree.map(jnp.copy, state)

    return compiler.jit(initialize, "initialize")


def init_state(spec: TrainSpec, image_shape: Sequence[int]) -> TrainState:
    """Returns the state before the first step: a function of the seed and the shapes only."""
    state: TrainState = _program_of(spec, image_shape)(prng.with_array_seeds(spec).seed)
    return state


def abstract_state(spec: TrainSpec, image_shape: Sequence[int]) -> TrainState:
    """Returns the shapes and dtypes of the state without computing it."""
    # Of the program of `init_state`, which is traced once for both.
    shapes: TrainState = _program_of(spec, image_shape).eval_shape(prng.with_array_seeds(spec).seed)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), shapes)


def _program_of(spec: TrainSpec, image_shape: Sequence[int]) -> Any:
    return _initialize_program(
        spec.model,
        spec.optimizer,
        tuple(image_shape),
        averages=spec.average_weight is not None,
        targets=None if spec.target_momentum is None else spec.train_examples,
    )


def train_step(
    spec: TrainSpec, state: TrainState, batch: Batch, teacher_logits: jax.Array | None
) -> tuple[TrainState, Metrics]:
    """One step of the optimizer.

    Args:
        spec: of the network.
        state: before the step.
        batch: augmented and normalized.
        teacher_logits: float32 [b, m] for the same augmented images; None without a teacher.

    Returns:
        The next state, and the batch means of the loss, its terms, the accuracy and, with a
        teacher, `teacher_error`: the share of examples that the teacher misclassifies.
    """

    def loss_of_params(params: Any) -> tuple[jax.Array, tuple[Variables, Metrics, jax.Array]]:
        return loss_and_outputs(spec, state, params, batch, teacher_logits)

    gradient, (stats, metrics, logits) = jax.grad(loss_of_params, has_aux=True)(
        state.variables["params"]
    )
    grad_fn = gradient_function(spec, state, batch, teacher_logits)
    state = update_targets(spec, state, batch, logits)
    return apply_gradients(spec, state, gradient, stats, grad_fn), metrics


def loss_and_outputs(
    spec: TrainSpec,
    state: TrainState,
    params: Any,
    batch: Batch,
    teacher_logits: jax.Array | None,
) -> tuple[jax.Array, tuple[Variables, Metrics, jax.Array]]:
    """Returns the mean loss of a batch; the new batch statistics, the metrics and the logits.

    Args:
        spec: of the network.
        state: before the step.
        params: of the network, in place of those of the state.
        batch: augmented and normalized.
        teacher_logits: as in `train_step`.
    """
    variables = {**state.variables, "params": params}
    key = dropout_key(spec.seed, state.step)
    logits, stats = apply_train(spec.model, variables, batch.images, key)
    loss, metrics = loss_fn(spec, state, logits, batch, teacher_logits)
    return loss, (stats, metrics, logits)


def gradient_function(
    spec: TrainSpec, state: TrainState, batch: Batch, teacher_logits: jax.Array | None
) -> GradientFunction:
    """Returns the gradient of a batch's loss as a function of the parameters, as `sam` needs it.

    Its second argument is not used. The batch statistics of this pass are discarded.
    """

    def loss_of_params(params: Any) -> jax.Array:
        return loss_and_outputs(spec, state, params, batch, teacher_logits)[0]

    gradient = jax.grad(loss_of_params)
    return lambda params, _: gradient(params)


def dropout_key(seed: int | jax.Array, step: jax.Array) -> jax.Array:
    """Returns the key of the random numbers that a network's layers draw in a step."""
    return jax.random.fold_in(jax.random.fold_in(prng.key(seed), _DROPOUT), step)


def loss_fn(
    spec: TrainSpec,
    state: TrainState,
    logits: jax.Array,
    batch: Batch,
    teacher_logits: jax.Array | None,
) -> tuple[jax.Array, Metrics]:
    """Returns the mean loss of a batch, and the batch means of all logged metrics.

    In an epoch with weights the mean is that of weight times loss, and so are those of its terms.

    Args:
        spec: of the network.
        state: before the step; its variables are not used.
        logits: of the network for the batch.
        batch: augmented and normalized.
        teacher_logits: as in `train_step`.
    """
    inputs = _objective_inputs(spec, state, batch)
    loss, terms = spec.objective(logits, teacher_logits, batch.labels, **inputs)
    if spec.weighted:
        loss, terms = jax.tree.map(lambda value: batch.weights * value, (loss, terms))
    correct = jnp.argmax(logits[..., : spec.num_classes], axis=-1) == batch.labels
    values = {"loss": loss, **terms, "accuracy": correct.astype(jnp.float32)}
    if teacher_logits is not None:
        teacher_wrong = jnp.argmax(teacher_logits, axis=-1) != batch.labels
        values["teacher_error"] = teacher_wrong.astype(jnp.float32)
    return loss.mean(), jax.tree.map(jnp.mean, values)


def _objective_inputs(spec: TrainSpec, state: TrainState, batch: Batch) -> dict[str, jax.Array]:
    """Returns what the objective needs of the state, besides logits and labels."""
    inputs = {}
    if spec.distill_warmup is not None:
        inputs["warmup"] = spec.distill_warmup(state.step)
    if spec.target_momentum is not None:
        inputs["running"] = state.targets[batch.indices]
    return inputs


def update_targets(
    spec: TrainSpec, state: TrainState, batch: Batch, logits: jax.Array
) -> TrainState:
    """Returns the state with the running targets of a batch's images updated, if it has any.

    Args:
        spec: of the network.
        state: before the step.
        batch: each image occurs once.
        logits: of the network for the batch, before the step.
    """
    if spec.target_momentum is None:
        return state
    updated = update_running_target(
        state.targets[batch.indices], logits, batch.labels, spec.target_momentum
    )
    # Gathered first: every device keeps all targets.
    indices, updated = sharding.replicate_within((batch.indices, updated))
    return state.replace(targets=state.targets.at[indices].set(updated, unique_indices=True))


def apply_gradients(
    spec: TrainSpec,
    state: TrainState,
    gradient: Variables,
    stats: Variables,
    grad_fn: GradientFunction,
) -> TrainState:
    """Returns the state after the optimizer's step.

    Args:
        spec: of the network.
        state: before the step.
        gradient: of the parameters.
        stats: the batch statistics after the batch.
        grad_fn: the gradient at other parameters, for an optimizer that needs it.
    """
    params = state.variables["params"]
    update = optax.with_extra_args_support(spec.optimizer).update
    updates, opt_state = update(gradient, state.opt_state, params, grad_fn=grad_fn)
    params = optax.apply_updates(params, updates)
    step, average = state.step + 1, state.average
    if spec.average_weight is not None:
        average = averaging.update_average(average, params, spec.average_weight(step))
    variables = {"params": params, "batch_stats": stats}
    return state.replace(step=step, variables=variables, opt_state=opt_state, average=average)


def eval_variables(state: TrainState) -> Variables:
    """Returns the variables to evaluate and export: the average if there is one."""
    return state.average or state.variables
