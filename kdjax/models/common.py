"""Parts shared by all networks: input checks, normalization, activations and the last layer."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax.errors import InputError

MIN_SIZE = 8

# Weight of the old running statistics in each update; PyTorch's default momentum, 0.1, is 1 - this.
NORM_MOMENTUM = 0.9
NORM_EPSILON = 1e-5
# Stems by name, and the height and width from which `auto` is the large one, that of ImageNet.
STEMS = ("auto", "small", "large")
LARGE_STEM_SIZE = 64
# Name of a module whose parameters are computed from images and not trained.
FIXED = "whitening"


def check_images(images: jax.Array) -> None:
    """Raises if the networks cannot process the images.

    Args:
        images: [b, h, w, c], float, h and w at least 8 pixels.

    Raises:
        InputError: if the images have another rank or are smaller than 8x8.
        TypeError: if the images are not float.
    """
    if images.ndim != 4 or min(images.shape[1:3]) < MIN_SIZE:
        raise InputError(
            f"images of shape {images.shape}: must be [batch, height, width, channels] "
            f"with height and width of at least {MIN_SIZE} (data.image_size resizes own images)"
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(
            f"images of dtype {images.dtype}, shape {images.shape}: must be float, normalized"
        )


def is_large_stem(stem: str, images: jax.Array) -> bool:
    """Returns whether a network begins with its stem for large images.

    Args:
        stem: one of `STEMS`.
        images: [b, h, w, c].
    """
    if stem == "auto":
        return min(images.shape[1:3]) >= LARGE_STEM_SIZE
    return stem == "large"


def at_least_float32(array: jax.Array) -> jax.Array:
    """Returns the array in its own dtype or float32, whichever is wider."""
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def relu(features: jax.Array) -> jax.Array:
    """Returns max(features, 0), with the dtype of the features.

    Computed in float32 so that XLA:CPU fuses it with the preceding convolution, which it does not
    in bfloat16. The result is the same.
    """
    return nn.relu(at_least_float32(features)).astype(features.dtype)


def gelu(features: jax.Array) -> jax.Array:
    """Returns x Phi(x), Phi the normal distribution function, with the dtype of the features.

    Computed in float32, as `relu`, and from erf, which the ONNX export can write.
    """
    x = at_least_float32(features)
    return (x * (0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5)))).astype(features.dtype)


def max_pool(features: jax.Array) -> jax.Array:
    """Returns the maximum over 2x2 windows with stride 2; odd sizes are rounded up.

    Computed as a maximum of slices, because the gradient of XLA's pooling is much slower on the
    CPU. The gradient is divided equally among features that attain the maximum.

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


def overlapping_max_pool(features: jax.Array) -> jax.Array:
    """Returns the maximum over 3x3 windows with stride 2 and padding 1, as a maximum of slices.

    Args:
        features: [b, h, w, c].

    Returns:
        [b, ceil(h / 2), ceil(w / 2), c].
    """
    odd = [(1, size % 2) for size in features.shape[1:3]]
    padded = jnp.pad(features, ((0, 0), *odd, (0, 0)), constant_values=-jnp.inf)
    pairs = jnp.maximum(padded[:, :-1:2], padded[:, 1::2])
    rows = jnp.maximum(pairs, padded[:, 2::2])
    pairs = jnp.maximum(rows[:, :, :-1:2], rows[:, :, 1::2])
    return jnp.maximum(pairs, rows[:, :, 2::2])


class Head(nn.Module):
    """Global average pooling and one linear layer, computed in at least float32.

    Attributes:
        num_outputs: number of logits: m, or m+1 with abstention.
    """

    num_outputs: int

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """Returns logits [b, num_outputs], float32, for features [b, h, w, c]."""
        # From jax 0.11 on, XLA:CPU fuses the last block into this mean, and bfloat16 gives NaN.
        features = jax.lax.optimization_barrier(features)
        return nn.Dense(self.num_outputs)(at_least_float32(features).mean(axis=(1, 2)))
