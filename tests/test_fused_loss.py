"""Closed-form derivatives of `soft_gambler` and `distillation` against float64 numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from kdjax import losses

PAYOFF = 2.5


def arguments(scale=1.0, rows=5, classes=4, seed=0):
    """Returns logits [rows, classes + 1] and targets [rows, classes], float64; a target is zero."""
    rng = np.random.default_rng(seed)
    logits = scale * rng.normal(size=(rows, classes + 1))
    targets = rng.random((rows, classes)) * (np.arange(classes) > 0)
    return logits, targets / targets.sum(axis=1, keepdims=True)


def reference(logits, targets, payoff=PAYOFF):
    total = np.logaddexp.reduce(logits, axis=1, keepdims=True)
    gains = np.logaddexp(logits[:, :-1], logits[:, -1:] - np.log(payoff))
    return np.sum(targets * (total - gains), axis=1)


def reference_gradients(logits, targets, payoff=PAYOFF):
    """The gradients of the summed loss: with respect to logits, targets and payoff."""
    probs = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    mixed = probs[:, :-1] + probs[:, -1:] / payoff
    ratio = targets / mixed
    d_probs = -np.concatenate([ratio, ratio.sum(1, keepdims=True) / payoff], axis=1)
    d_logits = probs * (d_probs - np.sum(d_probs * probs, axis=1, keepdims=True))
    d_payoff = np.sum(ratio * probs[:, -1:]) / payoff**2
    return d_logits, -np.log(mixed), d_payoff


def loss(logits, targets, payoff):
    return losses.soft_gambler(logits, targets, payoff=payoff).sum()


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.01, 1.0, 20.0])
def test_gradients_of_all_arguments_are_those_of_the_equation(scale):
    logits, targets = arguments(scale)
    gradients = jax.grad(loss, argnums=(0, 1, 2))(
        *(jnp.asarray(array, jnp.float32) for array in (logits, targets)), jnp.float32(PAYOFF)
    )
    for found, expected in zip(gradients, reference_gradients(logits, targets), strict=True):
        assert_allclose(found, expected, rtol=3e-5, atol=3e-6)


@pytest.mark.slow
def test_forward_mode_gives_the_directional_derivative():
    logits, targets = arguments()
    rng = np.random.default_rng(1)
    directions = rng.normal(size=logits.shape), rng.normal(size=targets.shape), 0.7
    with jax.enable_x64(True):
        _, found = jax.jvp(loss, (logits, targets, PAYOFF), directions)
    pairs = zip(reference_gradients(logits, targets), directions, strict=True)
    assert_allclose(found, sum(np.sum(gradient * step) for gradient, step in pairs), rtol=1e-12)


@pytest.mark.slow
def test_second_derivatives_are_those_of_finite_differences():
    logits, targets = arguments(rows=1)
    with jax.enable_x64(True):
        hessian = jax.jit(jax.hessian(loss))(logits, targets, PAYOFF)[0, :, 0]
        mixed = jax.jit(jax.jacobian(jax.grad(loss), argnums=2))(logits, targets, PAYOFF)[0]
    step = 1e-5
    for column in range(logits.shape[1]):
        moved = step * (np.arange(logits.shape[1]) == column)
        ends = [reference_gradients(logits + sign * moved, targets)[0] for sign in (1, -1)]
        assert_allclose(hessian[column], (ends[0] - ends[1])[0] / (2 * step), atol=1e-8)
    ends = [reference_gradients(logits, targets, PAYOFF + d)[0] for d in (step, -step)]
    assert_allclose(mixed, (ends[0] - ends[1])[0] / (2 * step), atol=1e-8)


def test_second_derivatives_are_finite_at_extreme_logits():
    logits = jnp.array([[1e4, -1e4, 0.0, 1e4], [-1e4, -1e4, -1e4, 1e4], [1e4, 0.0, -1e4, -1e4]])
    targets = jnp.full((3, 3), 1 / 3)
    assert np.isfinite(jax.jit(jax.hessian(loss))(logits, targets, PAYOFF)).all()


@pytest.mark.slow
def test_each_example_alone_gives_the_same_loss_and_gradient():
    logits, targets = (jnp.asarray(array, jnp.float32) for array in arguments(rows=6))
    payoffs = jnp.linspace(1.5, 4.0, 6)
    each = functools.partial(losses.soft_gambler, payoff=PAYOFF)
    assert_allclose(jax.jit(jax.vmap(each))(logits, targets), each(logits, targets), rtol=1e-6)
    gradient = jax.grad(loss)
    found = jax.jit(jax.vmap(gradient))(logits, targets, payoffs)
    assert_allclose(found, jax.jit(gradient)(logits, targets, payoffs), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("excluded", [[0], [4], [0, 4]])
def test_excluded_outputs_with_target_zero_contribute_nothing(excluded):
    logits, targets = arguments()
    removed = logits.copy()
    removed[:, excluded] = -np.inf
    with np.errstate(invalid="ignore"):
        gains = np.logaddexp(removed[:, 1:-1], removed[:, -1:] - np.log(PAYOFF))
    total = np.logaddexp.reduce(removed, axis=1, keepdims=True)
    expected = np.sum(targets[:, 1:] * (total - gains), axis=1)
    values = jnp.asarray(removed, jnp.float32), jnp.asarray(targets, jnp.float32)
    assert_allclose(losses.soft_gambler(*values, payoff=PAYOFF), expected, rtol=1e-5)
    gradient = np.asarray(jax.grad(loss)(*values, PAYOFF))
    assert np.isfinite(gradient).all() and (gradient[:, excluded] == 0).all()


@pytest.mark.parametrize("program", ["loss", "gradient"])
def test_the_program_has_no_selection_over_the_classes(program):
    logits, targets = (jnp.asarray(array, jnp.float32) for array in arguments())
    function = loss if program == "loss" else jax.grad(loss)
    text = jax.jit(function, static_argnums=2).lower(logits, targets, PAYOFF).as_text()
    selections = [line for line in text.splitlines() if "stablehlo.select" in line]
    assert "exponential" in text
    assert not any(f"x{logits.shape[-1]}x" in line for line in selections)


def test_logits_that_are_all_minus_infinity_give_nan_as_the_other_losses_do():
    logits = jnp.array([[-jnp.inf] * 3, [0.0, -jnp.inf, -jnp.inf], [-jnp.inf, -jnp.inf, 0.0]])
    soft = losses.soft_gambler(logits, jnp.array([[1.0, 0.0]] * 3), payoff=2.0)
    hard = losses.gambler(logits, jnp.zeros(3, int), payoff=2.0)
    assert_allclose(soft, [np.nan, 0, np.log(2)], atol=1e-7)
    assert_allclose(hard, [np.nan, 0, np.log(2)], atol=1e-7)


TEMPERATURE = 3.0


def distillation(logits, targets, temperature):
    return losses.distillation(logits, targets, temperature=temperature).sum()


def distillation_reference(logits, targets, temperature):
    """The summed loss, and its gradients with respect to logits, targets and temperature."""
    scaled = logits / temperature
    log_student = scaled - np.logaddexp.reduce(scaled, axis=1, keepdims=True)
    student = np.exp(log_student)
    log_ratio = np.where(targets > 0, np.log(np.where(targets > 0, targets, 1)) - log_student, 0)
    divergence = np.sum(targets * log_ratio - targets + student)
    d_scaled = student * targets.sum(axis=1, keepdims=True) - targets
    d_temperature = 2 * temperature * divergence - np.sum(d_scaled * logits)
    value = temperature**2 * divergence
    return value, (temperature * d_scaled, temperature**2 * log_ratio, d_temperature)


@pytest.mark.parametrize("scale", [0.01, 1.0, 20.0])
def test_distillation_and_its_gradients_are_those_of_the_equation(scale):
    logits, targets = arguments(scale)
    values = (*(jnp.asarray(a, jnp.float32) for a in (logits[:, :-1], targets)), TEMPERATURE)
    exact = distillation_reference(*(np.asarray(value, np.float64) for value in values))
    found = jax.value_and_grad(distillation, argnums=(0, 1, 2))(*values)
    for result, expected in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
        assert_allclose(result, expected, rtol=3e-5, atol=3e-6)


def test_second_derivatives_of_distillation_are_those_of_the_equation():
    logits, targets = arguments(rows=1)
    logits = logits[:, :-1]
    with jax.enable_x64(True):
        hessian = jax.jit(jax.hessian(distillation))(logits, targets, TEMPERATURE)[0, :, 0]
    probs = np.exp(logits[0] / TEMPERATURE)
    probs /= probs.sum()
    assert_allclose(hessian, np.diag(probs) - np.outer(probs, probs), atol=1e-12)
