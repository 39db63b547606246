"""Times a training step with kdjax's convolution and pooling against flax.linen's.

python experiments/convolutions.py --networks=alexnet,resnet8 --batch=64

Plain SGD on random images of 32x32x3. The programs of a network run in turn, so that other load on
the machine affects all of them alike; each ratio is one of median times. Columns: a step with the
layers of flax.linen (which call lax) over a step with those of kdjax; `steps` steps in one loop
over as many calls; `students` students under vmap over as many calls, with kdjax's layers and with
flax.linen's.
"""

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from kdjax import models
from kdjax.models import alexnet, common, fast_cnn, resnet
from kdjax.runtime.compiler import jit

Program = Callable[[], Any]


def training_step(name: str, batch: int) -> tuple[Callable[[Any], Any], Any]:
    """Returns a training step `variables -> variables` on random images, and initial variables."""
    model, rng = models.create(name, 10), np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(batch, 32, 32, 3)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 10, batch))

    def step(variables: Any) -> Any:
        def loss_fn(params: Any) -> tuple[jax.Array, Any]:
            logits, stats = model.apply(
                {**variables, "params": params}, images, True, mutable=["batch_stats"]
            )
            losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), stats

        gradient, stats = jax.grad(loss_fn, has_aux=True)(variables["params"])
        params = jax.tree.map(lambda old, grad: old - 1e-3 * grad, variables["params"], gradient)
        return {**variables, "params": params, **stats}

    return step, model.init(jax.random.key(0), images[:1], False)


@contextlib.contextmanager
def flax_layers() -> Iterator[None]:
    """Networks that are built in this context use flax.linen's convolution and pooling."""

    def max_pool(features: jax.Array) -> jax.Array:
        return nn.max_pool(features, window_shape=(2, 2), strides=(2, 2), padding="SAME")

    with contextlib.ExitStack() as patches:
        for module, name, layer in (
            (alexnet, "Conv", nn.Conv),
            (resnet, "Conv", nn.Conv),
            (fast_cnn, "Conv", nn.Conv),
            (common, "max_pool", max_pool),
        ):
            patches.enter_context(mock.patch.object(module, name, layer))
        yield


def compile_program(function: Callable, *args: Any) -> Program:
    """Returns the compiled function of these arguments; it blocks until its result is ready."""
    program = jit(function)
    jax.block_until_ready(program(*args))
    return lambda: jax.block_until_ready(program(*args))


def make_programs(name: str, batch: int, steps: int, students: int) -> dict[str, Program]:
    """Returns a step, its loop and its vmap with kdjax's layers; step and vmap with flax's."""
    step, variables = training_step(name, batch)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf] * students), variables)

    def loop(initial: Any) -> Any:
        return jax.lax.fori_loop(0, steps, lambda _, current: step(current), initial)

    programs = {
        "kdjax": compile_program(step, variables),
        "kdjax, loop": compile_program(loop, variables),
        "kdjax, vmap": compile_program(jax.vmap(step), stacked),
    }
    # Flax's layers are not timed in a loop: XLA:CPU takes minutes for their gradient there.
    with flax_layers():
        step, _ = training_step(name, batch)
        programs["flax"] = compile_program(step, variables)
        programs["flax, vmap"] = compile_program(jax.vmap(step), stacked)
    return programs


def median_seconds(programs: Mapping[str, Program], repeats: int) -> dict[str, float]:
    """Returns the median seconds of each program; the programs run in turn."""
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(repeats + 1):
        for name, program in programs.items():
            start = time.perf_counter()
            program()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds[1:]) for name, seconds in times.items()}


def main() -> None:
    """Prints a Markdown table with one row per network."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", default="alexnet,resnet8", help="keys of kdjax.models.MODELS")
    parser.add_argument("--batch", type=int, default=64, help="batch size")
    parser.add_argument("--repeats", type=int, default=7, help="timed rounds, after one to warm up")
    parser.add_argument("--steps", type=int, default=4, help="steps in one loop")
    parser.add_argument("--students", type=int, default=4, help="students under one vmap")
    options = parser.parse_args()
    steps, students = options.steps, options.students
    print(f"jax {jax.__version__}, {jax.default_backend()}, batch size {options.batch}")
    print("| network | flax / kdjax | loop / calls | vmap / calls | vmap / calls with flax |")
    print("|---|---|---|---|---|")
    for name in options.networks.split(","):
        programs = make_programs(name, options.batch, steps, students)
        seconds = median_seconds(programs, options.repeats)
        ratios = (
            seconds["flax"] / seconds["kdjax"],
            seconds["kdjax, loop"] / (steps * seconds["kdjax"]),
            seconds["kdjax, vmap"] / (students * seconds["kdjax"]),
            seconds["flax, vmap"] / (students * seconds["flax"]),
        )
        print(f"| {name} | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |", flush=True)


if __name__ == "__main__":
    main()
