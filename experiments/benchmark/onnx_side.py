"""The ONNX Runtime worker: forward passes of the networks that kdjax exports.

`python -m experiments.benchmark.onnx_side`, started by the benchmark; see `protocol`. It needs the
extra kdjax[onnx].
"""

import contextlib
from typing import Any

import jax
import onnxruntime

from experiments.benchmark import cases
from experiments.benchmark.forward import forward_function
from experiments.benchmark.protocol import Prepared, Reply, serve, versions
from kdjax.export import formats

LIBRARIES = ("onnxruntime", "jax2onnx")


def describe() -> Reply:
    """Returns versions and device."""
    return {
        "versions": versions(*LIBRARIES),
        "device": jax.default_backend(),
        "device_name": "",
    }


def prepare(
    resources: contextlib.ExitStack,
    case: dict[str, Any],
    variant: dict[str, Any],
    batch: int,
    steps: int,
) -> Prepared:
    """Returns the forward pass of a case, ready to be timed; see `protocol.serve`."""
    forward = forward_function(case["student"], variant["dtype"])
    content = formats.to_onnx(lambda images: (forward(images),), cases.IMAGE_SHAPE)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    images, _ = cases.examples(batch)

    def passes() -> None:
        for _ in range(steps):
            session.run(None, {"images": images})

    return Prepared({cases.FORWARD: passes})


if __name__ == "__main__":
    serve(prepare, describe=describe)
