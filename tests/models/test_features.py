"""Penultimate features of the registered networks and of networks of the user."""

import functools
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import models
from kdjax.errors import InputError
from kdjax.models import apply
from kdjax.models.features import WithFeatures, check_features

SHAPE, OUTPUTS = (8, 8, 3), 6
# One network of each class, with the factor of its logits.
NETWORKS = {"resnet8": 1, "alexnet_small": 1, "fast_cnn_shallow": 1 / 9}
OWN = """
import flax.linen as nn
from flax import nnx

class Keyword(nn.Module):
    num_outputs: int
    @nn.compact
    def __call__(self, images):
        pooled = nn.relu(nn.Conv(5, (3, 3))(images)).mean(axis=(1, 2))
        return nn.Dense(self.num_outputs, name="last")(inputs=pooled)

class Nnx(nnx.Module):
    def __init__(self, num_classes, image_shape, rngs):
        self.conv = nnx.Conv(image_shape[2], 5, (3, 3), rngs=rngs)
        self.last = nnx.Linear(5, num_classes, rngs=rngs)
    def __call__(self, images):
        return self.last(nnx.relu(self.conv(images)).mean(axis=(1, 2)))

class Convolutional(nn.Module):
    num_outputs: int
    @nn.compact
    def __call__(self, images):
        return nn.Conv(self.num_outputs, (3, 3))(images).mean(axis=(1, 2))

class Failing(nn.Module):
    num_outputs: int
    @nn.compact
    def __call__(self, images):
        raise RuntimeError("no such luck")
"""


@pytest.fixture
def images() -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=(3, *SHAPE)), jnp.float32)


@pytest.fixture
def own(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


def outputs_of(model: nn.Module, variables: apply.Variables, images: jax.Array) -> jax.Array:
    """Logits, then features."""
    return jax.jit(functools.partial(WithFeatures(model).apply, train=False))(variables, images)


def linear(variables: apply.Variables, name: str, features: jax.Array) -> np.ndarray:
    """What the last layer makes of features."""
    layer = jax.device_get(variables["params"])
    for part in name.split("/"):
        layer = layer[part]
    return np.asarray(features) @ layer["kernel"] + layer.get("bias", 0)


def test_every_registered_network_is_of_a_class_that_is_tested_here():
    classes = {type(models.create(name, OUTPUTS)) for name in NETWORKS}
    assert {type(models.create(name, OUTPUTS)) for name in models.MODELS} == classes


@pytest.mark.slow
@pytest.mark.parametrize(("name", "scale"), NETWORKS.items())
def test_the_last_layer_of_the_features_gives_the_logits_also_without_normalization(
    name, scale, images
):
    model = models.create(name, OUTPUTS, width=4)
    check_features(model, SHAPE)
    variables = jax.jit(functools.partial(apply.init, model))(jax.random.key(0), images)
    for network in ((model, variables), models.fold_batch_norm(model, variables)):
        outputs = outputs_of(*network, images)
        logits, features = outputs[:, :OUTPUTS], outputs[:, OUTPUTS:]
        expected = scale * linear(variables, "head/Dense_0", features)
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Keyword", "Nnx"])
def test_networks_of_the_user_have_features(name, own, images):
    model = models.create(f"{own}:{name}", OUTPUTS, image_shape=SHAPE)
    check_features(model, SHAPE)
    variables = apply.init(model, jax.random.key(0), images)
    outputs = outputs_of(model, variables, images)
    np.testing.assert_array_equal(outputs[:, :OUTPUTS], model.apply(variables, images, train=False))
    expected = linear(variables, "last", outputs[:, OUTPUTS:])
    np.testing.assert_allclose(outputs[:, :OUTPUTS], expected, rtol=1e-4, atol=1e-5)


def test_layers_are_as_before_after_a_call_and_after_a_failure(own, images):
    call = nn.Dense.__call__
    for name in ("Keyword", "Failing"):
        model = models.create(f"{own}:{name}", OUTPUTS)
        try:
            check_features(model, SHAPE)
        except (InputError, RuntimeError):
            assert name == "Failing"
        assert nn.Dense.__call__ is call


def test_a_network_without_a_linear_layer_is_refused_in_one_line(own):
    model = models.create(f"{own}:Convolutional", OUTPUTS)
    with pytest.raises(InputError, match=r"own.py:Convolutional' has no features") as raised:
        check_features(model, SHAPE)
    assert "the gate energy needs none" in str(raised.value)
    assert "\n" not in str(raised.value)
