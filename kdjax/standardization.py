"""Logit standardization: distillation from the shape of the logits, without their scale."""

import jax
import jax.numpy as jnp

from kdjax import checks

_EPSILON = 1e-7


def standardize(logits: jax.Array) -> jax.Array:
    """Returns the logits of each example with mean 0 and standard deviation 1.

    (v - mean v) / (std v + 1e-7), std v = sqrt(mean (v - mean v)^2). The order of the classes stays
    the same. The temperature is applied afterwards, so that T is a temperature in units of the
    standard deviation.

    Args:
        logits: v, class logits (without abstention), `[..., m]`, any float dtype.

    Returns:
        `[..., m]`, float32 (float64 for float64 input under `jax_enable_x64`). Logits that are
        equal up to rounding, see `is_constant`, give 0, without gradient; the gradient of the
        equation is of the order of 1e7 there.

    Raises:
        ValueError: for fewer than two classes.
        TypeError: for logits that are not floats.

    Source: Sun et al., "Logit Standardization in Knowledge Distillation", CVPR 2024, arXiv
    2403.01427. The authors' code divides the squares by m - 1; that equals a temperature higher by
    the factor sqrt(m / (m - 1)) here.
    """
    logits = checks.logits(logits, least=2)
    centred = logits - jnp.mean(logits, axis=-1, keepdims=True)
    variance = jnp.mean(centred**2, axis=-1, keepdims=True)
    constant = is_constant(logits, variance, axis=-1)
    deviation = jnp.sqrt(jnp.where(constant, 1, variance))
    return jnp.where(constant, 0, centred / (deviation + _EPSILON))


def is_constant(values: jax.Array, variance: jax.Array, axis: int) -> jax.Array:
    """Returns whether values are equal up to rounding: std <= 4 eps max |v|.

    The computed mean of equal values can differ from them in the last digit, and then their
    computed variance is not 0.

    Args:
        values: v, any shape and float dtype, eps that of the dtype.
        variance: the mean of (v - mean v)^2 along the axis, with length 1 there.
        axis: of the values that are compared.

    Returns:
        bool, of the shape of `variance`; False where a value is NaN.
    """
    largest = jnp.max(jnp.abs(values), axis=axis, keepdims=True)
    tolerance = 4 * jnp.finfo(values.dtype).eps * jax.lax.stop_gradient(largest)
    return variance <= tolerance**2
