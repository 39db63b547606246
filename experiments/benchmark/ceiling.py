"""What a device computes at best: the ceiling that utilisation is a share of."""

import time

import jax
import jax.numpy as jnp

from kdjax.compiler import compiled

# Side and dtype of the matrices.
SIZES = {"cpu": (2048, jnp.float32)}
SIZE_ELSEWHERE = (8192, jnp.bfloat16)


def ceiling() -> tuple[float, str]:
    """Returns the floating-point operations a second of a large matrix product, and its dtype."""
    side, dtype = SIZES.get(jax.default_backend(), SIZE_ELSEWHERE)
    matrix = jnp.ones((side, side), dtype)
    product = compiled(jnp.matmul)

    def seconds() -> float:
        start = time.perf_counter()
        jax.block_until_ready([product(matrix, matrix) for _ in range(4)])
        return (time.perf_counter() - start) / 4

    jax.block_until_ready(product(matrix, matrix))
    return 2 * side**3 / min(seconds() for _ in range(5)), matrix.dtype.name
