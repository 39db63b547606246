"""Random numbers that do not depend on JAX's settings."""

import contextlib

import jax


def key(seed: int | jax.Array) -> jax.Array:
    """Returns the key of a seed for an explicit generator, not JAX's default one.

    Args:
        seed: from 0 to 2^32 - 1; may be traced.
    """
    return jax.random.key(seed, impl="threefry2x32")


def pinned() -> contextlib.AbstractContextManager[None]:
    """Returns a context in which numbers are drawn as with JAX's default settings, also under jit.

    `JAX_THREEFRY_PARTITIONABLE=0` would give other numbers. The dtype of each draw must be explicit
    too, because `JAX_ENABLE_X64=1` changes the default.
    """
    return jax.threefry_partitionable(True)
