import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from support.loss_equations import standardized

from kdjax.errors import InputError
from kdjax.standardization import standardize

LOGITS = np.random.default_rng(0).normal(size=(3, 5, 7)) * 4 + 2


def test_logits_have_mean_0_and_deviation_1_and_keep_their_order():
    actual = jax.jit(standardize)(np.float32(LOGITS))
    assert_allclose(actual, np.apply_along_axis(standardized, -1, LOGITS), rtol=1e-5, atol=1e-6)
    assert_allclose(np.mean(actual, axis=-1), 0, atol=1e-6)
    assert_allclose(np.std(actual, axis=-1), 1, rtol=1e-5)
    assert_array_equal(np.argsort(actual, axis=-1), np.argsort(LOGITS, axis=-1))


def test_scale_and_shift_of_the_logits_have_no_effect():
    changed = np.float32(30 * LOGITS - 7)
    assert_allclose(jax.jit(standardize)(changed), standardize(np.float32(LOGITS)), atol=2e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_extreme_and_equal_logits_give_finite_values_and_gradients(dtype):
    logits = jnp.asarray(1e4 * (np.indices([3] * 4).reshape(4, -1).T - 1), dtype)
    values, pull_back = jax.vjp(jax.jit(standardize), logits)
    expected = np.apply_along_axis(standardized, -1, np.asarray(logits, np.float64))
    assert values.dtype == jnp.float32
    assert_allclose(values, expected, rtol=1e-6, atol=1e-6)
    assert np.all(np.isfinite(pull_back(values)[0]))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, -2.7, 100.1, 1e4])
def test_equal_logits_whose_mean_is_rounded_give_0_without_gradient(value, dtype):
    for classes in (2, 3, 7, 10, 100, 1000):
        logits = jnp.full((4, classes), value, dtype)
        values, pull_back = jax.vjp(jax.jit(standardize), logits)
        assert_array_equal(values, 0)
        assert_array_equal(pull_back(jnp.ones_like(values))[0], 0)


def test_logits_that_differ_by_more_than_rounding_are_not_constant():
    logits = np.float32(100) + np.float32(1e-3) * np.float32(LOGITS)
    expected = np.apply_along_axis(standardized, -1, logits.astype(np.float64))
    assert_allclose(standardize(logits), expected, atol=2e-2)


def test_float64_stays_float64():
    with jax.enable_x64(True):
        actual = standardize(jnp.asarray(LOGITS))
    assert actual.dtype == jnp.float64
    assert_allclose(actual, np.apply_along_axis(standardized, -1, LOGITS), rtol=1e-13)


def test_arguments_of_wrong_dtype_or_shape_raise():
    with pytest.raises(InputError, match=r"shape \(3, 1\).*k >= 2"):
        standardize(np.zeros((3, 1), "f4"))
    with pytest.raises(TypeError, match="logits of dtype int32"):
        standardize(np.zeros((3, 2), "i4"))
