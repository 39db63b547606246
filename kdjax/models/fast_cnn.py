"""A convolutional network that learns images of 32x32 pixels in a few epochs.

Written from the description of airbench94: Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single
GPU", arXiv 2404.00498, section 3. Its first layer whitens patches of the training images.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from kdjax.models import common
from kdjax.models.cpu import batch_norm
from kdjax.models.cpu.convolution import Conv

# Height and width of the patches that the first layer whitens.
PATCH = 2
# Added to the variances of the patches, so that noise is not amplified.
WHITENING_EPSILON = 5e-4
# Images whose patches are in memory at once.
CHUNK = 250
# Channels of the groups, as multiples of the width.
GROUPS = (1, 4, 4)
# Factor of the logits.
LOGIT_SCALE = 1 / 9

# The default of PyTorch for convolutions and linear layers, from which the paper starts.
UNIFORM_FAN_IN = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def dirac(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Returns a kernel whose first outputs are copies of the inputs; the others are random.

    Args:
        key: of the random numbers.
        shape: [kh, kw, c, d], kh and kw odd.
        dtype: of the kernel.
    """
    rows, columns, inputs, outputs = shape
    copied = min(inputs, outputs)
    identity = jnp.zeros((rows, columns, inputs, copied), dtype)
    identity = identity.at[rows // 2, columns // 2].set(jnp.eye(inputs, copied, dtype=dtype))
    return UNIFORM_FAN_IN(key, shape, dtype).at[..., :copied].set(identity)


def whitening_kernel(images: np.ndarray) -> np.ndarray:
    """Returns the kernel that decorrelates patches of 2x2 pixels.

    The columns are v_i / sqrt(l_i + epsilon) and their negatives, where v_i and l_i are the
    eigenvectors and eigenvalues of the covariance matrix of the patches.

    Args:
        images: [n, h, w, c], normalized.

    Returns:
        float32 [2, 2, c, 8 c].
    """
    channels = images.shape[-1]
    variances, vectors = np.linalg.eigh(_patch_covariance(images))
    # The sign of an eigenvector is arbitrary; its largest component is made positive.
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(0)[None], 0)
    filters = vectors * np.sign(largest) / np.sqrt(np.maximum(variances, 0) + WHITENING_EPSILON)
    filters = filters[:, ::-1]
    both = np.concatenate([filters, -filters], axis=1)
    return both.reshape(PATCH, PATCH, channels, -1).astype(np.float32)


def _patch_covariance(images: np.ndarray) -> np.ndarray:
    """Returns the covariance matrix of all patches, float64 [4 c, 4 c]."""
    size = PATCH**2 * images.shape[-1]
    total, products, count = np.zeros(size), np.zeros((size, size)), 0
    for start in range(0, len(images), CHUNK):
        chunk = np.asarray(images[start : start + CHUNK], np.float64)
        height, width = (side - PATCH + 1 for side in chunk.shape[1:3])
        shifted = [
            chunk[:, i : i + height, j : j + width] for i in range(PATCH) for j in range(PATCH)
        ]
        patches = np.concatenate(shifted, axis=-1).reshape(-1, size)
        total, products = total + patches.sum(0), products + patches.T @ patches
        count += len(patches)
    mean = total / count
    return np.asarray(products / count - np.outer(mean, mean))


def _white_noise_kernel(_: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns the whitening kernel of uncorrelated pixels: every pixel and its negative."""
    identity = jnp.eye(shape[-1] // 2)
    return jnp.concatenate([identity, -identity], axis=1).reshape(shape)


class Whitening(nn.Module):
    """A 2x2 convolution without padding; its kernel is `whitening_kernel` and is not trained.

    Computed in at least float32: the filters of weak patterns amplify rounding errors.
    """

    dtype: DTypeLike

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns [b, h - 1, w - 1, 8 c] for images [b, h, w, c]."""
        images = common.at_least_float32(images)
        channels = images.shape[-1]
        shape = (PATCH, PATCH, channels, 2 * PATCH**2 * channels)
        kernel = self.param("kernel", _white_noise_kernel, shape)
        bias = self.param("bias", nn.initializers.zeros, shape[-1:])
        # Without a gradient, the form of `cpu.convolution` has no advantage.
        features = jax.lax.conv_general_dilated(
            images,
            jax.lax.stop_gradient(kernel).astype(images.dtype),
            (1, 1),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return (features + bias.reshape(1, 1, 1, -1)).astype(self.dtype)


class ScaledHead(nn.Module):
    """Global max-pooling, a linear layer without bias, and a constant factor, in float32.

    Attributes:
        num_outputs: number of logits: m, or m+1 with abstention.
    """

    num_outputs: int

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """Returns logits [b, num_outputs], float32, for features [b, h, w, c]."""
        pooled = common.at_least_float32(jax.lax.optimization_barrier(features).max(axis=(1, 2)))
        dense = nn.Dense(self.num_outputs, use_bias=False, kernel_init=UNIFORM_FAN_IN)
        return dense(pooled) * LOGIT_SCALE


class FastCNN(nn.Module):
    """Three groups of 3x3 convolutions behind a whitening layer.

    A group is a convolution, 2x2 max-pooling, batch normalization and GELU, followed by further
    convolutions with batch normalization and GELU. The scales of the batch normalization are one.

    Attributes:
        num_outputs: number of logits: m, or m+1 with abstention.
        width: channels of the first group; the others have four times as many.
        depth: convolutions of each group.
        dtype: of the computation, float32 or bfloat16; parameters, batch statistics and logits
            are float32.
        normalize: use batch normalization after each convolution instead of a bias; False for
            the inference form, see `folding`.
    """

    num_outputs: int
    width: int
    depth: int = 2
    dtype: DTypeLike = jnp.float32
    normalize: bool = True

    def init_from_images(self, params: Mapping[str, Any], images: np.ndarray) -> dict[str, Any]:
        """Returns the parameters with the whitening kernel of training images.

        Args:
            params: of the network.
            images: [n, h, w, c], normalized.
        """
        kernel = jnp.asarray(whitening_kernel(images))
        return {**params, common.FIXED: {**params[common.FIXED], "kernel": kernel}}

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Returns logits [b, num_outputs], float32.

        Args:
            images: [b, h, w, c], float, h and w at least 8 pixels.
            train: as in `ResNet`.

        Raises:
            InputError: if the images have another rank or are smaller than 8x8.
            TypeError: if the images are not float.
        """
        common.check_images(images)
        x = common.gelu(Whitening(self.dtype, name=common.FIXED)(images))
        for multiple in GROUPS:
            for index in range(self.depth):
                x = Conv(
                    multiple * self.width,
                    (3, 3),
                    padding=1,
                    use_bias=not self.normalize,
                    kernel_init=dirac,
                    dtype=self.dtype,
                )(x)
                if index == 0:
                    x = common.max_pool(_with_even_size(x))
                if self.normalize:
                    x = batch_norm.create(
                        use_running_average=not train, use_scale=False, dtype=self.dtype
                    )(x)
                x = common.gelu(x)
        return ScaledHead(self.num_outputs, name="head")(x)


def _with_even_size(features: jax.Array) -> jax.Array:
    """Returns features without the last row or column of an odd size, unless it is the only one."""
    height, width = (size - size % 2 if size > 1 else size for size in features.shape[1:3])
    return features[:, :height, :width]
