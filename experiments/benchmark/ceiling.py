"""The measured floating-point rate of a large matrix product, an upper bound for training."""

import time

import jax
import jax.numpy as jnp

from kdjax.runtime.compiler import jit

# Side length and dtype of the matrices.
SIZES = {"cpu": (2048, jnp.float32)}
ACCELERATOR_SIZE = (8192, jnp.bfloat16)


def ceiling() -> tuple[float, str]:
    """Returns the FLOP/s of a large matrix product on this device, and its dtype."""
    side, dtype = SIZES.get(jax.default_backend(), ACCELERATOR_SIZE)
    matrix = jnp.ones((side, side), dtype)
    product = jit(jnp.matmul)

    def seconds() -> float:
        start = time.perf_counter()
        jax.block_until_ready([product(matrix, matrix) for _ in range(4)])
        return (time.perf_counter() - start) / 4

    jax.block_until_ready(product(matrix, matrix))
    return 2 * side**3 / min(seconds() for _ in range(5)), matrix.dtype.name
