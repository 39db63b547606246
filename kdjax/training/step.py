"""The state of training and one optimizer step: pure functions, for use inside jit."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from kdjax.data.batches import Batch
from kdjax.models.apply import Variables, apply_train, init
from kdjax.runtime import compiler, prng
from kdjax.training import averaging
from kdjax.training.spec import TrainSpec

Metrics = dict[str, jax.Array]

# The stream of random numbers for dropout, beside those of the data (`data/augment.py`).
_DROPOUT = 3


class TrainState(flax.struct.PyTreeNode):
    """All that changes while a network is trained, hence all that a checkpoint holds.

    Attributes:
        step: number of finished steps, int32[].
        variables: `params` and `batch_stats` of the network.
        opt_state: of the optimizer.
        average: `params` and `batch_stats` of the averaged network; empty without averaging.
    """

    step: jax.Array
    variables: Variables
    opt_state: Any
    average: Variables


def _initial_state(spec: TrainSpec, image_shape: tuple[int, ...]) -> TrainState:
    images = jnp.zeros((1, *image_shape), jnp.float32)
    with prng.pinned():
        variables = init(spec.model, prng.key(spec.seed), images)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        variables=variables,
        opt_state=spec.optimizer.init(variables["params"]),
        average=variables if spec.average_weight else {},
    )


def init_state(spec: TrainSpec, image_shape: tuple[int, ...]) -> TrainState:
    """Returns the state before the first step: a function of the seed and the shapes only."""
    state = compiler.jit(lambda: _initial_state(spec, image_shape), "initialize")()
    # The average starts as the same arrays as the weights, and a buffer can be donated only once.
    return jax.tree.map(jnp.copy, state)


def abstract_state(spec: TrainSpec, image_shape: tuple[int, ...]) -> TrainState:
    """Returns the shapes and dtypes of the state without computing it."""
    return jax.eval_shape(lambda: _initial_state(spec, image_shape))


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

    def loss_of_params(params: Any) -> tuple[jax.Array, tuple[Variables, Metrics]]:
        variables = {**state.variables, "params": params}
        logits, stats = apply_train(
            spec.model, variables, batch.images, dropout_key(spec.seed, state.step)
        )
        loss, metrics = loss_fn(spec, logits, batch, teacher_logits)
        return loss, (stats, metrics)

    gradient, (stats, metrics) = jax.grad(loss_of_params, has_aux=True)(state.variables["params"])
    return apply_gradients(spec, state, gradient, stats), metrics


def dropout_key(seed: int, step: jax.Array) -> jax.Array:
    """Returns the key of the random numbers that a network's layers draw in a step."""
    return jax.random.fold_in(jax.random.fold_in(prng.key(seed), _DROPOUT), step)


def loss_fn(
    spec: TrainSpec, logits: jax.Array, batch: Batch, teacher_logits: jax.Array | None
) -> tuple[jax.Array, Metrics]:
    """Returns the mean loss of a batch, and the batch means of all logged metrics."""
    loss, terms = spec.objective(logits, teacher_logits, batch.labels)
    correct = jnp.argmax(logits[..., : spec.num_classes], axis=-1) == batch.labels
    values = {"loss": loss, **terms, "accuracy": correct.astype(jnp.float32)}
    if teacher_logits is not None:
        teacher_wrong = jnp.argmax(teacher_logits, axis=-1) != batch.labels
        values["teacher_error"] = teacher_wrong.astype(jnp.float32)
    return loss.mean(), jax.tree.map(jnp.mean, values)


def apply_gradients(
    spec: TrainSpec, state: TrainState, gradient: Variables, stats: Variables
) -> TrainState:
    """Returns the state after the optimizer's step.

    Args:
        spec: of the network.
        state: before the step.
        gradient: of the parameters.
        stats: the batch statistics after the batch.
    """
    params = state.variables["params"]
    updates, opt_state = spec.optimizer.update(gradient, state.opt_state, params)
    params = optax.apply_updates(params, updates)
    step, average = state.step + 1, state.average
    if spec.average_weight is not None:
        average = averaging.update_average(average, params, spec.average_weight(step))
    return TrainState(step, {"params": params, "batch_stats": stats}, opt_state, average)


def eval_variables(state: TrainState) -> Variables:
    """Returns the variables to evaluate and export: the average if there is one."""
    return state.average or state.variables
