"""AlexNet for small images: five convolutions, three pooling layers and one linear layer.

Krizhevsky et al. 2012 in the one-tower form of arXiv 1404.5997. At 32x32 it equals Wei Yang's
variant (github.com/bearpaw/pytorch-classification, CIFAR-10 error 22.78 %), which has one linear
layer instead of three, no dropout and no local response normalization.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from kdjax.models import common
from kdjax.models.cpu import batch_norm
from kdjax.models.cpu.convolution import Conv

# One convolution: output channels as a multiple of the width, kernel size, stride, and whether
# max-pooling follows.
Layer = tuple[int, int, int, bool]

LAYERS: tuple[Layer, ...] = (
    (1, 11, 4, True),
    (3, 5, 1, True),
    (6, 3, 1, False),
    (4, 3, 1, False),
    (4, 3, 1, True),
)
# Stride 1 keeps the details of small images; fewer channels compensate for its cost.
SMALL_LAYERS: tuple[Layer, ...] = (
    (1, 3, 1, True),
    (2, 3, 1, True),
    (3, 3, 1, False),
    (2, 3, 1, False),
    (2, 3, 1, True),
)

# The first layer for large images: with stride 4, as that of `LAYERS`.
SMALL_LARGE_STEM: Layer = (1, 7, 4, True)

# Fan-in preserves the scale of the activations, which matters without normalization.
HE_FAN_IN = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class AlexNet(nn.Module):
    """A sequence of convolutions with ReLU and 2x2 max-pooling.

    Attributes:
        num_outputs: number of logits: m, or m+1 with abstention.
        layers: the convolutions.
        width: channels of the first convolution.
        normalize: use batch normalization after each convolution instead of a bias. The published
            network has none; without it the small one did not learn digits at a learning rate of
            0.1.
        dtype: of the computation, float32 or bfloat16; parameters, batch statistics and logits
            are float32.
        stem: "small", "large", or "auto": large from 64x64 pixels on. No effect without
            `large_stem`.
        large_stem: the first layer for large images; None: the same as for small images.
    """

    num_outputs: int
    layers: tuple[Layer, ...]
    width: int
    normalize: bool
    dtype: DTypeLike = jnp.float32
    stem: str = "auto"
    large_stem: Layer | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Returns logits [b, num_outputs], float32.

        Args:
            images: [b, h, w, c], float, h and w at least 8 pixels.
            train: as in `ResNet`; no effect without batch normalization.

        Raises:
            InputError: if the images have another rank or are smaller than 8x8.
            TypeError: if the images are not float.
        """
        common.check_images(images)
        x, layers = images, self.layers
        if self.large_stem and common.is_large_stem(self.stem, images):
            layers = (self.large_stem, *layers[1:])
        for multiple, kernel, stride, pool in layers:
            x = Conv(
                multiple * self.width,
                (kernel, kernel),
                strides=stride,
                padding=kernel // 2,
                use_bias=not self.normalize,
                kernel_init=HE_FAN_IN,
                dtype=self.dtype,
            )(x)
            if self.normalize:
                x = batch_norm.create(use_running_average=not train, dtype=self.dtype)(x)
            x = common.relu(x)
            if pool:
                x = common.max_pool(x)
        return common.Head(self.num_outputs, name="head")(x)
