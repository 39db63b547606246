"""Learning-rate schedules and the optimizer against their equations."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

from kdjax import config
from kdjax.training.optimizer import ScheduleOptions, learning_rate_schedule, make_optimizer

EPOCHS, STEPS = 6, 4  # steps per epoch


def options_with(**changes):
    options = ScheduleOptions(
        learning_rate=0.3, epochs=EPOCHS, warmup_epochs=0.0, step_every=25, step_factor=0.5
    )
    return dataclasses.replace(options, **changes)


def expected_rate(name, step, options):
    """The learning rate of a step, counted from 0."""
    total = options.epochs * STEPS
    warmup = min(round(options.warmup_epochs * STEPS), total)
    if step < warmup:
        return options.learning_rate * (step + 1) / warmup
    if name == "step":
        return options.learning_rate * options.step_factor ** (step // STEPS // options.step_every)
    return options.learning_rate * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2


@pytest.mark.parametrize("name", ["cosine", "step"])
@pytest.mark.parametrize("warmup", [0.0, 0.25, 0.3, 1.0, 2.0, 3.5, 6.0, 9.0])
def test_schedule_equals_its_equation_at_every_step(name, warmup):
    options = options_with(warmup_epochs=warmup, step_every=2, step_factor=0.1)
    steps = np.arange(EPOCHS * STEPS)
    schedule = learning_rate_schedule(name, options, steps_per_epoch=STEPS)
    rates = jax.jit(jax.vmap(schedule))(steps)
    expected = [expected_rate(name, step, options) for step in steps]
    assert_allclose(rates, expected, rtol=1e-6, atol=1e-7 * options.learning_rate)


def test_warmup_ends_at_the_peak_and_cosine_at_zero():
    options = options_with(warmup_epochs=1.0)
    rate = learning_rate_schedule("cosine", options, steps_per_epoch=STEPS)
    assert_allclose([rate(step) for step in range(5)], [0.075, 0.15, 0.225, 0.3, 0.3], rtol=1e-6)
    assert_allclose(rate(EPOCHS * STEPS), 0, atol=1e-8)


@pytest.mark.parametrize("stage", ["teacher", "student"])
def test_every_schedule_option_is_a_field_of_each_stage(stage):
    missing = {field.name for field in dataclasses.fields(ScheduleOptions)} - set(
        config.base()[stage]
    )
    assert not missing, f"ScheduleOptions has fields that config.{stage} does not have: {missing}"


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay_all", [False, True])
def test_optimizer_is_sgd_with_coupled_weight_decay(nesterov, decay_all):
    options = options_with(warmup_epochs=0.5)
    rng = np.random.default_rng(0)
    shapes = {"kernel": (2, 3), "bias": (3,)}
    start = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    gradients = [{n: rng.normal(size=s) for n, s in shapes.items()} for _ in range(5)]

    transform = make_optimizer(
        learning_rate_schedule("cosine", options, steps_per_epoch=STEPS),
        momentum=0.8,
        nesterov=nesterov,
        weight_decay=0.05,
        decay_all=decay_all,
    )
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
            w = w - expected_rate("cosine", step, options) * (g + 0.8 * v if nesterov else v)
        assert_allclose(params[name], w, rtol=1e-5, atol=1e-6)
