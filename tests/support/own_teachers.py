"""Teachers that kdjax has not trained: a linear classifier of the digits as ONNX and logits."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from kdjax.data import Dataset, Split

FLOAT, UINT8 = TensorProto.FLOAT, TensorProto.UINT8


class Linear(NamedTuple):
    """A linear classifier of pixels in 0..255: logits = x kernel + bias."""

    kernel: np.ndarray
    bias: np.ndarray

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Returns logits [n, m] for images uint8 [n, h, w, c]."""
        flat = images.reshape(len(images), -1).astype(np.float32)
        return flat @ self.kernel + self.bias

    def with_order(self, order: Sequence[int]) -> "Linear":
        """Returns the classifier with its outputs in another order."""
        return Linear(np.ascontiguousarray(self.kernel[:, list(order)]), self.bias[list(order)])


def fit_linear(split: Split) -> Linear:
    """Returns the least-squares classifier of a split."""
    images = np.asarray(split.images)
    flat = np.c_[images.reshape(len(images), -1) / 255.0, np.ones(len(images))]
    targets = 10 * np.eye(int(split.labels.max()) + 1)[split.labels]
    penalty = np.diag([1.0] * (flat.shape[1] - 1) + [0.0])
    solution = np.linalg.solve(flat.T @ flat + penalty, flat.T @ targets).astype(np.float32)
    return Linear(solution[:-1] / np.float32(255), solution[-1])


def write_onnx(
    path: pathlib.Path,
    linear: Linear,
    *,
    shape: Sequence[Any] = ("n", 8, 8, 1),
    dtype: int = FLOAT,
    scale: float = 1.0,
    softmax: bool = False,
    metadata: Mapping[str, str] | None = None,
    outputs: Sequence[str] = ("scores",),
) -> pathlib.Path:
    """Writes a linear classifier as an ONNX file.

    Args:
        path: the file.
        linear: of pixels in 0..255.
        shape: of the input; [n, c, h, w] is transposed in the model if c comes first.
        dtype: of the input.
        scale: pixels are divided by it before they get into the model.
        softmax: whether the model returns probabilities.
        metadata: of the model.
        outputs: names of the outputs; the last one holds the logits, the others their negative.
    """
    constants = {
        "kernel": linear.kernel * np.float32(scale),
        "bias": linear.bias,
        "flat": np.array([0, -1], np.int64) if shape[0] == "n" else np.array([shape[0], -1]),
    }
    channels_first = shape[1] in (1, 3) and shape[3] not in (1, 3)
    nodes = [helper.make_node("Cast", ["images"], ["floats"], to=FLOAT)]
    if channels_first:
        nodes.append(helper.make_node("Transpose", ["floats"], ["nhwc"], perm=[0, 2, 3, 1]))
    nodes += [
        helper.make_node("Reshape", ["nhwc" if channels_first else "floats", "flat"], ["rows"]),
        helper.make_node("MatMul", ["rows", "kernel"], ["products"]),
        helper.make_node("Add", ["products", "bias"], ["sums"]),
        helper.make_node("Softmax" if softmax else "Identity", ["sums"], [outputs[-1]]),
        *(helper.make_node("Neg", ["sums"], [name]) for name in outputs[:-1]),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("images", dtype, list(shape))],
        [
            helper.make_tensor_value_info(name, FLOAT, [shape[0], len(linear.bias)])
            for name in outputs
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(model, dict(metadata or {}))
    onnx.save(model, path)
    return path


def class_metadata(names: Sequence[str]) -> dict[str, str]:
    """Returns ONNX metadata with class names."""
    return {"class_names": json.dumps(list(names))}


def predict(dataset: Dataset, linear: Linear, index: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the logits [n, m] of the images of an index, in its order."""
    parts = [
        linear.logits(np.asarray(getattr(dataset, name).images))[
            index["indices"][index["split"] == name]
        ]
        for name in ("train", "dev", "calibration", "test")
        if (index["split"] == name).any()
    ]
    return np.concatenate(parts)
