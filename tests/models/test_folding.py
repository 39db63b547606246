import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from kdjax import models


def statistics_of(model, images):
    """Variables as after a long training: nothing is at its initial value."""
    rng = np.random.default_rng(1)

    def value(path, leaf):
        if path[-1].key in ("var", "scale"):
            return rng.uniform(0.5, 2.0, leaf.shape).astype(leaf.dtype)
        fan_in = np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 4
        return rng.normal(0, 1 / np.sqrt(fan_in), leaf.shape).astype(leaf.dtype)

    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, False))
    return jax.tree.map_with_path(value, variables)


def case(name, shape=(2, 9, 12, 3)):
    """A model with two projection shortcuts or more, where it has any, and images of odd size."""
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    model = models.create(name, 5, width=4)
    return model, statistics_of(model, images), images


def logits(model, variables, images):
    return jax.jit(model.apply, static_argnums=2)(variables, images, False)


@pytest.mark.parametrize("name", models.MODELS)
def test_a_folded_network_gives_the_same_logits_without_batch_normalization(name):
    model, variables, images = case(name)
    folded, inference = models.fold(model, variables)
    names = {part for path in traverse_util.flatten_dict(inference) for part in path}
    assert not any("BatchNorm" in part for part in names) and "batch_stats" not in names
    expected = logits(model, variables, images)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(logits(folded, inference, images), expected, rtol=0, atol=1e-5)


def test_the_folded_kernel_and_bias_are_those_of_the_equation():
    model, variables, _ = case("resnet8")
    params, stats = variables["params"]["stem"], variables["batch_stats"]["stem"]["BatchNorm_0"]
    wide = {name: np.asarray(value, np.float64) for name, value in params["BatchNorm_0"].items()}
    spread = np.sqrt(np.asarray(stats["var"], np.float64) + 1e-5)
    found = models.fold(model, variables)[1]["params"]["stem"]["Conv_0"]
    kernel = np.asarray(params["Conv_0"]["kernel"], np.float64) * wide["scale"] / spread
    bias = wide["bias"] - np.asarray(stats["mean"], np.float64) * wide["scale"] / spread
    np.testing.assert_allclose(found["kernel"], kernel, rtol=1e-6)
    np.testing.assert_allclose(found["bias"], bias, rtol=1e-5, atol=1e-6)


def test_a_network_without_batch_normalization_comes_back_as_it_is():
    model, variables, _ = case("alexnet")
    folded, inference = models.fold(model, variables)
    assert folded == model
    jax.tree.map(np.testing.assert_array_equal, inference, variables)


def test_a_folded_network_takes_what_the_network_takes_and_can_be_jitted():
    model, variables, images = case("resnet8", (1, 8, 8, 1))

    def both(variables, images):
        folded, inference = models.fold(model, variables)
        return folded.apply(inference, images, False)

    assert jax.eval_shape(both, variables, images).shape == (1, 5)
    assert jnp.isfinite(jax.jit(both)(variables, images)).all()
