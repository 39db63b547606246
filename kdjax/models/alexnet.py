"""AlexNet for small pictures: five convolutions, three poolings and one linear layer.

Krizhevsky et al. 2012 in the one-tower form of arXiv 1404.5997. At 32x32 it is Wei Yang's variant
(github.com/bearpaw/pytorch-classification, CIFAR-10 error 22.78 %), which has one linear layer in
place of three, no dropout and no local response normalization.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from kdjax.models import common
from kdjax.models.convolution import Conv

# One convolution: output channels in units of the width, kernel side, stride, pooled after.
Layer = tuple[int, int, int, bool]

LAYERS: tuple[Layer, ...] = (
    (1, 11, 4, True),
    (3, 5, 1, True),
    (6, 3, 1, False),
    (4, 3, 1, False),
    (4, 3, 1, True),
)
# Stride 1 keeps the detail of small pictures; fewer channels pay for it.
SMALL_LAYERS: tuple[Layer, ...] = (
    (1, 3, 1, True),
    (2, 3, 1, True),
    (3, 3, 1, False),
    (2, 3, 1, False),
    (2, 3, 1, True),
)

# Fan-in keeps the size of the activations, which nothing else does without normalization.
HE_FAN_IN = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class AlexNet(nn.Module):
    """A plain chain of convolutions, ReLU and 2x2 max-pooling.

    Attributes:
        num_outputs: the number of logits, m or, with abstention, m+1.
        layers: its convolutions.
        width: channels of the first convolution.
        normalize: batch normalization after each convolution, in place of its bias. The published
            network has none; without it the small one stalled on digits at a learning rate of 0.1.
        dtype: of the computation, float32 or bfloat16; parameters, batch statistics and logits
            are float32.
    """

    num_outputs: int
    layers: tuple[Layer, ...]
    width: int
    normalize: bool
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Returns logits [b, num_outputs], float32.

        Args:
            images: [b, h, w, c], float, h and w at least 8 pixels.
            train: as in `ResNet`; without effect where there is no batch normalization.

        Raises:
            InputError: on images of another rank or smaller than 8x8.
            TypeError: on images that are not float.
        """
        common.check_images(images)
        x = images
        for multiple, kernel, stride, pooled in self.layers:
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
                x = common.BatchNorm(use_running_average=not train, dtype=self.dtype)(x)
            x = common.relu(x)
            if pooled:
                x = common.max_pool(x)
        return common.Head(self.num_outputs, name="head")(x)
