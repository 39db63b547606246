"""The worker for the losses of kdjax and for plain optax implementations of the same equations.

`python -m experiments.losses.in_jax`, started by `python -m experiments.losses`.
"""

import contextlib
import functools
import importlib.metadata
import platform
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from experiments.benchmark.protocol import Prepared, Reply, serve
from experiments.losses.inputs import GRADIENT, LOSS, PAYOFF, TEMPERATURE, arguments, summary
from kdjax import losses

Loss = Callable[[jax.Array, jax.Array], jax.Array]


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy(logits, jax.nn.one_hot(labels, logits.shape[-1]))


def _gambler(logits: jax.Array, labels: jax.Array) -> jax.Array:
    probs = jax.nn.softmax(logits)
    label_probs = jnp.take_along_axis(probs, labels[:, None], axis=-1)[:, 0]
    return -jnp.log(label_probs + probs[:, -1] / PAYOFF)


def _soft_gambler(logits: jax.Array, targets: jax.Array) -> jax.Array:
    probs = jax.nn.softmax(logits)
    return -jnp.sum(targets * jnp.log(probs[:, :-1] + probs[:, -1:] / PAYOFF), axis=-1)


def _distillation(logits: jax.Array, targets: jax.Array) -> jax.Array:
    log_student = jax.nn.log_softmax(logits / TEMPERATURE)
    return TEMPERATURE**2 * optax.losses.kl_divergence(log_student, targets)


SIDES: Mapping[str, Mapping[str, Loss]] = {
    "kdjax": {
        "cross_entropy": losses.cross_entropy,
        "gambler": functools.partial(losses.gambler, payoff=PAYOFF),
        "soft_gambler": functools.partial(losses.soft_gambler, payoff=PAYOFF),
        "distillation": functools.partial(losses.distillation, temperature=TEMPERATURE),
    },
    "optax": {
        "cross_entropy": _cross_entropy,
        "gambler": _gambler,
        "soft_gambler": _soft_gambler,
        "distillation": _distillation,
    },
}


def describe() -> Reply:
    """Returns versions and device."""
    versions = {name: importlib.metadata.version(name) for name in ("kdjax", "jax", "optax")}
    return {
        "versions": {**versions, "python": platform.python_version()},
        "device": jax.devices()[0].device_kind,
    }


def _functions(side: str, name: str) -> tuple[tuple[jax.Array, ...], Callable, Callable]:
    """Returns the arguments, the jitted loss, and the jitted gradient of its mean."""
    loss = SIDES[side][name]
    gradient = jax.grad(lambda logits, targets: loss(logits, targets).mean())
    return tuple(map(jnp.asarray, arguments(name))), jax.jit(loss), jax.jit(gradient)


def prepare(resources: contextlib.ExitStack, variant: dict[str, str]) -> Prepared:
    """Returns a loss and its gradient, ready to be timed; see `protocol.serve`."""
    inputs, loss, gradient = _functions(variant["side"], variant["loss"])
    return Prepared(
        {
            LOSS: lambda: jax.block_until_ready(loss(*inputs)),
            GRADIENT: lambda: jax.block_until_ready(gradient(*inputs)),
        }
    )


def values(side: str, name: str) -> Reply:
    """Returns the mean of a loss and the norm of the gradient of the mean."""
    inputs, loss, gradient = _functions(side, name)
    return summary(loss(*inputs), gradient(*inputs))


if __name__ == "__main__":
    serve(prepare, describe=describe, values=values)
