"""3x3 convolution with a quarter of the multiplications: F(4x4, 3x3) of arXiv 1509.09308."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.export import is_symbolic_dim

Matrix = Sequence[Sequence[float]]

TILE = 4
# Polynomials are multiplied by their values here and at infinity. The paper's 0, 1, -1, 2 and -2
# lose more than twice as much to rounding.
POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)


def matrices(points: Sequence[float]) -> tuple[Matrix, Matrix, Matrix]:
    """Returns B' [6, 6], G [6, 3] and A' [4, 6]: a tile is A' ((G k G') * (B' x B)) A.

    Args:
        points: five different ones, x being the 6x6 inputs around a tile of 4x4 outputs.
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
# With fewer channels moving the tiles takes longer than the products that it saves; with fewer
# tiles, the kernel's transformation does.
LEAST_CHANNELS, LEAST_TILES = 64, 64
# Tiles times channels that are worked on at once.
PART = 2**16


def pays(
    images: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
) -> bool:
    """Returns whether `convolve` can do this convolution and is faster than a direct one."""
    (batch, height, width, channels), (*sides, _, features) = images.shape, kernel.shape
    if is_symbolic_dim(batch):  # of an exported function: it may be called with one
        return False
    possible = (
        list(sides) == [3, 3]
        and list(strides) == [1, 1]
        and [tuple(side) for side in padding] == [(1, 1), (1, 1)]
        and height % TILE == width % TILE == 0
        # The transformations' sums would lose what bfloat16 has of digits.
        and images.dtype == kernel.dtype == jnp.float32
    )
    tiles = batch * height * width // TILE**2
    return possible and min(channels, features) >= LEAST_CHANNELS and tiles >= LEAST_TILES


@jax.custom_vjp
def convolve(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns the convolution with a 3x3 kernel, one pixel of zeros being put around the images.

    The same as a direct one but for rounding: 4e-6 of the largest value in float32.

    Args:
        images: [b, h, w, c], h and w divisible by 4.
        kernel: [3, 3, c, d].

    Returns:
        [b, h, w, d].

    Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv 1509.09308.
    """
    return _forward(images, kernel)[0]


def _forward(images: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    transformed = _kernels(kernel)

    def of_part(part: jax.Array) -> jax.Array:
        return _images(_products(_tiles(part), transformed, 2, 1), part.shape)

    out = lax.map(of_part, _parts(images))
    return out.reshape(*images.shape[:3], -1), (images, kernel)


def _backward(saved: tuple[jax.Array, jax.Array], slope: jax.Array) -> tuple[jax.Array, jax.Array]:
    images, kernel = saved
    flipped = _kernels(kernel[::-1, ::-1])

    def of_part(total: jax.Array, part: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        seen, slope = part
        by_kernel = _products(_tiles(seen), _spread(slope), 1, 1)
        across = _products(_tiles(slope), flipped, 2, 2)
        return total + by_kernel, _images(across, slope.shape)

    parts = _parts(images)
    by_kernel, across = lax.scan(
        of_part, jnp.zeros_like(flipped), (parts, slope.reshape(*parts.shape[:-1], -1))
    )
    return across.reshape(images.shape), _kernel(by_kernel)


convolve.defvjp(_forward, _backward)


def _mixed(matrix: Matrix, parts: Sequence[jax.Array], axis: int) -> jax.Array:
    """Returns, stacked along a new axis, the sum of the parts by each row of the matrix."""
    return jnp.stack([_sum(row, parts) for row in matrix], axis)


def _sum(weights: Sequence[float], parts: Sequence[jax.Array]) -> jax.Array:
    terms = [w * part if w != 1 else part for w, part in zip(weights, parts, strict=True) if w]
    return sum(terms[1:], start=terms[0])


def _transposed(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))


def _products(one: jax.Array, other: jax.Array, axis: int, other_axis: int) -> jax.Array:
    """Returns the 36 matrix products, over an axis of each."""
    return lax.dot_general(one, other, (((axis,), (other_axis,)), ((0,), (0,))))


def _parts(images: jax.Array) -> jax.Array:
    """Returns the images in parts whose tiles stay in the cache: [n, b / n, h, w, c]."""
    batch, height, width, channels = images.shape
    tiles, enough = height * width // TILE**2, max(LEAST_TILES, PART // channels)
    sizes = [size for size in range(1, batch) if batch % size == 0 and size * tiles >= enough]
    # Among several devices the images are parted already.
    size = sizes[0] if sizes and jax.device_count() == 1 else batch
    return images.reshape(-1, size, height, width, channels)


def _tiles(images: jax.Array) -> jax.Array:
    """B' x B of every tile: [b, h, w, c] -> [36, tiles, c]."""
    _, height, width, channels = images.shape
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = _mixed(INPUTS, [padded[:, u : u + height - 3 : TILE] for u in range(6)], 0)
    tiles = _mixed(INPUTS, [rows[:, :, :, v : v + width - 3 : TILE] for v in range(6)], 1)
    return tiles.reshape(36, -1, channels)


def _kernels(kernel: jax.Array) -> jax.Array:
    """G k G': [3, 3, c, d] -> [36, c, d]."""
    rows = _mixed(KERNEL, [kernel[u] for u in range(3)], 0)
    return _mixed(KERNEL, [rows[:, v] for v in range(3)], 1).reshape(36, *kernel.shape[2:])


def _images(products: jax.Array, shape: Sequence[int]) -> jax.Array:
    """A' m A of every tile, put together: [36, tiles, d] -> [b, h, w, d]."""
    batch, height, width, _ = shape
    grid = products.reshape(6, 6, batch, height // TILE, width // TILE, -1)
    rows = _mixed(OUTPUTS, [grid[u] for u in range(6)], 3)
    return _mixed(OUTPUTS, [rows[v] for v in range(6)], 4).reshape(batch, height, width, -1)


def _spread(slope: jax.Array) -> jax.Array:
    """A g A' of every tile, g the slope of the loss: [b, h, w, d] -> [36, tiles, d]."""
    matrix = _transposed(OUTPUTS)
    rows = _mixed(matrix, [slope[:, u::TILE] for u in range(TILE)], 0)
    tiles = _mixed(matrix, [rows[:, :, :, v::TILE] for v in range(TILE)], 1)
    return tiles.reshape(36, -1, slope.shape[-1])


def _kernel(kernels: jax.Array) -> jax.Array:
    """G' u G, u the slope by the transformed kernel: [36, c, d] -> [3, 3, c, d]."""
    matrix, grid = _transposed(KERNEL), kernels.reshape(6, 6, *kernels.shape[1:])
    rows = _mixed(matrix, [grid[u] for u in range(6)], 0)
    return _mixed(matrix, [rows[:, v] for v in range(6)], 1)
