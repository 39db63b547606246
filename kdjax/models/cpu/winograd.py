"""Winograd's 3x3 convolution, F(4x4, 3x3) of arXiv 1509.09308: a quarter of the products."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.export import is_symbolic_dim

Matrix = Sequence[Sequence[float]]

TILE = 4
# Interpolation points, besides infinity. The rounding error with the paper's 0, 1, -1, 2 and -2
# is more than twice as large.
POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)


def matrices(points: Sequence[float]) -> tuple[Matrix, Matrix, Matrix]:
    """Returns B' [6, 6], G [6, 3] and A' [4, 6]: a tile is A' ((G k G') * (B' x B)) A.

    k is the 3x3 kernel, and x the 6x6 inputs of a tile of 4x4 outputs.

    Args:
        points: five distinct interpolation points.
    """
    others = [np.delete(points, index) for index in range(len(points))]
    inputs = [[*np.poly(roots)[::-1], 0.0] for roots in others] + [np.poly(points)[::-1]]
    scales = [np.prod(point - roots) for point, roots in zip(points, others, strict=True)]
    kernel = np.vander(points, 3, increasing=True) / np.array(scales)[:, None]
    outputs = np.vander(points, TILE, increasing=True).T
    return (
        np.array(inputs).tolist(),
        [*kernel.tolist(), [0.0, 0.0, 1.0]],
        np.column_stack([outputs, np.eye(TILE)[-1]]).tolist(),
    )


INPUTS, KERNEL, OUTPUTS = matrices(POINTS)
# With fewer channels, the transformation of the tiles takes longer than the products that it
# saves; with fewer tiles, the transformation of the kernel does.
MIN_CHANNELS, MIN_TILES = 64, 64
# The tiles may cover so many times the pixels of the image: the rest of the last ones is dropped.
MAX_COVER = 1.5
# Tiles times channels that are processed at once.
CHUNK_SIZE = 2**16


def is_faster(
    images: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
) -> bool:
    """Returns whether `convolve` supports this convolution and is faster than the direct form."""
    (batch, height, width, channels), (*sides, _, features) = images.shape, kernel.shape
    if is_symbolic_dim(batch):  # an exported function may be called with one image
        return False
    possible = (
        list(sides) == [3, 3]
        and list(strides) == [1, 1]
        and [tuple(side) for side in padding] == [(1, 1), (1, 1)]
        and TILE**2 * _tiles(height) * _tiles(width) <= MAX_COVER * height * width
        # The transformations would lose too many digits in bfloat16.
        and images.dtype == kernel.dtype == jnp.float32
    )
    tiles = batch * _tiles(height) * _tiles(width)
    return possible and min(channels, features) >= MIN_CHANNELS and tiles >= MIN_TILES


@jax.custom_vjp
def convolve(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns the convolution with a 3x3 kernel and a padding of one pixel.

    The rounding error is at most 4e-6 of the largest value in float32.

    Args:
        images: [b, h, w, c].
        kernel: [3, 3, c, d].

    Returns:
        [b, h, w, d].

    Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv 1509.09308.
    """
    return _forward(images, kernel)[0]


def _forward(images: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    transformed = _transform_kernel(kernel)

    def convolve_chunk(chunk: jax.Array) -> jax.Array:
        products = _products(_transform_images(chunk), transformed, 2, 1)
        return _assemble_images(products, chunk.shape)

    out = lax.map(convolve_chunk, _chunks(images))
    return out.reshape(*images.shape[:3], -1), (images, kernel)


def _backward(
    saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    images, kernel = saved
    flipped = _transform_kernel(kernel[::-1, ::-1])

    def chunk_gradients(
        total: jax.Array, chunk: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        inputs, gradient = chunk
        kernel_part = _products(_transform_images(inputs), _transform_gradient(gradient), 1, 1)
        images_part = _products(_transform_images(gradient), flipped, 2, 2)
        return total + kernel_part, _assemble_images(images_part, gradient.shape)

    chunks = _chunks(images)
    kernel_gradient, images_gradient = lax.scan(
        chunk_gradients,
        jnp.zeros_like(flipped),
        (chunks, gradient.reshape(*chunks.shape[:-1], -1)),
    )
    return images_gradient.reshape(images.shape), _assemble_kernel(kernel_gradient)


convolve.defvjp(_forward, _backward)


def _combine(matrix: Matrix, arrays: Sequence[jax.Array], axis: int) -> jax.Array:
    """Returns the linear combination of the arrays for each row of the matrix, stacked."""
    return jnp.stack([_weighted_sum(row, arrays) for row in matrix], axis)


def _weighted_sum(weights: Sequence[float], arrays: Sequence[jax.Array]) -> jax.Array:
    terms = [w * array if w != 1 else array for w, array in zip(weights, arrays, strict=True) if w]
    return sum(terms[1:], start=terms[0])


def _transposed(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))


def _products(left: jax.Array, right: jax.Array, left_axis: int, right_axis: int) -> jax.Array:
    """Returns the 36 matrix products, contracted over one axis of each array."""
    return lax.dot_general(left, right, (((left_axis,), (right_axis,)), ((0,), (0,))))


def _tiles(size: int) -> int:
    """Returns the number of tiles along an axis; the last one may exceed the image."""
    return -(-size // TILE)


def _pad_to_tiles(images: jax.Array, border: int = 0) -> jax.Array:
    """Adds zeros around the images, and after them up to whole tiles."""
    ends = [border + TILE * _tiles(size) - size for size in images.shape[1:3]]
    return jnp.pad(images, ((0, 0), *((border, end) for end in ends), (0, 0)))


def _chunks(images: jax.Array) -> jax.Array:
    """Returns the images in chunks that fit into the processor's cache: [n, b / n, h, w, c]."""
    batch, height, width, channels = images.shape
    tiles, min_tiles = _tiles(height) * _tiles(width), max(MIN_TILES, CHUNK_SIZE // channels)
    sizes = [size for size in range(1, batch) if batch % size == 0 and size * tiles >= min_tiles]
    # On several devices, each already has a part of the images.
    size = sizes[0] if sizes and jax.device_count() == 1 else batch
    return images.reshape(-1, size, height, width, channels)


def _transform_images(images: jax.Array) -> jax.Array:
    """B' x B of every tile: [b, h, w, c] -> [36, tiles, c]."""
    padded = _pad_to_tiles(images, border=1)
    _, height, width, channels = padded.shape
    rows = _combine(INPUTS, [padded[:, u : u + height - 5 : TILE] for u in range(6)], 0)
    tiles = _combine(INPUTS, [rows[:, :, :, v : v + width - 5 : TILE] for v in range(6)], 1)
    return tiles.reshape(36, -1, channels)


def _transform_kernel(kernel: jax.Array) -> jax.Array:
    """G k G': [3, 3, c, d] -> [36, c, d]."""
    rows = _combine(KERNEL, [kernel[u] for u in range(3)], 0)
    return _combine(KERNEL, [rows[:, v] for v in range(3)], 1).reshape(36, *kernel.shape[2:])


def _assemble_images(products: jax.Array, shape: Sequence[int]) -> jax.Array:
    """A' m A of every tile, assembled: [36, tiles, d] -> [b, h, w, d]."""
    batch, height, width, _ = shape
    tiles = _tiles(height), _tiles(width)
    grid = products.reshape(6, 6, batch, *tiles, -1)
    rows = _combine(OUTPUTS, [grid[u] for u in range(6)], 3)
    images = _combine(OUTPUTS, [rows[v] for v in range(6)], 4)
    return images.reshape(batch, *(TILE * n for n in tiles), -1)[:, :height, :width]


def _transform_gradient(gradient: jax.Array) -> jax.Array:
    """A g A' of every tile, g the gradient of the output: [b, h, w, d] -> [36, tiles, d]."""
    matrix, padded = _transposed(OUTPUTS), _pad_to_tiles(gradient)
    rows = _combine(matrix, [padded[:, u::TILE] for u in range(TILE)], 0)
    tiles = _combine(matrix, [rows[:, :, :, v::TILE] for v in range(TILE)], 1)
    return tiles.reshape(36, -1, gradient.shape[-1])


def _assemble_kernel(gradient: jax.Array) -> jax.Array:
    """G' u G, u the gradient of the transformed kernel: [36, c, d] -> [3, 3, c, d]."""
    matrix, grid = _transposed(KERNEL), gradient.reshape(6, 6, *gradient.shape[1:])
    rows = _combine(matrix, [grid[u] for u in range(6)], 0)
    return _combine(matrix, [rows[:, v] for v in range(6)], 1)
