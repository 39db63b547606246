import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import checks
from kdjax.errors import InputError, nearest_name, unknown_name_error


def test_unknown_name_error_gives_the_nearest_and_all_valid_names():
    error = unknown_name_error("method", "gamblr", {"kd": 0, "gambler": 1, "ce": 2})
    assert isinstance(error, InputError) and isinstance(error, ValueError)
    expected = "unknown method 'gamblr': did you mean 'gambler'? Valid: ce, gambler, kd"
    assert str(error) == expected
    assert str(unknown_name_error("size", 3, ["small"])) == "unknown size 3; valid: small"
    assert nearest_name("anything", []) is None
    assert nearest_name("SAM", ["sgd", "sam", "muon"]) == "sam"
    assert nearest_name("conv_a", ["Conv_B", "Conv_A"]) == "Conv_A"


@pytest.mark.parametrize(
    ("name", "allowed", "nearest"),
    [
        ("rot", ["rotation", "noise"], "rotation"),
        ("ce_loss", ["ce", "kd"], "ce"),
        ("cifar", ["cifar100", "cifar10", "svhn"], "cifar10"),
        ("folder", ["dices", "blimp", "robonet"], None),
        ("x", ["xyz", "a"], None),
        ("", ["kd"], None),
    ],
)
def test_nearest_name_is_similar_to_what_was_given_or_there_is_none(name, allowed, nearest):
    assert nearest_name(name, allowed) == nearest


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), jnp.float32(2), np.array([2.0, 3.0])])
def test_bounds_are_checked_for_every_type_of_number(value):
    checks.above("payoff", value, 1)
    checks.within("epsilon", value, 2, 4)
    with pytest.raises(InputError, match=re.escape(f"payoff {value} is out of range")):
        checks.above("payoff", value, 2)
    with pytest.raises(
        InputError, match=re.escape(f"epsilon {value} is out of range") + r".*\[0, 2\)"
    ):
        checks.within("epsilon", value, 0, 2)


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap, jax.grad])
def test_traced_values_are_not_checked(transform):
    def doubled(value):
        assert not checks.concrete(value)
        checks.above("payoff", value, 1)
        checks.within("epsilon", value, 0, 1)
        return 2 * value

    out_of_range = jnp.full(1 if transform is jax.vmap else (), -3.0)
    assert np.all(np.isin(transform(doubled)(out_of_range), [-6, 2]))


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_labels_of_any_integer_dtype_and_empty_labels_are_accepted(dtype):
    labels = np.array([0, 4], dtype)
    assert checks.labels(labels, shape=(2,), classes=5).dtype == dtype
    assert checks.labels(labels[:0], shape=(0,), classes=5).shape == (0,)
    with pytest.raises(InputError, match=r"label 4 is out of range: 4 classes allow 0\.\.3"):
        checks.labels(labels, shape=(2,), classes=4)


@pytest.mark.parametrize("value", [1, 1e-18, np.float32(1e18), jnp.float32(4), [2.0, 3.0]])
def test_temperatures_of_finite_results_are_accepted(value):
    checks.temperature(value)


@pytest.mark.parametrize("value", [0, 1e-40, np.inf, -1, np.nan, [2.0, 1e20]])
def test_other_temperatures_are_refused_with_the_range(value):
    message = re.escape(f"objective.temperature {value} is out of range: it must lie in [1e-18, 1")
    with pytest.raises(InputError, match=message):
        checks.temperature(value, "objective.temperature")


@pytest.mark.parametrize(
    "value", ["2", None, True, 2 + 1j, [[2.0], [2.0, 3.0]], np.array(["a"]), {"a": 1}]
)
def test_hyperparameter_that_is_no_number_is_refused_with_its_value(value):
    for check in (
        lambda: checks.above("payoff", value, 1),
        lambda: checks.within("payoff", value, 0, 9),
        lambda: checks.temperature(value, "payoff"),
    ):
        with pytest.raises(TypeError, match=re.escape(f"payoff {value!r}: need a number")):
            check()


@pytest.mark.parametrize(
    "values",
    [None, "text", np.array([["a"]]), np.ones((2, 3), np.longdouble), np.ma.ones(3), [[1.0], []]],
)
def test_logits_that_are_no_array_of_floats_are_refused(values):
    with pytest.raises(TypeError, match=r"logits of dtype .*: need floats"):
        checks.logits(values, least=2)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "bfloat16", "float16", "float32"])
def test_logits_of_every_float_dtype_are_computed_in_float32(dtype):
    logits = checks.logits(jnp.ones((2, 3), dtype), least=2)
    assert logits.dtype == np.float32 and np.all(logits == 1)


def test_lists_that_hold_traced_values_are_not_checked():
    assert jax.jit(lambda x: checks.above("payoff", [x, 2.0], 1) is None and x)(0.5) == 0.5
