"""What every network shares: the check of its images, its normalization and its last layer."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax.errors import InputError

MIN_SIZE = 8

# The share of the running statistics that a step keeps: PyTorch's default momentum of 0.1.
NORM_MOMENTUM = 0.9
NORM_EPSILON = 1e-5
BatchNorm = functools.partial(nn.BatchNorm, momentum=NORM_MOMENTUM, epsilon=NORM_EPSILON)


def check_images(images: jax.Array) -> None:
    """Refuses images that the networks are not built for.

    Args:
        images: [b, h, w, c], float, h and w at least 8 pixels.

    Raises:
        InputError: on another rank, or on images smaller than 8x8.
        TypeError: on images that are not float.
    """
    if images.ndim != 4 or min(images.shape[1:3]) < MIN_SIZE:
        raise InputError(
            f"images of shape {images.shape}: must be [batch, height, width, channels] "
            f"with height and width of at least {MIN_SIZE}"
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(
            f"images of dtype {images.dtype}, shape {images.shape}: must be float, normalized"
        )


def exact(array: jax.Array) -> jax.Array:
    """Returns the array in float32 at least."""
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def relu(features: jax.Array) -> jax.Array:
    """Returns max(features, 0), of their dtype.

    It is found in float32, which changes no value: in bfloat16 XLA:CPU does not join it to the
    convolution before it.
    """
    return nn.relu(exact(features)).astype(features.dtype)


def max_pool(features: jax.Array) -> jax.Array:
    """Returns the largest of every 2x2 features; odd sizes are rounded up.

    A maximum of slices, since XLA:CPU takes far longer for the gradient of its own pooling. The
    slope of equal features is shared among them.

    Args:
        features: [b, h, w, c].

    Returns:
        [b, ceil(h / 2), ceil(w / 2), c].
    """
    odd = [(0, size % 2) for size in features.shape[1:3]]
    padded = jnp.pad(features, ((0, 0), *odd, (0, 0)), constant_values=-jnp.inf)
    upper, lower = padded[:, ::2], padded[:, 1::2]
    rows = jnp.maximum(upper, lower)
    return jnp.maximum(rows[:, :, ::2], rows[:, :, 1::2])


class Head(nn.Module):
    """Global average pooling and one linear layer, in float32 at least, whatever came before.

    Attributes:
        num_outputs: the number of logits, m or, with abstention, m+1.
    """

    num_outputs: int

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """Returns logits [b, num_outputs], float32, for features [b, h, w, c]."""
        # XLA:CPU from jax 0.11 on fuses the last block into this sum and makes NaN of bfloat16.
        features = jax.lax.optimization_barrier(features)
        return nn.Dense(self.num_outputs)(exact(features).mean(axis=(1, 2)))
