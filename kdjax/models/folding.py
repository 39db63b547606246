"""The inference form of a trained network: batch normalization folded into the convolutions.

The ONNX export needs it: ONNX Runtime 1.32 rejects the deeper residual networks with batch
normalization that jax2onnx 0.13 and 0.17 produce.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kdjax import checks
from kdjax.models import common
from kdjax.models.alexnet import AlexNet
from kdjax.models.fast_cnn import FastCNN
from kdjax.models.resnet import ResNet

# Networks in which `BatchNorm_i` follows the bias-free `Conv_i`, chosen by a field `normalize`.
# In `FastCNN` max-pooling may lie between the two, and the scale is one: a maximum stays one after
# a multiplication by 1 / s.
FOLDABLE = (AlexNet, FastCNN, ResNet)


def fold_batch_norm(
    model: nn.Module, variables: Mapping[str, Any]
) -> tuple[nn.Module, dict[str, Any]]:
    """Returns an equivalent network without batch normalization; logits agree up to rounding.

    gamma (W * x - mean) / s + beta = (gamma / s) W * x + (beta - gamma mean / s), with
    s = sqrt(var + epsilon), channel by channel.

    Args:
        model: any network. Only `ResNet`, `AlexNet` and `FastCNN` can be folded; another network
            is returned unchanged.
        variables: its trained `params` and `batch_stats`.

    Returns:
        The model with `normalize=False`, and its variables, which are `params` only.
    """
    if not isinstance(model, FOLDABLE):
        return model, dict(variables)
    params = _fold(variables["params"], variables.get("batch_stats", {}))
    return model.clone(normalize=False), {"params": params}


def _fold(params: Any, stats: Mapping[str, Any]) -> Any:
    if not isinstance(params, Mapping):
        return params
    folded = {}
    for name, value in params.items():
        norm = name.replace("Conv_", "BatchNorm_")
        if norm != name and norm in params:
            folded[name] = _fold_into_convolution(value["kernel"], params[norm], stats[norm])
        elif not name.startswith("BatchNorm_"):
            folded[name] = _fold(value, stats.get(name, {}))
    return folded


def _fold_into_convolution(
    kernel: jax.Array, norm: Mapping[str, jax.Array], stats: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    sqrt: Callable = jnp.sqrt
    if checks.concrete((kernel, norm, stats)):
        # On the host: on the device every operation would be a program of its own.
        kernel, norm, stats = jax.tree.map(np.asarray, (kernel, norm, stats))
        sqrt = np.sqrt
    factor = norm.get("scale", np.float32(1)) / sqrt(stats["var"] + common.NORM_EPSILON)
    # The last axis of a kernel holds the output channels.
    return {
        "kernel": kernel * factor.reshape(1, 1, 1, -1),
        "bias": norm["bias"] - stats["mean"] * factor,
    }
