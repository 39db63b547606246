"""Random numbers that do not depend on JAX's settings."""

import contextlib
import dataclasses
from typing import Any

import jax
import numpy as np

from kdjax.runtime import sharding


def key(seed: int | jax.Array) -> jax.Array:
    """Returns the key of a seed for an explicit generator, not JAX's default one.

    Args:
        seed: from 0 to 2^32 - 1; may be traced.
    """
    return jax.random.key(seed, impl="threefry2x32")


def register_seed(cls: type, *seeds: str) -> None:
    """Registers a frozen dataclass as a pytree whose leaves are its seeds.

    As an argument of a jitted function, its other fields are compiled into the program and the
    seeds are not: a run with another seed finds the program in the compilation cache if it is
    stored.

    Args:
        cls: the dataclass.
        *seeds: names of the fields that are seeds, or dataclasses registered likewise.
    """
    fixed = [field.name for field in dataclasses.fields(cls) if field.name not in seeds]
    jax.tree_util.register_dataclass(cls, data_fields=seeds, meta_fields=fixed)


def with_array_seeds(spec: Any) -> Any:
    """Returns registered dataclasses with their seeds as uint32 arrays on the devices."""
    return sharding.replicate(jax.tree.map(np.uint32, spec))


def pinned() -> contextlib.AbstractContextManager[None]:
    """Returns a context in which numbers are drawn as with JAX's default settings, also under jit.

    `JAX_THREEFRY_PARTITIONABLE=0` would give other numbers. The dtype of each draw must be explicit
    too, because `JAX_ENABLE_X64=1` changes the default.
    """
    return jax.threefry_partitionable(True)
