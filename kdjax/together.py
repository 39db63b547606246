"""Runs of train steps, jitted: of one network, or of several that see the same batches."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kdjax import parallel
from kdjax.compiler import compiled
from kdjax.data.batches import Examples, Fed
from kdjax.data.records import Records
from kdjax.step import (
    Live,
    Metrics,
    Recipe,
    Said,
    Shown,
    States,
    Teacher,
    TrainState,
    Variables,
    apply_train,
    batch_at,
    descended,
    learn,
    mean_loss,
    said,
)

# On accelerators one dispatch runs many steps. On the CPU a dispatch costs next to nothing beside a
# step, and a loop compiles more: one call a step there.
STEPS_PER_CALL = {"cpu": 1}
STEPS_PER_CALL_ELSEWHERE = 50
# Backends on which the teacher answers in a program of its own.
APART = ("cpu",)


Ran = tuple[States, tuple[Metrics, ...]]


class Program(NamedTuple):
    """`(states, fed, teacher, count) -> (states, metrics)`: runs `count` steps of one epoch.

    There is a state for each network; the metrics are `[count]` each. The states are donated.

    Attributes:
        run: the steps, jitted.
        ask: `(teacher, fed, finished steps) -> logits` of a batch, jitted on its own; or None
            where the teacher answers within the steps.
    """

    run: Any
    ask: Callable[..., jax.Array] | None

    def __call__(self, states: States, fed: Fed, teacher: Teacher, count: int) -> Ran:
        """Runs the steps."""
        # In a run of steps it has to see each batch when its turn comes.
        if self.ask and count == 1 and isinstance(teacher, Live):
            teacher = Said(self.ask(teacher, fed, states[0].step))
        after: Ran = self.run(states, fed, teacher, count)
        return after

    def memory(self, states: States, fed: Fed, teacher: Teacher, count: int) -> int:
        """Returns the bytes that a call takes of each device, its arguments included.

        A teacher that answers in a program of its own is not counted.
        """
        if self.ask and count == 1 and isinstance(teacher, Live):
            shape = jax.eval_shape(self.ask, teacher, fed, states[0].step)
            teacher = Said(shape.update(sharding=parallel.replicated()))
        found = self.run.lower(states, fed, teacher, count).compile().memory_analysis()
        return int(
            found.argument_size_in_bytes
            + found.temp_size_in_bytes
            + found.output_size_in_bytes
            - found.alias_size_in_bytes
        )


def train_steps(recipes: Sequence[Recipe]) -> Program:
    """Returns the program that trains networks on the same batches.

    Args:
        recipes: of the networks; those with a teacher ask the same one, once.
    """
    first = next((one for one in recipes if one.teacher is not None), recipes[0])

    def steps(states: States, fed: Fed, teacher: Teacher, count: int) -> Ran:
        def one(now: States, _: None) -> Ran:
            batch = batch_at(first, fed, now[0].step)
            return _learn(recipes, now, batch, said(first, teacher, batch))

        if count > 1:
            return jax.lax.scan(one, states, length=count)
        after, metrics = one(states, None)
        return after, jax.tree.map(lambda value: value[None], metrics)

    def ask(teacher: Live, fed: Fed, done: jax.Array) -> jax.Array | None:
        return said(first, teacher, batch_at(first, fed, done))

    apart = first.teacher is not None and jax.default_backend() in APART
    return Program(
        compiled(steps, donate_argnums=0, static_argnums=3),
        compiled(ask) if apart else None,
    )


def _learn(
    recipes: Sequence[Recipe], states: States, batch: Shown, teacher_logits: jax.Array | None
) -> Ran:
    """One step of each network; those of one structure go through their layers together."""
    asked = [teacher_logits if recipe.teacher is not None else None for recipe in recipes]
    found: dict[int, tuple[TrainState, Metrics]] = {}
    for model in dict.fromkeys(recipe.model for recipe in recipes):
        places = [place for place, recipe in enumerate(recipes) if recipe.model == model]
        if len(places) == 1:
            own = [learn(recipes[places[0]], states[places[0]], batch, asked[places[0]])]
        else:
            own = _learn_alike(
                [recipes[place] for place in places],
                [states[place] for place in places],
                batch,
                [asked[place] for place in places],
            )
        found.update(zip(places, own, strict=True))
    after, metrics = zip(*(found[place] for place in range(len(recipes))), strict=True)
    return after, metrics


def _learn_alike(
    recipes: Sequence[Recipe],
    states: Sequence[TrainState],
    batch: Shown,
    asked: Sequence[jax.Array | None],
) -> list[tuple[TrainState, Metrics]]:
    """`learn` for networks of one structure: their layers are mapped over the networks."""
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(s.variables for s in states))
    apply = jax.vmap(functools.partial(apply_train, recipes[0].model), in_axes=(0, None))

    def total(params: Any) -> tuple[jax.Array, tuple[Variables, list[Metrics]]]:
        logits, stats = apply({**stacked, "params": params}, batch.images)
        found = [
            mean_loss(recipe, own, batch, taught)
            for recipe, own, taught in zip(recipes, logits, asked, strict=True)
        ]
        # No network's loss depends on the parameters of another.
        return jnp.sum(jnp.stack([loss for loss, _ in found])), (stats, [own for _, own in found])

    gradient, (stats, metrics) = jax.grad(total, has_aux=True)(stacked["params"])

    def of(place: int) -> TrainState:
        own = jax.tree.map(lambda leaf: leaf[place], (gradient, stats))
        return descended(recipes[place], states[place], *own)

    return [(of(place), found) for place, found in enumerate(metrics)]


def steps_per_call(examples: Examples) -> int:
    """Returns how many steps one call should run on this backend; of a stream it takes one."""
    if isinstance(examples.images, Records):
        return 1
    return STEPS_PER_CALL.get(jax.default_backend(), STEPS_PER_CALL_ELSEWHERE)
