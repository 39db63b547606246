"""Batch normalization folded into the convolutions: the same logits, and the equation."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from kdjax import models


def random_variables(model, images):
    """Variables as after a long training: none has its initial value."""
    rng = np.random.default_rng(1)

    def value(path, leaf):
        if path[-1].key in ("var", "scale"):
            return rng.uniform(0.5, 2.0, leaf.shape).astype(leaf.dtype)
        fan_in = np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 4
        return rng.normal(0, 1 / np.sqrt(fan_in), leaf.shape).astype(leaf.dtype)

    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, False))
    return jax.tree.map_with_path(value, variables)


def case(name, shape=(2, 9, 12, 3)):
    """A model with its variables, and images of odd size."""
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    model = models.create(name, 5, width=4)
    return model, random_variables(model, images), images


def logits(model, variables, images):
    return jax.jit(model.apply, static_argnums=2)(variables, images, False)


# Without the deeper networks with the blocks of resnet14.
NETWORKS = [name for name in models.MODELS if name not in {f"resnet{n}" for n in (20, 32, 44, 56)}]
WITH_SLOW = [
    name if name in ("resnet8", "fast_cnn") else pytest.param(name, marks=pytest.mark.slow)
    for name in NETWORKS
]


@pytest.mark.parametrize("name", WITH_SLOW)
def test_folded_network_has_no_batch_norm_and_the_same_logits(name):
    model, variables, images = case(name)
    folded, inference = models.fold_batch_norm(model, variables)
    names = {part for path in traverse_util.flatten_dict(inference) for part in path}
    assert not any("BatchNorm" in part for part in names) and "batch_stats" not in names
    expected = logits(model, variables, images)
    assert np.ptp(expected) > 0.05
    np.testing.assert_allclose(logits(folded, inference, images), expected, rtol=0, atol=1e-5)


def test_folded_kernel_and_bias_follow_the_equation():
    model, variables, _ = case("resnet8")
    params, stats = variables["params"]["stem"], variables["batch_stats"]["stem"]["BatchNorm_0"]
    norm = {name: np.asarray(value, np.float64) for name, value in params["BatchNorm_0"].items()}
    std = np.sqrt(np.asarray(stats["var"], np.float64) + 1e-5)
    folded = models.fold_batch_norm(model, variables)[1]["params"]["stem"]["Conv_0"]
    kernel = np.asarray(params["Conv_0"]["kernel"], np.float64) * norm["scale"] / std
    bias = norm["bias"] - np.asarray(stats["mean"], np.float64) * norm["scale"] / std
    np.testing.assert_allclose(folded["kernel"], kernel, rtol=1e-6)
    np.testing.assert_allclose(folded["bias"], bias, rtol=1e-5, atol=1e-6)


def test_network_without_batch_norm_is_returned_unchanged():
    model, variables, _ = case("alexnet")
    folded, inference = models.fold_batch_norm(model, variables)
    assert folded == model
    jax.tree.map(np.testing.assert_array_equal, inference, variables)


def test_folding_can_be_jitted_and_keeps_the_input_and_output_shapes():
    model, variables, images = case("resnet8", (1, 8, 8, 1))

    def fold_and_apply(variables, images):
        folded, inference = models.fold_batch_norm(model, variables)
        return folded.apply(inference, images, False)

    assert jax.eval_shape(fold_and_apply, variables, images).shape == (1, 5)
    assert jnp.isfinite(jax.jit(fold_and_apply)(variables, images)).all()


class Foreign(nn.Module):
    """A network of another library: the names and order of its layers differ from kdjax's."""

    @nn.compact
    def __call__(self, images, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3))(images))
        return nn.Dense(5)(x.mean((1, 2)))


def test_foreign_network_is_returned_unchanged():
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    model = Foreign()
    variables = random_variables(model, images)
    returned, inference = models.fold_batch_norm(model, variables)
    assert returned is model and inference.keys() == {"params", "batch_stats"}
    jax.tree.map(np.testing.assert_array_equal, inference, variables)
    expected = logits(model, variables, images)
    np.testing.assert_array_equal(logits(returned, inference, images), expected)
