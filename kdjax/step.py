"""One train step, runs of steps, and evaluation: pure functions, jitted in one place."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial

from kdjax import parallel
from kdjax.compiler import compiled
from kdjax.data import Split
from kdjax.data.augment import as_view, normalize, view_of
from kdjax.data.batches import Examples, Fed, feed, gathered
from kdjax.data.records import Records
from kdjax.models import NORM_MOMENTUM

Variables = dict[str, Any]
Metrics = dict[str, jax.Array]
Objective = Callable[
    [jax.Array, jax.Array | None, jax.Array], tuple[jax.Array, dict[str, jax.Array]]
]


class TrainState(flax.struct.PyTreeNode):
    """All that changes while a network is trained, so all that a checkpoint holds.

    Attributes:
        step: finished steps, int32[].
        variables: params and batch_stats of the network.
        opt_state: of the optimizer.
        average: params and batch_stats of the averaged network, or empty without averaging.
    """

    step: jax.Array
    variables: Variables
    opt_state: Any
    average: Variables


States = tuple[TrainState, ...]


class Live(NamedTuple):
    """A frozen teacher that sees each batch.

    Attributes:
        variables: of `Recipe.teacher`.
    """

    variables: Variables


class Table(NamedTuple):
    """What a frozen teacher says of every view of every training image.

    Attributes:
        logits: float32 [views, n, m], views as `augment.view_of` counts them.
    """

    logits: jax.Array


class Said(NamedTuple):
    """What a frozen teacher says of one batch.

    Attributes:
        logits: float32 [b, m].
    """

    logits: jax.Array


Teacher = Live | Table | Said | None


class Shown(NamedTuple):
    """A batch as the networks see it.

    Attributes:
        images: float32 [b, h, w, c], augmented and normalized.
        labels: int32 [b].
        places: int32 [b], of the images in the split.
        views: int32 [b], which view of each it is.
    """

    images: jax.Array
    labels: jax.Array
    places: jax.Array
    views: jax.Array


class Recipe(NamedTuple):
    """All that stays the same while a network is trained.

    Attributes:
        model: the network.
        objective: `(logits, teacher logits or None, labels) -> (loss [b], parts)`.
        optimizer: of optax.
        average_weight: finished steps -> weight of the newest in the average, or None.
        teacher: a frozen network, or None.
        classes: m; a student has one output more.
        seed: of the initial weights.
        order_seed: of order and augmentation.
        steps_per_epoch, batch_size, pad, flip: the batches.
    """

    model: nn.Module
    objective: Objective
    optimizer: optax.GradientTransformation
    average_weight: Callable[[jax.Array], jax.Array] | None
    teacher: nn.Module | None
    classes: int
    seed: int
    order_seed: int
    steps_per_epoch: int
    batch_size: int
    pad: int
    flip: bool


def to_device(split: Split, mean: np.ndarray, std: np.ndarray, placement: str = "auto") -> Examples:
    """Returns the split as device arrays; the images stay uint8, or on disk if they are there.

    Args:
        placement: of the images, see `parallel.resident`.
    """
    images, rest = split.images, parallel.everywhere((split.labels, mean, std))
    if not isinstance(images, Records):
        images = parallel.resident(images, placement)
    return Examples(images, *rest)


def _initial(recipe: Recipe, image_shape: tuple[int, ...]) -> TrainState:
    key = jax.random.key(recipe.seed, impl="threefry2x32")
    found = recipe.model.init(key, jnp.zeros((1, *image_shape)), train=False)
    variables = {"params": found["params"], "batch_stats": found.get("batch_stats", {})}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        variables=variables,
        opt_state=recipe.optimizer.init(variables["params"]),
        average=variables if recipe.average_weight else {},
    )


def init_state(recipe: Recipe, image_shape: tuple[int, ...]) -> TrainState:
    """Returns the state before the first step: a function of the seed and shapes alone."""
    state = compiled(lambda: _initial(recipe, image_shape), "initialize")()
    # The average starts as the very weights, and donation takes each buffer only once.
    return jax.tree.map(jnp.copy, state)


def abstract_state(recipe: Recipe, image_shape: tuple[int, ...]) -> TrainState:
    """Returns the shapes and dtypes of the state, with nothing computed."""
    return jax.eval_shape(lambda: _initial(recipe, image_shape))


def batch_at(recipe: Recipe, fed: Fed, step: jax.Array) -> Shown:
    """Returns the batch of one step.

    Args:
        fed: by `feed`, for this epoch's order.
        step: finished steps, which say epoch and position.
    """
    epoch, position = step // recipe.steps_per_epoch, step % recipe.steps_per_epoch
    batch = gathered(fed, position, recipe.batch_size)
    pad, flip = recipe.pad, recipe.flip
    views = view_of(batch.places, seed=recipe.order_seed, epoch=epoch, pad=pad, flip=flip)
    seen = as_view(batch.images, views, pad=pad, flip=flip)
    images = normalize(seen, batch.mean, batch.std)
    return Shown(images, batch.labels, batch.places, views)


def said(recipe: Recipe, teacher: Teacher, batch: Shown) -> jax.Array | None:
    """Returns the teacher's logits [b, m] of a batch, or None where the recipe has no teacher."""
    if recipe.teacher is None:
        return None
    match teacher:
        case Table(logits):
            return logits[batch.views, batch.places]
        case Said(logits):
            return logits
        case Live(variables):
            return _apply(recipe.teacher, variables, batch.images)
    raise TypeError(f"teacher {type(teacher).__name__}: the recipe needs Live, Table or Said")


def train_step(
    recipe: Recipe, state: TrainState, fed: Fed, teacher: Teacher
) -> tuple[TrainState, Metrics]:
    """One step of the optimizer.

    Args:
        fed: by `feed`, for this epoch's order.
        teacher: frozen; it sees the student's augmented images.

    Returns:
        The next state, and the batch's means: loss, its parts, accuracy, and with a teacher
        `corrected`, the share of examples on which it is wrong.
    """
    batch = batch_at(recipe, fed, state.step)
    return learn(recipe, state, batch, said(recipe, teacher, batch))


def learn(
    recipe: Recipe, state: TrainState, batch: Shown, teacher_logits: jax.Array | None
) -> tuple[TrainState, Metrics]:
    """One step of the optimizer on a given batch; see `train_step`."""

    def of(params: Any) -> tuple[jax.Array, tuple[Variables, Metrics]]:
        variables = {**state.variables, "params": params}
        logits, stats = apply_train(recipe.model, variables, batch.images)
        loss, metrics = mean_loss(recipe, logits, batch, teacher_logits)
        return loss, (stats, metrics)

    gradient, (stats, metrics) = jax.grad(of, has_aux=True)(state.variables["params"])
    return descended(recipe, state, gradient, stats), metrics


def mean_loss(
    recipe: Recipe, logits: jax.Array, batch: Shown, teacher_logits: jax.Array | None
) -> tuple[jax.Array, Metrics]:
    """Returns the mean loss of a batch, and its means of all that is logged."""
    loss, parts = recipe.objective(logits, teacher_logits, batch.labels)
    right = jnp.argmax(logits[..., : recipe.classes], axis=-1) == batch.labels
    values = {"loss": loss, **parts, "accuracy": right.astype(jnp.float32)}
    if teacher_logits is not None:
        wrong = jnp.argmax(teacher_logits, axis=-1) != batch.labels
        values["corrected"] = wrong.astype(jnp.float32)
    return loss.mean(), jax.tree.map(jnp.mean, values)


def descended(
    recipe: Recipe, state: TrainState, gradient: Variables, stats: Variables
) -> TrainState:
    """Returns the state after the optimizer's step.

    Args:
        gradient: of the params.
        stats: the batch statistics after the batch.
    """
    params = state.variables["params"]
    updates, opt_state = recipe.optimizer.update(gradient, state.opt_state, params)
    state = state.replace(
        step=state.step + 1,
        variables={"params": optax.apply_updates(params, updates), "batch_stats": stats},
        opt_state=opt_state,
    )
    return _averaged(recipe, state)


def _apply(model: nn.Module, variables: Variables | None, images: jax.Array) -> jax.Array:
    """Returns the logits in evaluation mode."""
    logits: Any = model.apply(variables or {}, images, train=False)
    return logits


def apply_train(
    model: nn.Module, variables: Variables, images: jax.Array
) -> tuple[jax.Array, Variables]:
    """Returns logits and the new batch statistics."""
    logits, updated = model.apply(variables, images, train=True, mutable=["batch_stats"])
    return logits, updated.get("batch_stats", {})


def _averaged(recipe: Recipe, state: TrainState) -> TrainState:
    if recipe.average_weight is None:
        return state
    weight = recipe.average_weight(state.step)
    params = jax.tree.map(
        lambda average, new: average + weight * (new - average),
        state.average["params"],
        state.variables["params"],
    )
    return state.replace(average={**state.average, "params": params})


def recalibrate(
    recipe: Recipe, batches: int
) -> Callable[[TrainState, Examples, jax.Array], TrainState]:
    """Returns a function that makes the averaged weights' batch statistics right again.

    Without averaging it leaves the state as it is.

    Averaged weights have other activations than any weights on the way, so their statistics are
    the mean over the first `batches` batches of the epoch, as arXiv 1803.05407 does.
    """

    def statistics(params: Any, zeros: Any, fed: Fed, step: Any) -> Variables:
        images = batch_at(recipe, fed, step).images
        _, stats = apply_train(recipe.model, {"params": params, "batch_stats": zeros}, images)
        # From zero, the running statistics move to (1 - momentum) of the batch's own.
        return jax.tree.map(lambda value: value / (1 - NORM_MOMENTUM), stats)

    of_batch = compiled(statistics)

    def recalibrated(state: TrainState, examples: Examples, order: jax.Array) -> TrainState:
        if recipe.average_weight is None:
            return state
        zeros = jax.tree.map(jnp.zeros_like, state.average["batch_stats"])
        epoch_start = (state.step - 1) // recipe.steps_per_epoch * recipe.steps_per_epoch
        count = min(batches, recipe.steps_per_epoch)
        total = zeros
        with feed(examples, order[: count * recipe.batch_size], recipe.batch_size) as fed:
            for position in range(count):
                args = next(fed), epoch_start + position
                found = of_batch(state.average["params"], zeros, *args)
                total = jax.tree.map(jnp.add, total, found)
        stats = jax.tree.map(lambda value: value / count, total)
        return state.replace(average={**state.average, "batch_stats": stats})

    return recalibrated


def deployed(state: TrainState) -> Variables:
    """Returns the variables to evaluate and to take away: the average where there is one."""
    return state.average or state.variables


@functools.cache
def _forward(model: nn.Module, batch_size: int) -> Callable:
    def forward(variables: Variables, fed: Fed, position: jax.Array, change: Partial) -> jax.Array:
        batch = gathered(fed, position, batch_size)
        images = normalize(change(batch.images, batch.places), batch.mean, batch.std)
        return _apply(model, variables, images)

    return compiled(forward)


AS_THEY_ARE = Partial(lambda images, index: images)


def predict(
    model: nn.Module,
    variables: Variables,
    examples: Examples,
    *,
    batch_size: int,
    change: Partial = AS_THEY_ARE,
) -> np.ndarray:
    """Returns the logits of every example, once each, in their order.

    Args:
        change: `(images uint8 [b, h, w, c], their places int32 [b]) -> images`, before they are
            normalized. What it has bound is traced: other values of it compile nothing anew.

    Returns:
        float32 [n, outputs].
    """
    count, batch_size = len(examples.labels), parallel.up_to_multiple(batch_size)
    forward, steps = _forward(model, batch_size), -(-count // batch_size)
    # The last batch is filled up with copies of the last example, which are cut off again.
    order = np.minimum(np.arange(steps * batch_size, dtype=np.int32), count - 1)
    with feed(examples, order, batch_size) as fed:
        logits = [forward(variables, next(fed), position, change) for position in range(steps)]
    return np.concatenate(jax.device_get(logits))[:count]
