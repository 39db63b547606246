"""What kdjax's convolution and pooling are worth in a training step, as ratios of times.

python experiments/convolutions.py --networks=alexnet,resnet8 --batch=64

Plain SGD on random images of 32x32x3. All programs of a network run in turn, so that other work
on the machine meets each alike; a ratio is one of medians. Columns: a step with
flax.linen's, which are lax's, over a step with ours; `steps` steps in one loop over as many calls;
`students` students under vmap over as many calls, with ours and with lax's.
"""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from kdjax import models
from kdjax.compiler import compiled
from kdjax.models import alexnet, common, resnet

_NETWORKS = flags.DEFINE_list("networks", ["alexnet", "resnet8"], "keys of kdjax.models.MODELS")
_BATCH = flags.DEFINE_integer("batch", 64, "images a step")
_REPEATS = flags.DEFINE_integer("repeats", 7, "rounds, after one to warm up")
_STEPS = flags.DEFINE_integer("steps", 4, "steps in one loop")
_STUDENTS = flags.DEFINE_integer("students", 4, "students under one vmap")

Program = Callable[[], Any]


def training_step(name: str, batch: int) -> tuple[Callable[[Any], Any], Any]:
    """Returns `variables -> variables` after one step on random images, and the first ones."""
    model, rng = models.create(name, 10), np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(batch, 32, 32, 3)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 10, batch))

    def step(variables: Any) -> Any:
        def loss(params: Any) -> tuple[jax.Array, Any]:
            found = {**variables, "params": params}
            logits, stats = model.apply(found, images, True, mutable=["batch_stats"])
            losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), stats

        gradient, stats = jax.grad(loss, has_aux=True)(variables["params"])
        params = jax.tree.map(lambda old, by: old - 1e-3 * by, variables["params"], gradient)
        return {**variables, "params": params, **stats}

    return step, model.init(jax.random.key(0), images[:1], False)


@contextlib.contextmanager
def of_lax() -> Iterator[None]:
    """Networks that are built within have flax.linen's convolution and pooling."""

    def max_pool(features: jax.Array) -> jax.Array:
        return nn.max_pool(features, window_shape=(2, 2), strides=(2, 2), padding="SAME")

    with contextlib.ExitStack() as patched:
        for module, name, theirs in (
            (alexnet, "Conv", nn.Conv),
            (resnet, "Conv", nn.Conv),
            (common, "max_pool", max_pool),
        ):
            patched.enter_context(mock.patch.object(module, name, theirs))
        yield


def ready(function: Callable, *args: Any) -> Program:
    """Returns the program, compiled, called with these arguments and waited for."""
    program = compiled(function)
    jax.block_until_ready(program(*args))
    return lambda: jax.block_until_ready(program(*args))


def programs(name: str, batch: int, steps: int, students: int) -> dict[str, Program]:
    """Returns one call, its mapped and its looped form, with our layers and with lax's."""
    step, variables = training_step(name, batch)
    several = jax.tree.map(lambda leaf: jnp.stack([leaf] * students), variables)

    def looped(first: Any) -> Any:
        return jax.lax.fori_loop(0, steps, lambda _, now: step(now), first)

    found = {
        "ours": ready(step, variables),
        "ours, loop": ready(looped, variables),
        "ours, vmap": ready(jax.vmap(step), several),
    }
    # A loop with lax's gradient would take minutes.
    with of_lax():
        step, _ = training_step(name, batch)
        found["lax"] = ready(step, variables)
        found["lax, vmap"] = ready(jax.vmap(step), several)
    return found


def medians(found: dict[str, Program], repeats: int) -> dict[str, float]:
    """Returns the median seconds of each program, all of them run in turn."""
    times: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(repeats + 1):
        for name, program in found.items():
            start = time.perf_counter()
            program()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken[1:]) for name, taken in times.items()}


def main(argv: Sequence[str]) -> None:
    """Prints one row for each network."""
    del argv
    steps, students = _STEPS.value, _STUDENTS.value
    print(f"jax {jax.__version__}, {jax.default_backend()}, batch {_BATCH.value}")
    print("| network | lax / ours | loop / calls | vmap / calls | the same with lax |")
    print("|---|---|---|---|---|")
    for name in _NETWORKS.value:
        took = medians(programs(name, _BATCH.value, steps, students), _REPEATS.value)
        ratios = (
            took["lax"] / took["ours"],
            took["ours, loop"] / (steps * took["ours"]),
            took["ours, vmap"] / (students * took["ours"]),
            took["lax, vmap"] / (students * took["lax"]),
        )
        print(f"| {name} | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |", flush=True)


if __name__ == "__main__":
    app.run(main)
