"""Ensembles, selected outputs, other normalizations, and their inference form."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.networks import CLASSES, SHAPE, Linear

from kdjax.models.alexnet import SMALL_LAYERS, AlexNet
from kdjax.training import teacher_network
from kdjax.training.teacher_network import Renormalized, SelectedOutputs

IMAGES = np.random.default_rng(0).normal(size=(5, *SHAPE)).astype(np.float32)


def member(seed: int) -> tuple[Any, Any]:
    model = Linear(CLASSES)
    return model, model.init(jax.random.key(seed), IMAGES, train=False)


def logits(network: tuple[Any, Any], images: np.ndarray = IMAGES) -> np.ndarray:
    model, variables = network
    return np.asarray(jax.jit(model.apply, static_argnames="train")(variables, images, train=False))


def log_softmax(values: np.ndarray) -> np.ndarray:
    values = np.float64(values)
    return values - np.log(np.exp(values).sum(axis=1, keepdims=True))


def test_ensemble_is_the_mean_of_the_log_probabilities() -> None:
    members = [member(seed) for seed in range(3)]
    expected = np.mean([log_softmax(logits(network)) for network in members], axis=0)
    np.testing.assert_allclose(
        logits(teacher_network.ensemble(members)), expected, rtol=1e-5, atol=1e-6
    )


def test_outputs_are_selected_by_column() -> None:
    model, variables = member(0)
    selected = teacher_network.wrap(SelectedOutputs(model, (2, 0)), variables)
    np.testing.assert_array_equal(logits(selected), logits((model, variables))[:, [2, 0]])


def test_images_are_renormalized() -> None:
    model, variables = member(0)
    renormalized = teacher_network.wrap(Renormalized(model, (2.0,), (0.5,)), variables)
    expected = logits((model, variables), 2 * IMAGES + 0.5)
    np.testing.assert_allclose(logits(renormalized), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_inference_form_of_wrapped_networks_gives_the_same_logits() -> None:
    model = AlexNet(num_outputs=CLASSES, width=2, layers=SMALL_LAYERS[:1], normalize=True)
    variables = dict(jax.jit(lambda: model.init(jax.random.key(0), IMAGES, train=False))())
    shifted = jax.tree.map(lambda leaf: leaf + jnp.float32(0.1), variables["batch_stats"])
    inner = teacher_network.wrap(
        Renormalized(model, (2.0,), (0.5,)), {**variables, "batch_stats": shifted}
    )
    network = teacher_network.ensemble(
        [teacher_network.wrap(SelectedOutputs(inner[0], (2, 0, 1)), inner[1]), member(0)]
    )
    folded = teacher_network.fold(*network)
    assert "batch_stats" not in folded[1]
    np.testing.assert_allclose(logits(folded), logits(network), rtol=1e-4, atol=1e-5)
    assert hash(folded[0]) == hash(teacher_network.fold(*network)[0])  # static in jit
