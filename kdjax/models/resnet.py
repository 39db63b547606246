"""Residual networks for small pictures (He et al. 2015, arXiv 1512.03385)."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from kdjax.models import common
from kdjax.models.convolution import Conv

# One convolution of a block: output channels, kernel side, stride.
Layer = tuple[int, int, int]

# Fan-out keeps the size of the gradients; batch normalization takes care of the activations.
HE_FAN_OUT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def basic(width: int, stride: int) -> tuple[Layer, ...]:
    """Returns the two 3x3 convolutions of a basic block, width -> width (table 1, left)."""
    return (width, 3, stride), (width, 3, 1)


def bottleneck(width: int, stride: int) -> tuple[Layer, ...]:
    """Returns the 1x1, 3x3, 1x1 convolutions of a bottleneck block, width -> 4 width.

    The 3x3 carries the stride, as in public CIFAR code (github.com/kuangliu/pytorch-cifar); on
    the first 1x1, where the paper has it, it would drop three of four pixels unseen.
    """
    return (width, 1, 1), (width, 3, stride), (4 * width, 1, 1)


class ConvNorm(nn.Module):
    """A convolution without bias, then batch normalization; or a convolution with bias alone."""

    layer: Layer
    dtype: DTypeLike
    normalize: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns [b, ceil(h / stride), ceil(w / stride), features] for x [b, h, w, c]."""
        features, kernel, stride = self.layer
        x = Conv(
            features,
            (kernel, kernel),
            strides=stride,
            # "SAME" would pad one side only where stride 2 meets an even size: one pixel off.
            padding=kernel // 2,
            use_bias=not self.normalize,
            kernel_init=HE_FAN_OUT,
            dtype=self.dtype,
        )(x)
        if self.normalize:
            x = common.BatchNorm(use_running_average=not train, dtype=self.dtype)(x)
        return x


class Block(nn.Module):
    """A residual block: relu(F(x) + shortcut(x)), F the convolutions of `layers`.

    The shortcut is the identity or, where the shape changes, a 1x1 convolution and batch
    normalization (option B of the paper). Every scale starts at one: with the last one of a
    block at zero (arXiv 1706.02677) resnet8 learned more slowly in short trials.
    """

    layers: tuple[Layer, ...]
    dtype: DTypeLike
    normalize: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns [b, ceil(h / stride), ceil(w / stride), features] for x [b, h, w, c]."""
        conv_norm = functools.partial(ConvNorm, dtype=self.dtype, normalize=self.normalize)
        residual = x
        for layer in self.layers[:-1]:
            residual = common.relu(conv_norm(layer)(residual, train))
        residual = conv_norm(self.layers[-1])(residual, train)
        if x.shape != residual.shape:
            stride = max(stride for _, _, stride in self.layers)
            x = conv_norm((residual.shape[-1], 1, stride), name="shortcut")(x, train)
        return common.relu(residual + x)


class ResNet(nn.Module):
    """A residual network with the stem for small pictures: 3x3, stride 1, no pooling.

    Attributes:
        num_outputs: the number of logits, m or, with abstention, m+1.
        block: `(width, stride)` to the convolutions of one block.
        depths: blocks of each stage; stage i has width `width * 2**i` and, after the first,
            begins with stride 2.
        width: channels of the stem and of the first stage.
        dtype: of the computation, float32 or bfloat16; parameters, batch statistics and logits
            are float32.
        normalize: batch normalization after each convolution, in place of its bias; without it
            the network is in its inference form, see `folding`.
    """

    num_outputs: int
    block: Callable[[int, int], tuple[Layer, ...]]
    depths: tuple[int, ...]
    width: int
    dtype: DTypeLike = jnp.float32
    normalize: bool = True

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Returns logits [b, num_outputs], float32.

        Args:
            images: [b, h, w, c], float, h and w at least 8 pixels.
            train: normalize by this batch's statistics and, where `batch_stats` is mutable,
                move the running ones towards them; otherwise by the running ones.

        Raises:
            InputError: on images of another rank or smaller than 8x8.
            TypeError: on images that are not float.
        """
        common.check_images(images)
        forms = self.dtype, self.normalize
        x = common.relu(ConvNorm((self.width, 3, 1), *forms, name="stem")(images, train))
        for stage, depth in enumerate(self.depths):
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                layers = self.block(self.width * 2**stage, stride)
                x = Block(layers, *forms, name=f"stage{stage}_block{index}")(x, train)
        return common.Head(self.num_outputs, name="head")(x)
