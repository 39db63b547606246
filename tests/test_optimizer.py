import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

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
    found = jax.jit(jax.vmap(schedule(stage, STEPS)))(steps)
    expected = [rate_of(step, stage) for step in steps]
    assert_allclose(found, expected, rtol=1e-6, atol=1e-7 * stage.learning_rate)


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


# Of a run of one weight: before its first step and after each step.
WEIGHTS = np.random.default_rng(0).normal(size=6 * STEPS + 1)


def averages_of(stage):
    shares = jax.jit(jax.vmap(averaging(stage, STEPS)))(jnp.arange(1, len(WEIGHTS)))
    average, found = WEIGHTS[0], []
    for share, new in zip(np.asarray(shares, np.float64), WEIGHTS[1:], strict=True):
        average += share * (new - average)
        found.append(average)
    return found


def swa_of(done, start, _):
    ends = WEIGHTS[start + STEPS : done + 1 : STEPS]
    return ends.mean() if len(ends) else WEIGHTS[start]


def ema_of(done, start, decay):
    """The plain mean of the first 1 / (1 - decay) weights, averaged exponentially with the rest."""
    first, rest = np.split(WEIGHTS[start + 1 : done + 1], [round(1 / (1 - decay))])
    shares = (1 - decay) * decay ** np.arange(len(rest))[::-1]
    return decay ** len(rest) * first.mean() + shares @ rest


@pytest.mark.parametrize("share", [0.0, 0.5, 0.75, 0.99])
@pytest.mark.parametrize(
    ("average", "decay", "expected_of"),
    [("swa", 0.9, swa_of), *(("ema", decay, ema_of) for decay in (0.0, 0.5, 0.8, 0.999))],
)
def test_the_average_is_the_weights_up_to_the_start_and_their_mean_after(
    average, decay, expected_of, share
):
    start = int(share * 6) * STEPS
    stage = stage_with(average=average, average_start=share, ema_decay=decay)
    found = averages_of(stage)
    assert_allclose(found[:start], WEIGHTS[1 : start + 1], rtol=0, atol=1e-14)
    expected = [expected_of(done, start, decay) for done in range(start + 1, len(WEIGHTS))]
    assert_allclose(found[start:], expected, rtol=1e-5, atol=1e-6)


def test_no_averaging_is_none():
    assert averaging(stage_with(average="none"), STEPS) is None
