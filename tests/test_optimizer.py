import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from kdjax.config import base
from kdjax.optimizer import averaging, optimizer, schedule

STEPS = 4  # per epoch


def stage_with(**fields):
    stage = base().student
    stage.update({"epochs": 6, "learning_rate": 0.3, "warmup_epochs": 0.0, **fields})
    return stage


def rate_of(step, stage):
    """The learning rate of a step, counted from 0."""
    total = stage.epochs * STEPS
    warmup = min(round(stage.warmup_epochs * STEPS), total)
    if step < warmup:
        return stage.learning_rate * (step + 1) / warmup
    if stage.schedule == "step":
        return stage.learning_rate * stage.step_factor ** (step // STEPS // stage.step_every)
    return stage.learning_rate * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2


@pytest.mark.parametrize("name", ["cosine", "step"])
@pytest.mark.parametrize("warmup", [0.0, 0.25, 0.3, 1.0, 2.0, 3.5, 6.0, 9.0])
def test_the_schedule_follows_its_equation_at_every_step(name, warmup):
    stage = stage_with(schedule=name, warmup_epochs=warmup, step_every=2, step_factor=0.1)
    steps = np.arange(stage.epochs * STEPS)
    found = [schedule(stage, STEPS)(step) for step in steps]
    assert_allclose(found, [rate_of(step, stage) for step in steps], rtol=1e-5, atol=1e-8)
    traced = jax.jit(jax.vmap(schedule(stage, STEPS)))(steps)
    assert_allclose(traced, found, rtol=1e-6, atol=1e-8)


def test_warm_up_ends_at_the_peak_and_cosine_at_zero():
    rate = schedule(stage_with(warmup_epochs=1.0), STEPS)
    assert_allclose([rate(step) for step in range(5)], [0.075, 0.15, 0.225, 0.3, 0.3], rtol=1e-6)
    assert_allclose(rate(6 * STEPS), 0, atol=1e-8)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay_all", [False, True])
def test_the_optimizer_is_sgd_with_coupled_decay_of_matrices(nesterov, decay_all):
    fields = {"nesterov": nesterov, "decay_all": decay_all}
    stage = stage_with(momentum=0.8, weight_decay=0.05, warmup_epochs=0.5, **fields)
    rng = np.random.default_rng(0)
    shapes = {"kernel": (2, 3), "bias": (3,)}
    start = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    gradients = [{n: rng.normal(size=s) for n, s in shapes.items()} for _ in range(5)]

    transform = optimizer(stage, STEPS)
    params = jax.tree.map(jnp.float32, start)
    state, update = transform.init(params), jax.jit(transform.update)
    for gradient in gradients:
        updates, state = update(jax.tree.map(jnp.float32, gradient), state, params)
        params = optax.apply_updates(params, updates)

    for name, w in start.items():
        decay = 0.05 if decay_all or name == "kernel" else 0.0
        v = np.zeros_like(w)
        for step, gradient in enumerate(gradients):
            g = gradient[name] + decay * w
            v = 0.8 * v + g
            w = w - rate_of(step, stage) * (g + 0.8 * v if nesterov else v)
        assert_allclose(params[name], w, rtol=1e-5, atol=1e-6)


def averages_of(stage, weights):
    """The average after each finished step of a run whose weights are these, from w_0 on."""
    shares = jax.jit(jax.vmap(averaging(stage, STEPS)))(jnp.arange(1, len(weights)))
    average, found = weights[0], []
    for share, new in zip(np.asarray(shares, np.float64), weights[1:], strict=True):
        average += share * (new - average)
        found.append(average)
    return found


WEIGHTS = np.random.default_rng(0).normal(size=6 * STEPS + 1)


def swa_of(done, start):
    ends = WEIGHTS[start + STEPS : done + 1 : STEPS]
    return ends.mean() if len(ends) else WEIGHTS[start]


def ema_of(done, start, decay):
    """A plain mean of the first 1 / (1 - decay) weights, and its exponential average with the rest."""
    averaged, plain = WEIGHTS[start + 1 : done + 1], round(1 / (1 - decay))
    later = averaged[plain:]
    old = decay ** len(later) * averaged[:plain].mean()
    return old + (1 - decay) * decay ** np.arange(len(later))[::-1] @ later


@pytest.mark.parametrize("share", [0.0, 0.5, 0.75, 0.99])
def test_swa_is_the_mean_of_the_weights_at_the_ends_of_epochs(share):
    start = int(share * 6) * STEPS
    found = averages_of(stage_with(average="swa", average_start=share), WEIGHTS)
    assert_array_equal(found[:start], WEIGHTS[1 : start + 1])
    expected = [swa_of(done, start) for done in range(start + 1, len(WEIGHTS))]
    assert_allclose(found[start:], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.75])
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.8, 0.999])
def test_ema_starts_as_a_plain_mean_and_decays_after(share, decay):
    start = int(share * 6) * STEPS
    stage = stage_with(average="ema", average_start=share, ema_decay=decay)
    found = averages_of(stage, WEIGHTS)
    assert_array_equal(found[:start], WEIGHTS[1 : start + 1])
    expected = [ema_of(done, start, decay) for done in range(start + 1, len(WEIGHTS))]
    assert_allclose(found[start:], expected, rtol=1e-5, atol=1e-6)


def test_no_averaging_is_none():
    assert averaging(stage_with(average="none"), STEPS) is None
