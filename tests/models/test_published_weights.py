"""The residual networks for CIFAR with the weights that others have trained and published.

The published networks have shortcuts without parameters (option A of He et al. 2015): every second
pixel, with zeros in the new channels. A projection whose kernel is that selection is the same.
"""

import pathlib
from typing import Any

import jax
import numpy as np
import pytest
from flax import traverse_util

from kdjax import models

TEACHERS = pathlib.Path(__file__).parents[3] / "shared" / "teachers"
# Of the published training, github.com/akamaster/pytorch_resnet_cifar10.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def convolutions(file: pathlib.Path) -> tuple[list[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """Returns kernel and bias of each convolution, in order, and those of the linear layer."""
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(file).graph
    arrays = {entry.name: onnx.numpy_helper.to_array(entry) for entry in graph.initializer}
    layers = [
        {"kernel": arrays[node.input[1]].transpose(2, 3, 1, 0), "bias": arrays[node.input[2]]}
        for node in graph.node
        if node.op_type == "Conv"
    ]
    return layers, {"kernel": arrays["linear.weight"].T, "bias": arrays["linear.bias"]}


def padded_shortcut(channels: int) -> dict[str, np.ndarray]:
    """Returns the projection that copies the channels into the middle half of twice as many."""
    kernel = np.zeros((1, 1, channels, 2 * channels), np.float32)
    kernel[0, 0, np.arange(channels), channels // 2 + np.arange(channels)] = 1
    return {"kernel": kernel, "bias": np.zeros(2 * channels, np.float32)}


def parameters(file: pathlib.Path, blocks: int) -> dict[str, Any]:
    """Returns the parameters of the folded network: three stages of so many blocks."""
    layers, linear = convolutions(file)
    remaining = iter(layers)
    params = {"stem": {"Conv_0": next(remaining)}, "head": {"Dense_0": linear}}
    for stage in range(3):
        for index in range(blocks):
            block = {f"ConvNorm_{i}": {"Conv_0": next(remaining)} for i in range(2)}
            if stage and not index:
                block["shortcut"] = {"Conv_0": padded_shortcut(8 * 2**stage)}
            params[f"stage{stage}_block{index}"] = block
    assert next(remaining, None) is None
    return params


@pytest.mark.slow
@pytest.mark.parametrize(("name", "blocks"), [("resnet20", 3), ("resnet56", 9)])
def test_published_weights_give_the_published_logits(name: str, blocks: int) -> None:
    file = TEACHERS / f"cifar10_{name}.onnx"
    if not file.exists():
        pytest.skip(f"no {file}")
    session = pytest.importorskip("onnxruntime").InferenceSession(file)
    images = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), np.uint8)
    (expected,) = session.run(["logits"], {"images": images})

    model = models.create(name, 10).clone(normalize=False)
    params = parameters(file, blocks)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), np.zeros((1, 32, 32, 3)), False))
    needed = traverse_util.flatten_dict(jax.tree.map(np.shape, shapes["params"]))
    assert traverse_util.flatten_dict(jax.tree.map(np.shape, params)) == needed
    normalized = ((images / 255 - np.array(MEAN)) / np.array(STD)).astype(np.float32)
    logits = jax.jit(model.apply, static_argnums=2)({"params": params}, normalized, False)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
