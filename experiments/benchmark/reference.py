"""What kdjax computes from weights that another library is given too."""

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
from kdjax import models, objectives, step
from kdjax.compiler import compiled

IMAGES = 64


def agreement(network: str, folder: str) -> Reply:
    """Writes `weights.npz`, `images.npy` and `kdjax.npy`, the network's logits, into the folder.

    Returns:
        The objective's value for these logits, with themselves, reversed, as the teacher's.
    """
    place = pathlib.Path(folder)
    model = models.create(network, cases.CLASSES + 1)
    draw = np.random.default_rng(1)
    images = draw.normal(size=(IMAGES, *cases.IMAGE_SHAPE)).astype(np.float32)
    with jax.default_matmul_precision("float32"):
        variables = compiled(lambda: as_if_trained(model, images))()
        logits = compiled(lambda given: model.apply(given, images, train=False))(variables)
    np.savez(place / "weights.npz", **flax.traverse_util.flatten_dict(variables, sep="/"))
    np.save(place / "images.npy", images)
    np.save(place / "kdjax.npy", logits)
    labels = jnp.arange(IMAGES) % cases.CLASSES
    hyper = objectives.Hyper(payoff=cases.PAYOFF, temperature=cases.TEMPERATURE)
    loss, _ = objectives.ka_gambler_sum(logits, logits[::-1, :-1], labels, hyper=hyper)
    return {"loss": float(loss.mean())}


def as_if_trained(model: nn.Module, images: np.ndarray) -> step.Variables:
    """Returns variables in which every array matters: none is all zeros or ones.

    Args:
        model: of `kdjax.models.create`.
        images: float32 [b, h, w, c]; the batch statistics are theirs, so that the logits keep
            a usual size.
    """
    found = model.init(jax.random.key(0), images, train=False)
    params = jax.tree.map_with_path(_moved, found["params"])
    old = found.get("batch_stats", {})
    given = {"params": params, "batch_stats": old}
    _, updated = model.apply(given, images, train=True, mutable=["batch_stats"])
    keep = models.NORM_MOMENTUM
    stats = jax.tree.map(
        lambda before, after: (after - keep * before) / (1 - keep),
        old,
        updated.get("batch_stats", {}),
    )
    return {"params": params, "batch_stats": stats}


def _moved(path: Any, leaf: jax.Array) -> jax.Array:
    """Returns scales and biases moved away from one and zero, each array by its own noise."""
    if leaf.ndim > 1:
        return leaf
    seed = zlib.crc32(jax.tree_util.keystr(path).encode())
    return leaf + 0.1 * jax.random.normal(jax.random.key(seed), leaf.shape)
