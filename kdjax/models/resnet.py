"""Residual networks for small images (He et al. 2015, arXiv 1512.03385)."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from kdjax.models import common
from kdjax.models.cpu import batch_norm
from kdjax.models.cpu.convolution import Conv

# One convolution of a block: output channels, kernel size, stride.
Layer = tuple[int, int, int]

# Fan-out preserves the scale of the gradients; batch normalization scales the activations.
HE_FAN_OUT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def basic(width: int, stride: int) -> tuple[Layer, ...]:
    """Returns the two 3x3 convolutions of a basic block, width -> width (table 1, left)."""
    return (width, 3, stride), (width, 3, 1)


def bottleneck(width: int, stride: int) -> tuple[Layer, ...]:
    """Returns the 1x1, 3x3, 1x1 convolutions of a bottleneck block, width -> 4 width.

    The 3x3 convolution has the stride, as in public CIFAR code (github.com/kuangliu/pytorch-cifar).
    The paper has it in the first 1x1 convolution, which then ignores three of four pixels.
    """
    return (width, 1, 1), (width, 3, stride), (4 * width, 1, 1)


class ConvNorm(nn.Module):
    """A convolution without bias and batch normalization, or a convolution with bias only."""

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
            # With stride 2 and an even size, "SAME" would pad on one side only.
            padding=kernel // 2,
            use_bias=not self.normalize,
            kernel_init=HE_FAN_OUT,
            dtype=self.dtype,
        )(x)
        if self.normalize:
            x = batch_norm.create(use_running_average=not train, dtype=self.dtype)(x)
        return x


class Block(nn.Module):
    """A residual block: relu(F(x) + shortcut(x)), F the convolutions of `layers`.

    The shortcut is the identity or, if the shape changes, a 1x1 convolution with batch
    normalization (option B of the paper). All batch-norm scales are initialized to one: with the
    last scale of a block at zero (arXiv 1706.02677) resnet8 learned more slowly in short trials.
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
    """A residual network.

    The stem for small images is a 3x3 convolution; that for large images, as in the paper, is a
    7x7 convolution with stride 2 and max-pooling with stride 2.

    Attributes:
        num_outputs: number of logits: m, or m+1 with abstention.
        block: `(width, stride) -> convolutions of one block`.
        depths: blocks of each stage; stage i has width `width * 2**i` and, after the first,
            begins with stride 2.
        width: channels of the stem and of the first stage.
        dtype: of the computation, float32 or bfloat16; parameters, batch statistics and logits
            are float32.
        normalize: use batch normalization after each convolution instead of a bias; False for
            the inference form, see `folding`.
        stem: "small", "large", or "auto": large from 64x64 pixels on.
    """

    num_outputs: int
    block: Callable[[int, int], tuple[Layer, ...]]
    depths: tuple[int, ...]
    width: int
    dtype: DTypeLike = jnp.float32
    normalize: bool = True
    stem: str = "auto"

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Returns logits [b, num_outputs], float32.

        Args:
            images: [b, h, w, c], float, h and w at least 8 pixels.
            train: normalize with the statistics of this batch and, if `batch_stats` is mutable,
                update the running statistics; otherwise normalize with the running statistics.

        Raises:
            InputError: if the images have another rank or are smaller than 8x8.
            TypeError: if the images are not float.
        """
        common.check_images(images)
        options = self.dtype, self.normalize
        large = common.is_large_stem(self.stem, images)
        layer = (self.width, 7, 2) if large else (self.width, 3, 1)
        x = common.relu(ConvNorm(layer, *options, name="stem")(images, train))
        if large:
            x = common.overlapping_max_pool(x)
        for stage, depth in enumerate(self.depths):
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                layers = self.block(self.width * 2**stage, stride)
                x = Block(layers, *options, name=f"stage{stage}_block{index}")(x, train)
        return common.Head(self.num_outputs, name="head")(x)
