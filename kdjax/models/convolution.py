"""Convolution in the forms that XLA:CPU runs fast: outside and inside loops, mapped or not.

What XLA:CPU makes slow (`experiments/convolutions.py`): a kernel larger than its image (XLA
exchanges the two), 1x1 (it transposes them), the gradient in a loop (jax#12868), the gradient's
transpositions (see `_apart`) and a map over kernels (a grouped convolution).
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from kdjax.models import winograd

# Before and after, of the height and of the width.
Padding = Sequence[tuple[int, int]]


def convolve(
    images: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Padding, **options: Any
) -> jax.Array:
    """Returns the convolution of images with a kernel.

    y[b, i, j, :] = sum_{u, v} x[b, s i + u, s' j + v, :] kernel[u, v], x being padded with zeros.

    Args:
        images: [b, h, w, c].
        kernel: [kh, kw, c, d], of the same dtype.
        strides: s and s'.
        padding: pixels to add.
        **options: of `jax.lax.conv_general_dilated`, as `flax.linen.Conv` gives them; they name
            the axes in the order above, without dilation or groups.

    Returns:
        [b, (h + padding - kh) // s + 1, (w + padding - kw) // s' + 1, d].
    """
    taps, pixels = math.prod(kernel.shape[:2]), math.prod(images.shape[1:3])
    if taps == 1:
        return _as_product(images, kernel, strides, padding)
    if jax.default_backend() == "cpu":
        if taps > pixels:
            return _by_pixel(images, kernel, strides, padding)
        if winograd.pays(images, kernel, strides, padding):
            return winograd.convolve(images, kernel)
        return _canonical(images.shape[1:3], strides, padding)(images, kernel)
    return lax.conv_general_dilated(images, kernel, strides, padding, **options)


def _as_product(
    images: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Padding
) -> jax.Array:
    padded = jnp.pad(images, ((0, 0), *padding, (0, 0)))
    pixels = padded[:, :: strides[0], :: strides[1]]
    # Of two axes: XLA:CPU transposes more for the gradients of a product with four.
    flat = pixels.reshape(-1, images.shape[-1]) @ kernel[0, 0]
    return flat.reshape(*pixels.shape[:-1], -1)


def _by_pixel(
    images: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Padding
) -> jax.Array:
    """Each pixel of the output is a product of what it sees; nothing is multiplied by zeros."""
    batch, *size, _ = images.shape
    rows, columns = map(_seen, size, kernel.shape, strides, padding)

    def pixel(row: tuple[slice, slice], column: tuple[slice, slice]) -> jax.Array:
        seen, met = images[:, row[0], column[0]], kernel[row[1], column[1]]
        return seen.reshape(batch, -1) @ met.reshape(-1, kernel.shape[-1])

    pixels = [pixel(row, column) for row in rows for column in columns]
    return jnp.stack(pixels, 1).reshape(batch, len(rows), len(columns), -1)


def _seen(size: int, side: int, stride: int, padding: tuple[int, int]) -> list[tuple[slice, slice]]:
    """Returns for each place of a kernel along an axis the pixels that it meets, and its taps."""
    found = []
    for start in range(-padding[0], size + padding[1] - side + 1, stride):
        first, last = (min(max(end, 0), size) for end in (start, start + side))
        found.append((slice(first, last), slice(first - start, last - start)))
    return found


def _apart(
    function: Callable[[jax.Array], jax.Array], array: jax.Array, number: jax.Array
) -> jax.Array:
    """Returns function(array), computed from the array as it lies in memory.

    XLA:CPU fuses what makes an array into all that reads it, so into transpositions too, where it
    is made again out of order, slowly. What a branch takes is there before; a barrier would be
    gone by the time it fuses.

    Args:
        number: any, of which the compiler does not know whether it is one.
    """
    return lax.cond(jnp.isnan(number), function, function, array)


def _one_by_one(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Returns the function; where all its arrays are mapped over, it runs once for each."""
    mappable = custom_vmap(function)

    @mappable.def_vmap
    def rule(_: int, mapped: Sequence[bool], *arrays: jax.Array) -> tuple[jax.Array, bool]:
        if all(mapped):
            return jnp.stack([mappable(*each) for each in zip(*arrays, strict=True)]), True
        return jax.vmap(function, [0 if one else None for one in mapped])(*arrays), True

    return mappable


def _canonical(
    size: Sequence[int], strides: Sequence[int], padding: Padding
) -> Callable[..., jax.Array]:
    """Returns the convolution; its gradients are ones too, with the axes in the same order."""
    conv = functools.partial(lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def pads(sides: Sequence[int], slope: jax.Array) -> list[tuple[int, int]]:
        """Of the slope, spread by the strides, so that its full convolution fits the image."""
        reaches = [
            (n - 1) * stride + 1 for n, stride in zip(slope.shape[1:3], strides, strict=True)
        ]
        return [
            (side - 1 - low, n + low - reach)
            for side, n, reach, (low, _) in zip(sides, size, reaches, padding, strict=False)
        ]

    @_one_by_one
    def forward(images: jax.Array, kernel: jax.Array) -> jax.Array:
        return conv(images, kernel, strides, padding)

    @_one_by_one
    def of_images(kernel: jax.Array, slope: jax.Array) -> jax.Array:
        flipped = kernel[::-1, ::-1].swapaxes(2, 3)
        return conv(slope, flipped, (1, 1), pads(kernel.shape, slope), lhs_dilation=strides)

    @_one_by_one
    def of_kernel(kernel: jax.Array, images: jax.Array, slope: jax.Array) -> jax.Array:
        sides = kernel.shape[:2]
        # The complement of what the gradient by the images pads.
        around = [
            (side - 1 - before, side - 1 - after)
            for side, (before, after) in zip(sides, pads(sides, slope), strict=False)
        ]
        turned = _apart(lambda array: array.T.swapaxes(1, 2), images, kernel[0, 0, 0, 0])
        across = conv(turned, jnp.moveaxis(slope, 0, 2), (1, 1), around, rhs_dilation=strides)
        return jnp.moveaxis(across, 0, 2)

    def pulled(saved: tuple[jax.Array, jax.Array], slope: jax.Array) -> tuple[jax.Array, jax.Array]:
        images, kernel = saved
        return of_images(kernel, slope), of_kernel(kernel, images, slope)

    convolution = jax.custom_vjp(forward)
    convolution.defvjp(lambda *arrays: (forward(*arrays), arrays), pulled)
    return convolution


# Parameters and their names are those of flax.linen.Conv.
Conv = functools.partial(nn.Conv, conv_general_dilated=convolve)
