"""The floating-point rate of a large matrix product in one library; needs none to import."""

import time
from collections.abc import Callable
from typing import Any

REPEATS, PRODUCTS = 5, 4
FLOAT32, BFLOAT16 = "float32", "bfloat16"


def side_length(device: str) -> int:
    """Returns the number of rows and columns of the matrices: enough for the library's best rate.

    Args:
        device: cpu or gpu.
    """
    return 2048 if device == "cpu" else 8192


def rate(product: Callable[[], Any], wait: Callable[[list[Any]], Any], side: int) -> float:
    """Returns the best FLOP/s of a product of two matrices [side, side] over several runs.

    Args:
        product: starts one product and returns its result.
        wait: returns when some results are computed.
        side: of the matrices.
    """

    def seconds() -> float:
        start = time.perf_counter()
        wait([product() for _ in range(PRODUCTS)])
        return (time.perf_counter() - start) / PRODUCTS

    wait([product()])
    return 2 * side**3 / min(seconds() for _ in range(REPEATS))
