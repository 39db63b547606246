"""Computes the logits of kdjax from weights that PyTorch loads, too."""

import pathlib
import zlib
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark import cases
from experiments.benchmark.protocol import Reply
from kdjax import models, objectives
from kdjax.models import apply
from kdjax.runtime.compiler import jit

IMAGES = 64


def agreement(network: str, folder: str) -> Reply:
    """Writes `weights.npz`, `images.npy` and the logits `kdjax.npy` into the folder.

    Returns:
        `loss`, the objective of these logits with the reversed logits as the teacher's.
    """
    directory = pathlib.Path(folder)
    model = models.create(network, cases.CLASSES + 1)
    rng = np.random.default_rng(1)
    images = rng.normal(size=(IMAGES, *cases.IMAGE_SHAPE)).astype(np.float32)
    with jax.default_matmul_precision("float32"):
        variables = jit(lambda: perturbed_variables(model, images))()
        logits = jit(lambda values: model.apply(values, images, train=False))(variables)
    np.savez(directory / "weights.npz", **flax.traverse_util.flatten_dict(variables, sep="/"))
    np.save(directory / "images.npy", images)
    np.save(directory / "kdjax.npy", logits)
    labels = jnp.arange(IMAGES) % cases.CLASSES
    hyper = objectives.Hyperparameters(payoff=cases.PAYOFF, temperature=cases.TEMPERATURE)
    loss, _ = objectives.ka_gambler_sum(logits, logits[::-1, :-1], labels, hyper=hyper)
    return {"loss": float(loss.mean())}


def perturbed_variables(model: nn.Module, images: np.ndarray) -> apply.Variables:
    """Returns variables without constant arrays, so that a swapped or missing one is noticed.

    Args:
        model: a network of `kdjax.models.create`.
        images: float32 [b, h, w, c]; their batch statistics are used, which keeps the logits at
            a usual scale.
    """
    initial = model.init(jax.random.key(0), images, train=False)
    params = jax.tree.map_with_path(_perturbed, initial["params"])
    old = initial.get("batch_stats", {})
    variables = {"params": params, "batch_stats": old}
    _, updated = model.apply(variables, images, train=True, mutable=["batch_stats"])
    momentum = models.NORM_MOMENTUM
    stats = jax.tree.map(
        lambda before, after: (after - momentum * before) / (1 - momentum),
        old,
        updated.get("batch_stats", {}),
    )
    return {"params": params, "batch_stats": stats}


def _perturbed(path: Any, leaf: jax.Array) -> jax.Array:
    """Returns a scale or bias with noise of a seed that depends on its path."""
    if leaf.ndim > 1:
        return leaf
    seed = zlib.crc32(jax.tree_util.keystr(path).encode())
    return leaf + 0.1 * jax.random.normal(jax.random.key(seed), leaf.shape)
