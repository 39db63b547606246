"""Argument checks of the pure functions: dtypes, shapes and ranges."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from kdjax.errors import InputError


def concrete(value: ArrayLike) -> bool:
    """Returns whether the value is known: it is not while jit, vmap or grad trace it."""
    return not isinstance(value, jax.core.Tracer)


def logits(values: ArrayLike, *, least: int) -> jax.Array:
    """Returns logits `[..., k]`, k >= `least`, as float32 (float64 for float64 input).

    Raises:
        ValueError: for fewer than `least` columns.
        TypeError: for a dtype that is not floating.
    """
    values = _floating("logits", values)
    if values.ndim == 0 or values.shape[-1] < least:
        raise InputError(f"logits of shape {values.shape}: need [..., k] with k >= {least}")
    return values


def targets(values: ArrayLike, *, shape: tuple[int, ...]) -> jax.Array:
    """Returns target probabilities of the given shape as float32 (float64 for float64 input).

    Raises:
        ValueError: for another shape.
        TypeError: for a dtype that is not floating.
    """
    values = _floating("targets", values)
    if values.shape != shape:
        raise InputError(f"targets of shape {values.shape}: these logits need {shape}")
    return values


def labels(values: ArrayLike, *, shape: tuple[int, ...], classes: int) -> jax.Array:
    """Returns integer labels of the given shape; known values must lie in [0, classes).

    Raises:
        ValueError: for another shape, or a label out of range (checked only outside jit).
        TypeError: for a dtype that is not an integer.
    """
    values = jnp.asarray(values)
    if not jnp.issubdtype(values.dtype, jnp.integer):
        raise TypeError(f"labels of dtype {values.dtype}: need integers")
    if values.shape != shape:
        raise InputError(f"labels of shape {values.shape}: these logits need {shape}")
    if concrete(values) and values.size:
        # NumPy, because under jit JAX would trace the minimum of a constant too.
        known = np.asarray(values)
        low, high = int(known.min()), int(known.max())
        if low < 0 or high >= classes:
            bad = low if low < 0 else high
            raise InputError(
                f"label {bad} is out of range: {classes} classes allow 0..{classes - 1}"
            )
    return values


def above(name: str, value: ArrayLike, bound: float) -> None:
    """Checks that a hyperparameter, unless it is traced, is greater than `bound`.

    Raises:
        ValueError: with the name, the value and the allowed range.
    """
    if concrete(value) and not np.all(np.asarray(value) > bound):
        raise InputError(f"{name} {value} is out of range: it must be greater than {bound}")


def within(name: str, value: ArrayLike, low: float, high: float) -> None:
    """Checks that a hyperparameter, unless it is traced, lies in [low, high).

    Raises:
        ValueError: with the name, the value and the allowed range.
    """
    if concrete(value) and not np.all((np.asarray(value) >= low) & (np.asarray(value) < high)):
        raise InputError(f"{name} {value} is out of range: it must lie in [{low:g}, {high:g})")


def _floating(name: str, values: ArrayLike) -> jax.Array:
    values = jnp.asarray(values)
    if not jnp.issubdtype(values.dtype, jnp.floating):
        raise TypeError(f"{name} of dtype {values.dtype}: need floats")
    return values.astype(jnp.promote_types(values.dtype, jnp.float32))
