"""The inference form of a trained network: batch normalization folded into the convolutions.

What ONNX needs: with batch normalization ONNX Runtime 1.32 rejects what jax2onnx 0.13 and 0.17
make of the deeper residual networks.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax.models import common


def fold(model: nn.Module, variables: Mapping[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """Returns a network without batch normalization that gives the same logits, but for rounding.

    gamma (W * x - mean) / s + beta = (gamma / s) W * x + (beta - gamma mean / s), with
    s = sqrt(var + epsilon), channel by channel.

    Args:
        model: of `create`; one without batch normalization comes back as it is.
        variables: its trained params and batch_stats.

    Returns:
        The model with `normalize=False`, and its variables: `params` alone.
    """
    params = _folded(variables["params"], variables.get("batch_stats", {}))
    return model.clone(normalize=False), {"params": params}


def _folded(params: Any, stats: Mapping[str, Any]) -> Any:
    if not isinstance(params, Mapping):
        return params
    folded = {}
    for name, value in params.items():
        norm = name.replace("Conv_", "BatchNorm_")
        if norm != name and norm in params:
            folded[name] = _merged(value["kernel"], params[norm], stats[norm])
        elif not name.startswith("BatchNorm_"):
            folded[name] = _folded(value, stats.get(name, {}))
    return folded


def _merged(
    kernel: jax.Array, norm: Mapping[str, jax.Array], stats: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    factor = norm["scale"] / jnp.sqrt(stats["var"] + common.NORM_EPSILON)
    # A kernel's last axis is its output channels.
    return {
        "kernel": kernel * factor.reshape(1, 1, 1, -1),
        "bias": norm["bias"] - stats["mean"] * factor,
    }
