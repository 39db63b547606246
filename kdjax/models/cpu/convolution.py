"""Convolution in forms that are fast on XLA:CPU, also within loops and under vmap.

XLA:CPU is slow (`experiments/convolutions.py`) for kernels larger than the image (it exchanges the
two), for 1x1 kernels (it transposes), for gradients within a loop (jax#12868), for the transposed
arrays of gradients (see `_materialize` and `CHUNK_IMAGES`) and for a vmap over kernels (a grouped
convolution).
"""

import contextlib
import contextvars
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from kdjax.models.cpu import winograd

# Pixels before and after, for the height and for the width.
Padding = Sequence[tuple[int, int]]

# The gradient of a kernel is the sum of those of chunks of so many images, as many as divide the
# batch: their transposed arrays stay in the processor's cache. Small images need no chunks.
CHUNK_IMAGES, MIN_CHUNK_PIXELS = range(16, 3, -1), 128

_nominal = contextvars.ContextVar("_nominal", default=False)


@contextlib.contextmanager
def nominal() -> Iterator[None]:
    """A context in which a convolution is traced as one operation of XLA, to be counted."""
    token = _nominal.set(True)
    try:
        yield
    finally:
        _nominal.reset(token)


def convolve(
    images: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Padding, **options: Any
) -> jax.Array:
    """Returns the convolution of images with a kernel.

    y[b, i, j, :] = sum_{u, v} x[b, s i + u, s' j + v, :] kernel[u, v], where x is padded with
    zeros.

    Args:
        images: [b, h, w, c].
        kernel: [kh, kw, c, d], of the same dtype.
        strides: s and s'.
        padding: pixels to add.
        **options: of `jax.lax.conv_general_dilated`, as `flax.linen.Conv` passes them; axes in
            the order above, no dilation, no groups.

    Returns:
        [b, (h + padding - kh) // s + 1, (w + padding - kw) // s' + 1, d].
    """
    if _nominal.get():
        return lax.conv_general_dilated(images, kernel, strides, padding, **options)
    taps, pixels = math.prod(kernel.shape[:2]), math.prod(images.shape[1:3])
    if taps == 1:
        return _matrix_product(images, kernel, strides, padding)
    if jax.default_backend() == "cpu":
        if taps > pixels:
            return _product_per_pixel(images, kernel, strides, padding)
        if winograd.is_faster(images, kernel, strides, padding):
            return winograd.convolve(images, kernel)
        return _direct(images.shape[1:3], strides, padding)(images, kernel)
    return lax.conv_general_dilated(images, kernel, strides, padding, **options)


def _matrix_product(
    images: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Padding
) -> jax.Array:
    padded = jnp.pad(images, ((0, 0), *padding, (0, 0)))
    pixels = padded[:, :: strides[0], :: strides[1]]
    # With two axes, because XLA:CPU transposes more in the gradients of a product with four.
    flat = pixels.reshape(-1, images.shape[-1]) @ kernel[0, 0]
    return flat.reshape(*pixels.shape[:-1], -1)


def _product_per_pixel(
    images: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Padding
) -> jax.Array:
    """One matrix product per output pixel, over its input pixels without the padding."""
    batch, *size, _ = images.shape
    rows, columns = map(_input_slices, size, kernel.shape, strides, padding)

    def pixel(row: tuple[slice, slice], column: tuple[slice, slice]) -> jax.Array:
        inputs, weights = images[:, row[0], column[0]], kernel[row[1], column[1]]
        return inputs.reshape(batch, -1) @ weights.reshape(-1, kernel.shape[-1])

    pixels = [pixel(row, column) for row in rows for column in columns]
    return jnp.stack(pixels, 1).reshape(batch, len(rows), len(columns), -1)


def _input_slices(
    size: int, side: int, stride: int, padding: tuple[int, int]
) -> list[tuple[slice, slice]]:
    """Returns the input pixels and the kernel's taps for each output position along an axis."""
    slices = []
    for start in range(-padding[0], size + padding[1] - side + 1, stride):
        first, last = (min(max(end, 0), size) for end in (start, start + side))
        slices.append((slice(first, last), slice(first - start, last - start)))
    return slices


def _materialize(
    function: Callable[[jax.Array], jax.Array], array: jax.Array, number: jax.Array
) -> jax.Array:
    """Returns function(array); XLA computes the array before, instead of fusing it in.

    XLA:CPU would fuse the computation of an array into its transposition and compute it again, in
    an order that is slow in memory. Arguments of a conditional are materialized; an optimization
    barrier does not help, because XLA removes it before it fuses.

    Args:
        function: applied to the array.
        array: its argument.
        number: any scalar that is not known at compile time; both branches are the same.
    """
    return lax.cond(jnp.isnan(number), function, function, array)


def _sequential_vmap(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Returns the function; a vmap over all its arguments becomes one call per element."""
    mappable = custom_vmap(function)

    @mappable.def_vmap
    def rule(_: int, mapped: Sequence[bool], *arrays: jax.Array) -> tuple[jax.Array, bool]:
        if all(mapped):
            return jnp.stack([mappable(*elements) for elements in zip(*arrays, strict=True)]), True
        in_axes = [0 if is_mapped else None for is_mapped in mapped]
        return jax.vmap(function, in_axes)(*arrays), True

    return mappable


def _images_last(images: jax.Array) -> jax.Array:
    """Transposes [b, h, w, c] to [c, h, w, b]."""
    return images.T.swapaxes(1, 2)


def _chunk_count(images: int, pixels: int) -> int:
    """Returns the number of chunks for the gradient of a kernel; 1: all images at once."""
    # On several devices, each already has a part of the images.
    if pixels < MIN_CHUNK_PIXELS or jax.device_count() > 1:
        return 1
    return next((images // size for size in CHUNK_IMAGES if images % size == 0), 1)


def _sum_over_chunks(
    function: Callable[..., jax.Array], count: int, arrays: Sequence[jax.Array], like: jax.Array
) -> jax.Array:
    """Returns the sum of function(*chunk) over chunks of the arrays, added in at least float32.

    Args:
        function: `(*chunk) -> array`, with the shape and the dtype of `like`.
        count: number of chunks, which divides the length of the arrays.
        arrays: of the same length.
        like: any array of the result's shape and dtype.
    """

    def add(total: jax.Array, chunk: Sequence[jax.Array]) -> tuple[jax.Array, None]:
        return total + function(*chunk), None

    chunks = [array.reshape(count, -1, *array.shape[1:]) for array in arrays]
    zeros = jnp.zeros_like(like, jnp.promote_types(like.dtype, jnp.float32))
    return lax.scan(add, zeros, chunks)[0].astype(like.dtype)


def _direct(
    size: Sequence[int], strides: Sequence[int], padding: Padding
) -> Callable[..., jax.Array]:
    """Returns the convolution; its gradients are convolutions with the same order of axes."""
    conv = functools.partial(lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def gradient_padding(sides: Sequence[int], gradient: jax.Array) -> list[tuple[int, int]]:
        """Padding of the output's gradient, dilated by the strides, for the input's gradient."""
        extents = [
            (n - 1) * stride + 1 for n, stride in zip(gradient.shape[1:3], strides, strict=True)
        ]
        return [
            (side - 1 - low, n + low - extent)
            for side, n, extent, (low, _) in zip(sides, size, extents, padding, strict=False)
        ]

    @_sequential_vmap
    def forward(images: jax.Array, kernel: jax.Array) -> jax.Array:
        return conv(images, kernel, strides, padding)

    @_sequential_vmap
    def images_gradient(kernel: jax.Array, gradient: jax.Array) -> jax.Array:
        flipped = kernel[::-1, ::-1].swapaxes(2, 3)
        pads = gradient_padding(kernel.shape, gradient)
        return conv(gradient, flipped, (1, 1), pads, lhs_dilation=strides)

    @_sequential_vmap
    def kernel_gradient(kernel: jax.Array, images: jax.Array, gradient: jax.Array) -> jax.Array:
        sides = kernel.shape[:2]
        # The complement of the padding for the gradient of the images.
        pads = [
            (side - 1 - before, side - 1 - after)
            for side, (before, after) in zip(sides, gradient_padding(sides, gradient), strict=False)
        ]

        def product(transposed: jax.Array, gradient: jax.Array) -> jax.Array:
            gradient = jnp.moveaxis(gradient, 0, 2)
            result = conv(transposed, gradient, (1, 1), pads, rhs_dilation=strides)
            return jnp.moveaxis(result, 0, 2)

        count = _chunk_count(len(images), math.prod(size))
        if count == 1:
            return product(_materialize(_images_last, images, kernel[0, 0, 0, 0]), gradient)
        return _sum_over_chunks(
            lambda images, gradient: product(_images_last(images), gradient),
            count,
            (images, gradient),
            kernel,
        )

    def backward(
        saved: tuple[jax.Array, jax.Array], gradient: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        images, kernel = saved
        return images_gradient(kernel, gradient), kernel_gradient(kernel, images, gradient)

    convolution = jax.custom_vjp(forward)
    convolution.defvjp(lambda *arrays: (forward(*arrays), arrays), backward)
    return convolution


# With the parameters, and their names, of flax.linen.Conv.
Conv = functools.partial(nn.Conv, conv_general_dilated=convolve)
