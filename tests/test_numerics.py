"""Parts of the losses that stay exact in float32, against float64 and exact arithmetic."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import log_softmax, logsumexp, rel_entr

from kdjax.losses import numerics


def random(shape=(12, 5), scale=3.0, seed=0):
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


def test_largest_logit_is_shifted_to_0_without_a_gradient_of_the_shift():
    logits = random()
    shifted = numerics.shifted(jnp.asarray(logits))
    assert_allclose(shifted, logits - logits.max(axis=-1, keepdims=True), atol=1e-6)
    assert np.max(shifted, axis=-1).tolist() == [0.0] * len(logits)
    gradient = jax.grad(lambda values: numerics.shifted(values).sum())(jnp.asarray(logits))
    assert_allclose(gradient, np.ones_like(logits))


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-6, 1e-3, 0.3, 3.0, 50.0])
def test_log_of_the_mean_is_exact_near_equal_and_far_logits(scale):
    """Near equal logits a float32 logsumexp minus log m would lose all digits."""
    logits = random(scale=scale)
    logits -= logits.max(axis=-1, keepdims=True)
    exact = logits.astype(np.float64)
    expected = np.log1p(np.mean(np.expm1(exact), axis=-1, keepdims=True))
    assert_allclose(numerics.log_mean_exp(jnp.asarray(logits)), expected, rtol=2e-5)


@pytest.mark.slow
def test_log_of_the_mean_has_the_softmax_as_its_gradient():
    logits = random(scale=1.0)
    logits -= logits.max(axis=-1, keepdims=True)
    gradient = jax.grad(lambda values: numerics.log_mean_exp(values).sum())(jnp.asarray(logits))
    assert_allclose(gradient, np.exp(log_softmax(logits.astype(np.float64), axis=-1)), rtol=1e-4)


@pytest.mark.parametrize("temperature", [0.5, 4.0])
def test_softmax_within_some_classes_is_that_of_these_classes_alone(temperature):
    logits, rng = random(), np.random.default_rng(1)
    classes = rng.random(logits.shape) < 0.6
    classes[:, 0] = True
    found = np.asarray(numerics.log_softmax_within(logits, classes, jnp.float32(temperature)))
    for row, chosen, values in zip(logits.astype(np.float64), classes, found, strict=True):
        assert_allclose(values[chosen], log_softmax(row[chosen] / temperature), atol=1e-5)
        assert np.all(np.isneginf(values[~chosen]))


def test_classes_that_take_no_part_do_not_matter_however_large():
    logits, classes = random(), np.ones((12, 5), bool)
    classes[:, 2] = False
    far = logits.copy()
    far[:, 2] = 1e30
    one = jnp.float32(1)
    assert_allclose(
        numerics.log_softmax_within(far, classes, one),
        numerics.log_softmax_within(logits, classes, one),
    )


@pytest.mark.slow
@pytest.mark.parametrize("margin", [-100.0, -20.0, 0.0, 20.0, 100.0])
def test_log_odds_do_not_saturate(margin):
    """log(p / (1 - p)) is margin - log(m - 1) for one class above m - 1 equal ones."""
    logits = np.zeros((1, 5), np.float32)
    logits[0, 3] = margin
    is_class = np.arange(5)[None] == 3
    found = numerics.log_odds(jnp.asarray(logits), is_class, jnp.float32(1))
    assert_allclose(found, [margin - np.log(4)], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.5, 4.0])
def test_log_odds_follow_the_equation_for_every_class(temperature):
    logits = random()
    for number in range(logits.shape[1]):
        is_class = np.broadcast_to(np.arange(5) == number, logits.shape)
        scaled = logits.astype(np.float64) / temperature
        expected = scaled[:, number] - logsumexp(np.delete(scaled, number, axis=1), axis=1)
        found = numerics.log_odds(jnp.asarray(logits), is_class, jnp.float32(temperature))
        assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def log_probs(seed, scale=2.0):
    return log_softmax(random(seed=seed, scale=scale).astype(np.float64), axis=-1)


def test_divergence_follows_the_equation():
    a, b = log_probs(0), log_probs(1)
    expected = rel_entr(np.exp(a), np.exp(b)).sum(axis=-1)
    assert_allclose(numerics.divergence(jnp.float32(a), jnp.float32(b)), expected, rtol=1e-5)


@pytest.mark.parametrize(("distance", "tolerance"), [(1e-2, 1e-3), (1e-3, 1e-2), (1e-4, 0.5)])
def test_divergence_of_near_distributions_keeps_its_digits(distance, tolerance):
    """A in sixths against A moved by a distance, from logarithms rounded to float32."""
    target = [Fraction(1, 6), Fraction(2, 6), Fraction(3, 6)]
    moved = [target[0] + Fraction(distance), target[1], target[2] - Fraction(distance)]
    a, b = (np.log([float(part) for part in parts]) for parts in (target, moved))
    # KL to second and third order: sum d^2 / (2 A) - d^3 / (3 A^2).
    steps = [float(to - part) for to, part in zip(moved, target, strict=True)]
    expected = sum(
        d**2 / (2 * p) - d**3 / (3 * p**2) + d**4 / (4 * p**3)
        for d, p in zip(steps, map(float, target), strict=True)
    )
    found = float(numerics.divergence(jnp.float32(a), jnp.float32(b)))
    assert found == pytest.approx(expected, rel=tolerance)


def test_divergence_is_never_negative_and_0_only_for_equal_distributions():
    a = jnp.float32(log_probs(0))
    assert np.all(np.asarray(numerics.divergence(a, a)) == 0)
    for seed in range(1, 4):
        assert np.all(np.asarray(numerics.divergence(a, jnp.float32(log_probs(seed)))) > 0)


@pytest.mark.slow
def test_divergence_leaves_out_absent_classes_with_finite_gradients():
    a, b = log_probs(0).copy(), log_probs(1).copy()
    for values in (a, b):
        values[:, 2] = -np.inf
    kept = np.delete(np.arange(5), 2)
    expected = (np.exp(a[:, kept]) * (a[:, kept] - b[:, kept])).sum(-1) - (
        np.exp(a[:, kept]) - np.exp(b[:, kept])
    ).sum(-1)
    arguments = jnp.float32(a), jnp.float32(b)
    assert_allclose(numerics.divergence(*arguments), expected, rtol=1e-4, atol=1e-6)
    gradients = jax.grad(lambda *each: numerics.divergence(*each).sum(), argnums=(0, 1))(*arguments)
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients)
