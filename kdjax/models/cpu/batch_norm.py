"""Batch normalization in a form that is fast on XLA:CPU, with its gradient in closed form.

XLA:CPU computes a sum over the examples fast if nothing else uses what is summed. Otherwise it
writes the arrays, such as x in float32 or x - mean, to memory for all uses. So each sum here has
its own copy of the expressions, which optimization barriers keep apart.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from kdjax.models.common import NORM_EPSILON, NORM_MOMENTUM, at_least_float32

Residuals = tuple[jax.Array, ...]


def create(*, use_running_average: bool, dtype: DTypeLike, use_scale: bool = True) -> nn.Module:
    """Returns a module of batch normalization: in training on a CPU `BatchNorm`, else that of Flax.

    Args:
        use_running_average: whether to use the running statistics instead of those of the batch.
        dtype: of the result.
        use_scale: whether there is a scale.
    """
    options: dict[str, Any] = {"momentum": NORM_MOMENTUM, "epsilon": NORM_EPSILON, "dtype": dtype}
    if use_running_average or jax.default_backend() != "cpu":
        return nn.BatchNorm(use_running_average, use_scale=use_scale, **options)
    return BatchNorm(use_scale=use_scale, **options)


class BatchNorm(nn.Module):
    """`flax.linen.BatchNorm` with the statistics of the batch, for the last axis.

    Attributes:
        momentum: weight of the old running statistics in each update.
        epsilon: see `normalize`.
        dtype: of the result.
        use_scale: whether there is a scale.
    """

    momentum: float
    epsilon: float
    dtype: DTypeLike
    use_scale: bool = True

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """Returns [..., c] for features [..., c], and updates the running statistics."""
        channels = features.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels)
        ones = nn.initializers.ones
        scale = self.param("scale", ones, channels) if self.use_scale else jnp.ones(channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        outputs, mean, var = normalize(features, scale, bias, self.epsilon)
        if not self.is_initializing():
            for running, value in ((running_mean, mean), (running_var, var)):
                running.value = self.momentum * running.value + (1 - self.momentum) * value
        return outputs.astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalize(
    features: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns features normalized by the statistics of the batch, and these statistics.

    y = (x - mean) scale / sqrt(var + epsilon) + bias, var = max(mean(x^2) - mean(x)^2, 0), for each
    channel. All is computed in float32, or in float64 for such features.

    Args:
        features: x, float `[..., c]`.
        scale: `[c]`.
        bias: `[c]`.
        epsilon: keeps the quotient finite.

    Returns:
        y in the dtype of x, the mean `[c]` and the variance `[c]`.
    """
    outputs, _ = _forward(features, scale, bias, epsilon)
    return outputs


def _forward(
    features: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], Residuals]:
    axes = range(features.ndim - 1)
    first, second = map(at_least_float32, lax.optimization_barrier((features, features)))
    mean = jnp.mean(first, axes)
    var = jnp.maximum(jnp.mean(lax.square(second), axes) - lax.square(mean), 0)
    factor = lax.rsqrt(var + epsilon)
    normalized = (at_least_float32(features) - _along(mean, features)) * _along(
        factor * scale, features
    )
    outputs = (normalized + _along(bias, features)).astype(features.dtype)
    return (outputs, mean, var), (features, scale, mean, factor)


def _backward(
    epsilon: float, residuals: Residuals, cotangents: tuple[jax.Array, jax.Array, jax.Array]
) -> Residuals:
    """Returns the gradients of features, scale and bias.

    With f = 1 / sqrt(var + epsilon), n examples, d of y, and means over the examples:
    dL/dx = f scale (d - mean d - f^2 (x - mean) mean(d (x - mean)))
    + (dL/dmean + 2 (x - mean) dL/dvar) / n.
    """
    features, scale, mean, factor = residuals
    d_outputs, d_mean, d_var = cotangents
    axes, examples = range(features.ndim - 1), features.size // features.shape[-1]
    first, second = map(at_least_float32, lax.optimization_barrier((d_outputs, d_outputs)))
    d_bias = jnp.sum(first, axes)
    covariance = jnp.sum(second * (at_least_float32(features) - _along(mean, features)), axes)
    constant = (d_mean - factor * scale * d_bias) / examples
    slope = (2 * d_var - factor**3 * scale * covariance) / examples
    features = lax.optimization_barrier(features)
    d_features = (
        _along(factor * scale, features) * at_least_float32(d_outputs)
        + _along(slope, features) * (at_least_float32(features) - _along(mean, features))
        + _along(constant, features)
    )
    return d_features.astype(features.dtype), factor * covariance, d_bias


normalize.defvjp(_forward, _backward)


def _along(channels: jax.Array, features: jax.Array) -> jax.Array:
    """Returns values of channels, `[c]`, in a shape that broadcasts to features `[..., c]`."""
    return channels.reshape((1,) * (features.ndim - 1) + channels.shape)
