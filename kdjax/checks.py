"""Argument checks of the pure functions: dtypes, shapes and ranges."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from kdjax.errors import InputError

# Temperatures whose square, and logits divided by which, are finite in float32.
MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-18, 1e18
# By which a probability in a short float type may exceed 1.
_ROUNDING = 1e-2


def concrete(value: Any) -> bool:
    """Returns whether the value is known: it is not while jit, vmap or grad trace (part of) it."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value))


def logits(values: ArrayLike, *, least: int) -> jax.Array:
    """Returns logits `[..., k]`, k >= `least`, as float32.

    float64 input stays float64 if `jax_enable_x64` is set.

    Raises:
        ValueError: for fewer than `least` columns.
        TypeError: for a dtype that is not floating.
    """
    values = _floating("logits", values)
    if values.ndim == 0 or values.shape[-1] < least:
        raise InputError(f"logits of shape {values.shape}: need [..., k] with k >= {least}")
    return values


def teacher_logits(values: ArrayLike, *, shape: tuple[int, ...]) -> jax.Array:
    """Returns a teacher's logits of the given shape as float32.

    float64 input stays float64 if `jax_enable_x64` is set.

    Raises:
        ValueError: for another shape.
        TypeError: for a dtype that is not floating.
    """
    values = _floating("teacher logits", values)
    if values.shape != shape:
        raise InputError(f"teacher logits of shape {values.shape}: these logits need {shape}")
    return values


def targets(values: ArrayLike, *, shape: tuple[int, ...]) -> jax.Array:
    """Returns target probabilities of the given shape as float32.

    float64 input stays float64 if `jax_enable_x64` is set.

    Raises:
        ValueError: for another shape, or a value outside [0, 1], such as a logit (checked only
            outside jit).
        TypeError: for a dtype that is not floating.
    """
    values = _floating("targets", values)
    if values.shape != shape:
        raise InputError(f"targets of shape {values.shape}: these logits need {shape}")
    if values.size and concrete(values):
        # NumPy, because under jit JAX would trace the minimum of a constant too.
        known = np.asarray(values)
        low, high = float(known.min()), float(known.max())
        if low < 0 or high > 1 + _ROUNDING:
            raise InputError(
                f"target {low if low < 0 else high:g} is out of range: targets are probabilities, "
                "in [0, 1]"
            )
    return values


def labels(values: ArrayLike, *, shape: tuple[int, ...], classes: int) -> jax.Array:
    """Returns integer labels of the given shape; known values must lie in [0, classes).

    They are checked before the conversion to a JAX array, which would wrap 2^32 to 0.

    Raises:
        ValueError: for another shape, or a label out of range (checked only outside jit).
        TypeError: for a dtype that is not an integer.
    """
    # NumPy, because under jit JAX would trace the minimum of a constant too.
    values = np.asarray(values) if concrete(values) else jnp.asarray(values)
    if not jnp.issubdtype(values.dtype, jnp.integer) and not _all_integers(values):
        raise TypeError(f"labels of dtype {values.dtype}: need integers")
    if values.shape != shape:
        raise InputError(f"labels of shape {values.shape}: these logits need {shape}")
    if isinstance(values, np.ndarray) and values.size:
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= classes:
            bad = low if low < 0 else high
            raise InputError(
                f"label {bad} is out of range: {classes} classes allow 0..{classes - 1}"
            )
    return jnp.asarray(values)


def _all_integers(values: Any) -> bool:
    """Returns whether the array holds Python integers that exceed 64 bits."""
    return values.dtype == object and all(isinstance(value, int) for value in values.flat)


def above(name: str, value: ArrayLike, bound: float) -> None:
    """Checks that a hyperparameter, unless it is traced, is greater than `bound`.

    Raises:
        ValueError: with the name, the value and the allowed range.
        TypeError: if it is not a number.
    """
    if concrete(value) and not np.all(_numbers(name, value) > bound):
        raise InputError(f"{name} {value} is out of range: it must be greater than {bound}")


def at_least(name: str, value: ArrayLike, bound: float) -> None:
    """Checks that a hyperparameter, unless it is traced, is not less than `bound`.

    Raises:
        ValueError: with the name, the value and the allowed range.
        TypeError: if it is not a number.
    """
    if concrete(value) and not np.all(_numbers(name, value) >= bound):
        raise InputError(f"{name} {value} is out of range: it must be at least {bound}")


def within(name: str, value: ArrayLike, low: float, high: float) -> None:
    """Checks that a hyperparameter, unless it is traced, lies in [low, high).

    Raises:
        ValueError: with the name, the value and the allowed range.
        TypeError: if it is not a number.
    """
    if concrete(value):
        known = _numbers(name, value)
        if not np.all((known >= low) & (known < high)):
            raise InputError(f"{name} {value} is out of range: it must lie in [{low:g}, {high:g})")


def temperature(value: ArrayLike, name: str = "temperature") -> None:
    """Checks that a temperature, unless it is traced, is in the range of finite results.

    Raises:
        ValueError: with the name, the value and the allowed range.
        TypeError: if it is not a number.
    """
    if concrete(value):
        known = _numbers(name, value)
        if not np.all((known >= MIN_TEMPERATURE) & (known <= MAX_TEMPERATURE)):
            raise InputError(
                f"{name} {value} is out of range: it must lie in "
                f"[{MIN_TEMPERATURE:g}, {MAX_TEMPERATURE:g}]"
            )


def per_example(name: str, value: ArrayLike, like: jax.Array) -> jax.Array:
    """Returns a hyperparameter in a shape that broadcasts against the classes of logits.

    Args:
        name: for the error message.
        value: a scalar, or one value per example, of a shape that broadcasts to `[...]`.
        like: logits `[..., k]`, which also give the dtype.

    Returns:
        A scalar, or an array of as many dimensions as `like`, with one column.

    Raises:
        ValueError: for another shape, such as `[B, 1]` for logits `[B, k]`.
    """
    value = jnp.asarray(value, like.dtype)
    if value.ndim == 0:
        return value
    leading = like.shape[:-1]
    # Compared from the last axis; a longer shape would add axes to the result.
    pairs = zip(value.shape[::-1], leading[::-1], strict=False)
    if value.ndim > len(leading) or any(size not in (1, wanted) for size, wanted in pairs):
        raise InputError(
            f"{name} of shape {value.shape}: logits of shape {like.shape} allow a scalar or one "
            f"value per example, {leading}"
        )
    return value.reshape((1,) * (len(leading) - value.ndim) + (*value.shape, 1))


def _floating(name: str, values: ArrayLike) -> jax.Array:
    try:
        values = jnp.asarray(values)
    except (TypeError, ValueError) as error:  # such as strings, float128 or masked arrays
        kind = getattr(values, "dtype", type(values).__name__)
        raise TypeError(f"{name} of dtype {kind}: need floats") from error
    if not jnp.issubdtype(values.dtype, jnp.floating):
        raise TypeError(f"{name} of dtype {values.dtype}: need floats")
    return values.astype(jnp.float64 if values.dtype == jnp.float64 else jnp.float32)


def _numbers(name: str, value: ArrayLike) -> np.ndarray:
    """Returns a known hyperparameter as an array.

    Raises:
        TypeError: if it is not a real number or an array of them.
    """
    try:
        known = np.asarray(value)
    except ValueError:  # nested sequences of unequal lengths
        known = np.empty(0, object)
    real = jnp.issubdtype(known.dtype, jnp.integer) or jnp.issubdtype(known.dtype, jnp.floating)
    if not real:
        raise TypeError(f"{name} {value!r}: need a number, or one for each example")
    return known
