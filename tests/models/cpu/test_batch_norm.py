"""Batch normalization of `kdjax.models.cpu` against float64 numpy and `flax.linen.BatchNorm`."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from kdjax.models.cpu import batch_norm

EPSILON = 1e-3
SHAPE = (5, 3, 2, 4)


def arguments(offset=0.5, seed=0):
    """Returns features, scale and bias, float64."""
    rng = np.random.default_rng(seed)
    features = offset + rng.normal(size=SHAPE)
    return features, 1 + rng.random(SHAPE[-1]), rng.normal(size=SHAPE[-1])


def reference(features, scale, bias):
    """Returns outputs, mean and variance in float64."""
    mean, var = features.mean((0, 1, 2)), features.var((0, 1, 2))
    return (features - mean) / np.sqrt(var + EPSILON) * scale + bias, mean, var


def weighted_sum(function, weights, *values):
    """Returns the sum of all outputs of a function, weighted."""
    return sum((w * output).sum() for w, output in zip(weights, function(*values), strict=True))


def output_weights():
    rng = np.random.default_rng(1)
    return rng.normal(size=SHAPE), rng.normal(size=SHAPE[-1]), rng.normal(size=SHAPE[-1])


def normalize(features, scale, bias):
    return batch_norm.normalize(features, scale, bias, EPSILON)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-6), ("bfloat16", 1e-2)])
def test_outputs_and_statistics_are_those_of_the_equation(dtype, tolerance):
    features, scale, bias = arguments()
    narrow = jnp.asarray(features, dtype)
    values = jnp.asarray(scale, jnp.float32), jnp.asarray(bias, jnp.float32)
    outputs, *statistics = normalize(narrow, *values)
    expected, *moments = reference(np.asarray(narrow, np.float64), scale, bias)
    assert outputs.dtype == dtype
    assert_allclose(np.asarray(outputs, np.float64), expected, rtol=tolerance, atol=tolerance)
    for found, exact in zip(statistics, moments, strict=True):
        assert found.dtype == jnp.float32
        assert_allclose(found, exact, rtol=2e-6, atol=1e-6)


def test_gradients_of_outputs_and_statistics_are_those_of_finite_differences():
    values, weights, step = arguments(), output_weights(), 1e-6
    with jax.enable_x64(True):
        gradient = jax.grad(lambda *v: weighted_sum(normalize, weights, *v), argnums=(0, 1, 2))
        gradients = jax.tree.map(np.asarray, jax.jit(gradient)(*map(jnp.asarray, values)))
    rng = np.random.default_rng(2)
    for index, gradient in enumerate(gradients):
        direction = rng.normal(size=values[index].shape)
        ends = []
        for sign in (1, -1):
            moved = list(values)
            moved[index] = values[index] + sign * step * direction
            ends.append(weighted_sum(reference, weights, *moved))
        assert_allclose(np.sum(gradient * direction), (ends[0] - ends[1]) / (2 * step), rtol=1e-7)


def test_variance_is_not_negative_and_the_gradient_finite_for_equal_features():
    features = jnp.full(SHAPE, 1e4, jnp.float32)
    one, zero = jnp.ones(SHAPE[-1]), jnp.zeros(SHAPE[-1])
    outputs, _, var = normalize(features, one, zero)
    assert np.all(var >= 0) and np.isfinite(outputs).all()
    gradient = jax.grad(lambda x: normalize(x, one, zero)[0].sum())(features)
    assert np.isfinite(gradient).all()


def test_networks_under_vmap_are_normalized_alone():
    features, scale, bias = (jnp.asarray(value, jnp.float32) for value in arguments())
    several = jnp.stack([features, 2 * features + 1]), jnp.stack([scale, scale]), bias
    together = jax.vmap(normalize, in_axes=(0, 0, None))(*several)
    for index in range(2):
        alone = normalize(several[0][index], several[1][index], bias)
        for found, expected in zip(together, alone, strict=True):
            assert_allclose(found[index], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("use_scale", [True, False])
@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-6), ("bfloat16", 1e-2)])
def test_module_has_variables_outputs_and_gradients_of_flax(dtype, tolerance, use_scale):
    options = {"momentum": 0.8, "epsilon": EPSILON, "dtype": dtype, "use_scale": use_scale}
    ours = batch_norm.BatchNorm(**options)
    flax = nn.BatchNorm(use_running_average=False, **options)
    features = jnp.asarray(arguments()[0], dtype)
    variables = ours.init(jax.random.key(0), features)
    jax.tree.map(np.testing.assert_array_equal, variables, flax.init(jax.random.key(0), features))

    def apply(module):
        def total(params, features):
            outputs, new = module.apply(
                {**variables, "params": params}, features, mutable=["batch_stats"]
            )
            return jnp.sum(jnp.sin(outputs.astype(jnp.float32))), (outputs, new)

        gradient = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))
        return gradient(variables["params"], features)

    found, expected = apply(ours), apply(flax)
    assert found[1][0].dtype == dtype
    for ours_leaf, flax_leaf in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        values = (np.asarray(leaf, np.float64) for leaf in (ours_leaf, flax_leaf))
        assert_allclose(*values, rtol=tolerance, atol=tolerance)


def test_only_training_on_a_cpu_has_the_form_for_cpus(monkeypatch):
    training = {"use_running_average": False, "dtype": "float32"}
    assert isinstance(batch_norm.create(**training), batch_norm.BatchNorm)
    evaluation = training | {"use_running_average": True}
    assert isinstance(batch_norm.create(**evaluation), nn.BatchNorm)
    monkeypatch.setattr(batch_norm.jax, "default_backend", lambda: "gpu")
    assert isinstance(batch_norm.create(**training), nn.BatchNorm)
