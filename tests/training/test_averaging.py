"""Averages of the weights and their batch statistics against their equations."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from support.networks import (
    CLASSES,
    HYPER,
    SHAPE,
    device_examples,
    flat_inputs,
    linear_spec,
    order,
    random_split,
    single_program,
    teacher_variables,
)

from kdjax import config_checks, models
from kdjax.data.batches import DeviceSplit
from kdjax.models import apply
from kdjax.models.user_network import UserNetwork
from kdjax.objectives import METHODS
from kdjax.training import averaging, step

EPOCHS, STEPS = 6, 4  # steps per epoch
# The values of a single weight before the first step and after each step of a run.
WEIGHTS = np.random.default_rng(0).normal(size=EPOCHS * STEPS + 1)


def weight_of_newest(kind, start, decay):
    return averaging.average_weight(
        kind, start=start, ema_decay=decay, epochs=EPOCHS, steps_per_epoch=STEPS
    )


def running_averages(kind, start, decay):
    weight = weight_of_newest(kind, start, decay)
    weights = jax.jit(jax.vmap(weight))(jnp.arange(1, len(WEIGHTS)))
    average, averages = WEIGHTS[0], []
    for w, newest in zip(np.asarray(weights, np.float64), WEIGHTS[1:], strict=True):
        average += w * (newest - average)
        averages.append(average)
    return averages


def expected_swa(step, first, _):
    epoch_ends = WEIGHTS[first + STEPS : step + 1 : STEPS]
    return epoch_ends.mean() if len(epoch_ends) else WEIGHTS[first]


def expected_ema(step, first, decay):
    """The mean of the first 1 / (1 - decay) weights, averaged exponentially with the others."""
    early, late = np.split(WEIGHTS[first + 1 : step + 1], [round(1 / (1 - decay))])
    factors = (1 - decay) * decay ** np.arange(len(late))[::-1]
    return decay ** len(late) * early.mean() + factors @ late


@pytest.mark.parametrize("start", [0.0, 0.5, 0.75, 0.99])
@pytest.mark.parametrize(
    ("kind", "decay", "expected_average"),
    [("swa", 0.9, expected_swa), *(("ema", d, expected_ema) for d in (0.0, 0.5, 0.8, 0.999))],
)
def test_average_equals_the_newest_weights_before_its_start_and_their_mean_after(
    kind, decay, expected_average, start
):
    first = int(start * EPOCHS) * STEPS
    averages = running_averages(kind, start, decay)
    assert_allclose(averages[:first], WEIGHTS[1 : first + 1], rtol=0, atol=1e-14)
    expected = [expected_average(step, first, decay) for step in range(first + 1, len(WEIGHTS))]
    assert_allclose(averages[first:], expected, rtol=1e-5, atol=1e-6)


def test_average_weight_is_none_without_averaging():
    assert weight_of_newest("none", 0.75, 0.999) is None


@pytest.mark.parametrize("kind", config_checks.AVERAGES)
def test_every_average_of_the_config_exists(kind):
    assert (weight_of_newest(kind, 0.5, 0.9) is None) == (kind == "none")


@pytest.mark.slow
def test_average_of_a_run_follows_its_weights():
    spec = linear_spec(
        average_weight=lambda finished: jnp.where(finished < 3, 1.0, 1 / (finished - 1))
    )
    source, variables = DeviceSplit(device_examples(), order()), teacher_variables()
    state, biases = step.init_state(spec, SHAPE), []
    assert step.eval_variables(state) is state.average
    run = single_program(spec)
    for _ in range(5):
        state, _ = run(state, source, variables, 1)
        biases.append(np.float64(state.variables["params"]["Dense_0"]["bias"]))
    # 1, 1, then 1/2, 1/3, 1/4: the mean of steps 2 to 5.
    averaged = state.average["params"]["Dense_0"]["bias"]
    assert_allclose(averaged, np.mean(biases[1:], axis=0), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_updated_batch_stats_are_those_of_the_averaged_weights():
    model, examples = models.create("resnet8", CLASSES + 1, width=2), device_examples()
    spec = linear_spec(
        model=model,
        teacher=None,
        objective=lambda *args: METHODS["gambler"](*args, hyper=HYPER),
        average_weight=lambda finished: jnp.float32(0.5),
        batch_size=10,
        steps_per_epoch=2,
    )
    state, _ = single_program(spec)(
        step.init_state(spec, SHAPE), DeviceSplit(examples, order()), None, 1
    )
    update = averaging.make_batch_stats_update(model, spec.batches, 9)
    newest = state.variables["batch_stats"]
    average = update(state.average, newest, examples, order(), state.step)
    jax.tree.map(np.testing.assert_array_equal, average["params"], state.average["params"])
    # The statistics of the stem in numpy: mean and variance of its convolution over both batches.
    kernel = np.float64(average["params"]["stem"]["Conv_0"]["kernel"])
    x = (random_split().images[np.asarray(order())] / 255 - 0.5) / 0.3
    padded = np.pad(x[..., 0], ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    outputs = np.einsum("nhwij,ijo->nhwo", windows, kernel[:, :, 0])
    halves = outputs.reshape(2, 10, 8, 8, -1)
    stem = average["batch_stats"]["stem"]["BatchNorm_0"]
    assert_allclose(stem["mean"], halves.mean((1, 2, 3)).mean(0), rtol=1e-4, atol=1e-5)
    assert_allclose(stem["var"], halves.var((1, 2, 3)).mean(0), rtol=1e-3)


class OwnMomentum(nn.Module):
    """A user's network: the momentum of its batch normalization is not kdjax's."""

    num_outputs: int
    momentum: float

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        norm = nn.BatchNorm(use_running_average=not train, momentum=self.momentum)
        return nn.Dense(self.num_outputs)(norm(images.reshape(len(images), -1)))


@pytest.mark.slow
@pytest.mark.parametrize("momentum", [0.5, 0.99])
def test_batch_statistics_of_a_users_network_do_not_depend_on_its_momentum(momentum):
    model = UserNetwork(OwnMomentum(CLASSES + 1, momentum), "test:OwnMomentum")
    spec, examples = linear_spec(batch_size=10, steps_per_epoch=2), device_examples()
    average = apply.init(model, jax.random.key(0), jnp.zeros((1, *SHAPE)))
    update = averaging.make_batch_stats_update(model, spec.batches, 2)
    updated = update(average, average["batch_stats"], examples, order(), jnp.int32(2))
    statistics = updated["batch_stats"]["BatchNorm_0"]
    x = flat_inputs(random_split())[np.asarray(order())].reshape(2, 10, -1)
    assert_allclose(statistics["mean"], x.mean(1).mean(0), rtol=1e-4, atol=1e-5)
    assert_allclose(statistics["var"], x.var(1).mean(0), rtol=1e-3)


class OwnStatistics(nn.Module):
    """A user's network with a frozen, a spectral and an ordinary normalization."""

    num_outputs: int

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        frozen = nn.BatchNorm(use_running_average=True, name="frozen")
        spectral = nn.SpectralNorm(nn.Dense(8, name="dense"), name="spectral")
        norm = nn.BatchNorm(use_running_average=not train, name="norm")
        hidden = spectral(frozen(images.reshape(len(images), -1)), update_stats=train)
        return nn.Dense(self.num_outputs)(norm(hidden))


@pytest.mark.slow
def test_variables_that_are_no_running_means_continue_those_of_the_newest_network():
    model = UserNetwork(OwnStatistics(CLASSES + 1), "test:OwnStatistics")
    spec, examples = linear_spec(batch_size=10, steps_per_epoch=2), device_examples()
    average = apply.init(model, jax.random.key(0), jnp.zeros((1, *SHAPE)))
    rng = np.random.default_rng(0)
    newest = jax.tree.map(
        lambda leaf: jnp.asarray(rng.uniform(0.5, 2, leaf.shape), leaf.dtype),
        average["batch_stats"],
    )
    update = averaging.make_batch_stats_update(model, spec.batches, 2)
    statistics = update(average, newest, examples, order(), jnp.int32(2))["batch_stats"]
    jax.tree.map(assert_array_equal, statistics["frozen"], newest["frozen"])
    # Two steps of the power iteration with the averaged weights, one for each batch.
    kernel = np.float64(average["params"]["dense"]["kernel"])
    mean, var = (np.float64(newest["frozen"][name]) for name in ("mean", "var"))
    inputs = (flat_inputs(random_split())[np.asarray(order())] - mean) / np.sqrt(var + 1e-5)
    u, of_batches = np.float64(newest["spectral"]["dense/kernel/u"]), []
    for x in inputs.reshape(2, 10, -1):
        v = u @ kernel.T / np.linalg.norm(u @ kernel.T)
        u = v @ kernel / np.linalg.norm(v @ kernel)
        sigma = (v @ kernel @ u.T).item()
        hidden = x @ kernel / sigma + np.float64(average["params"]["dense"]["bias"])
        of_batches.append((hidden.mean(0), hidden.var(0)))
    assert_allclose(statistics["spectral"]["dense/kernel/u"], u, rtol=1e-4, atol=1e-5)
    assert_allclose(statistics["spectral"]["dense/kernel/sigma"], sigma, rtol=1e-4)
    mean, var = np.mean(of_batches, axis=0)
    assert_allclose(statistics["norm"]["mean"], mean, rtol=1e-3, atol=1e-4)
    assert_allclose(statistics["norm"]["var"], var, rtol=1e-3)
