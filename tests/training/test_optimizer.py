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
from kdjax.models import apply
from kdjax.training import spec
from kdjax.training.optimizer import (
    OptimizerOptions,
    ScheduleOptions,
    learning_rate_schedule,
    make_optimizer,
)

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
    done = (step - warmup) / (total - warmup)
    if name == "linear":
        return options.learning_rate * (1 - done)
    return options.learning_rate * (1 + math.cos(math.pi * done)) / 2


@pytest.mark.parametrize("name", ["cosine", "step", "linear"])
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
@pytest.mark.parametrize("options", [ScheduleOptions, OptimizerOptions])
def test_every_option_is_a_field_of_each_stage(stage, options):
    names = {field.name for field in dataclasses.fields(options)} - {"last_layer"}
    missing = names - set(config.base()[stage])
    assert not missing, f"{options} has fields that config.{stage} does not have: {missing}"


def plain(**changes):
    """Returns the options of SGD without momentum, decay or anything else."""
    options = OptimizerOptions(momentum=0.0, nesterov=False, weight_decay=0.0, decay_all=False)
    return dataclasses.replace(options, **changes)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay_all", [False, True])
def test_optimizer_is_sgd_with_coupled_weight_decay(nesterov, decay_all):
    options = options_with(warmup_epochs=0.5)
    rng = np.random.default_rng(0)
    shapes = {"kernel": (2, 3), "bias": (3,)}
    start = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    gradients = [{n: rng.normal(size=s) for n, s in shapes.items()} for _ in range(5)]

    transform = make_optimizer(
        "sgd",
        learning_rate_schedule("cosine", options, steps_per_epoch=STEPS),
        plain(momentum=0.8, nesterov=nesterov, weight_decay=0.05, decay_all=decay_all),
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


@pytest.mark.parametrize("decay_all", [False, True])
def test_state_of_sgd_has_the_structure_of_earlier_checkpoints(decay_all):
    params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
    rate = optax.constant_schedule(0.1)
    mask = None if decay_all else lambda tree: jax.tree.map(lambda leaf: leaf.ndim > 1, tree)
    earlier = optax.chain(
        optax.add_decayed_weights(0.05, mask), optax.sgd(rate, 0.9, nesterov=True)
    )
    options = plain(momentum=0.9, nesterov=True, weight_decay=0.05, decay_all=decay_all)
    state = make_optimizer("sgd", rate, options).init(params)
    assert jax.tree.structure(state) == jax.tree.structure(earlier.init(params))


def test_biases_of_batch_norm_have_their_own_learning_rate():
    params = {
        "Conv_0": {"kernel": jnp.ones((1, 1, 2, 3)), "bias": jnp.ones(3)},
        "block": {"BatchNorm_0": {"bias": jnp.ones(3), "scale": jnp.ones(3)}},
        "own": {"bn1": {"bias": jnp.ones(3)}},
    }
    transform = make_optimizer("sgd", optax.constant_schedule(0.1), plain(bn_bias_factor=64.0))
    updates, _ = transform.update(params, transform.init(params), params)
    for bias in (updates["block"]["BatchNorm_0"]["bias"], updates["own"]["bn1"]["bias"]):
        assert_allclose(bias, -6.4, rtol=1e-6)
    for others in (*updates["Conv_0"].values(), updates["block"]["BatchNorm_0"]["scale"]):
        assert_allclose(others, -0.1, rtol=1e-6)


def quadratic(size):
    """Returns A, symmetric, and b: the loss w A w / 2 - b w has the gradient A w - b."""
    rng = np.random.default_rng(3)
    root = rng.normal(size=(size, size))
    return root @ root.T / size, rng.normal(size=size)


@pytest.mark.slow
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sam_steps_along_the_gradient_at_the_perturbed_weights(momentum):
    matrix, vector = quadratic(5)
    options = plain(momentum=momentum, weight_decay=0.01, decay_all=True, sam_rho=0.3)
    transform = make_optimizer("sam", optax.constant_schedule(0.05), options)

    def gradient(params, _=None):
        both = jnp.concatenate([params["a"], params["b"]])
        slope = jnp.float32(matrix) @ both - jnp.float32(vector)
        return {"a": slope[:2], "b": slope[2:]}

    w = np.linspace(-1, 1, 5)
    params = {"a": jnp.float32(w[:2]), "b": jnp.float32(w[2:])}
    state, velocity = transform.init(params), np.zeros(5)
    for _ in range(4):
        updates, state = transform.update(gradient(params), state, params, grad_fn=gradient)
        params = optax.apply_updates(params, updates)
        first = matrix @ w - vector
        second = matrix @ (w + 0.3 * first / np.linalg.norm(first)) - vector
        velocity = momentum * velocity + second + 0.01 * w
        w = w - 0.05 * velocity
    assert_allclose(np.concatenate([params["a"], params["b"]]), w, rtol=1e-5, atol=1e-6)


def test_sam_at_a_stationary_point_stays_there():
    params = {"kernel": jnp.ones((2, 2))}
    transform = make_optimizer("sam", optax.constant_schedule(0.1), plain())
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = transform.update(
        zero,
        transform.init(params),
        params,
        grad_fn=lambda moved, _: jax.tree.map(jnp.subtract, moved, params),
    )
    assert_allclose(updates["kernel"], 0)


@pytest.mark.slow
def test_muon_updates_kernels_as_matrices_and_the_others_as_adam():
    rng = np.random.default_rng(4)
    params = {
        "Conv_0": {"kernel": jnp.float32(rng.normal(size=(3, 3, 4, 6))), "bias": jnp.ones(6)},
        "Dense_0": {"kernel": jnp.float32(rng.normal(size=(6, 5)))},
        "head": {"Dense_0": {"kernel": jnp.float32(rng.normal(size=(5, 3)))}},
    }
    gradients = [
        jax.tree.map(lambda leaf: jnp.float32(rng.normal(size=leaf.shape)), params)
        for _ in range(3)
    ]
    last = frozenset({("params", "head", "Dense_0", "kernel")})
    options = plain(momentum=0.9, nesterov=True, weight_decay=0.1, last_layer=last)
    actual = run(make_optimizer("muon", optax.constant_schedule(0.02), options), params, gradients)

    def as_matrix(tree):
        return {"conv": tree["Conv_0"]["kernel"].reshape(-1, 6), "dense": tree["Dense_0"]["kernel"]}

    muon = optax.contrib.muon(0.02, beta=0.9, weight_decay=0.1, consistent_rms=0.2)
    matrices = run(muon, as_matrix(params), list(map(as_matrix, gradients)))
    assert_allclose(actual["Conv_0"]["kernel"].reshape(-1, 6), matrices["conv"], atol=1e-6)
    assert_allclose(actual["Dense_0"]["kernel"], matrices["dense"], atol=1e-6)

    adam = run(optax.nadam(0.02), params, gradients)
    assert_allclose(actual["Conv_0"]["bias"], adam["Conv_0"]["bias"], rtol=1e-6)
    head = actual["head"]["Dense_0"]["kernel"]
    assert_allclose(head, adam["head"]["Dense_0"]["kernel"], rtol=1e-5)


def run(transform, params, gradients):
    """Returns the parameters after an update with each of the gradients."""
    state, update = transform.init(params), jax.jit(transform.update)
    for gradient in gradients:
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_orthogonalized_update_has_equal_singular_values():
    rng = np.random.default_rng(5)
    params = {"Conv_0": {"kernel": jnp.zeros((3, 3, 2, 4))}}
    gradient = {"Conv_0": {"kernel": jnp.float32(rng.normal(size=(3, 3, 2, 4)))}}
    transform = make_optimizer("muon", optax.constant_schedule(1.0), plain(momentum=0.5))
    moved = run(transform, params, [gradient])["Conv_0"]["kernel"].reshape(18, 4)
    values = np.linalg.svd(np.asarray(moved) / (0.2 * np.sqrt(18)), compute_uv=False)
    assert np.all((values > 0.6) & (values < 1.3))
    overlap = np.vdot(moved, gradient["Conv_0"]["kernel"].reshape(18, 4))
    assert overlap < 0  # against the gradient


OWN = """
import flax.linen as nn

class Net(nn.Module):
    num_outputs: int

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.Conv(8, (3, 3), use_bias=False, name="conv1")(x)
        x = nn.BatchNorm(use_running_average=not train, name="bn1")(x)
        return nn.Dense(self.num_outputs, name="fc")(nn.relu(x).mean(axis=(1, 2)))
"""


def test_layers_of_a_users_network_are_found_by_their_shapes(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    base = config.base()
    base.name, base.student.model = "digits", f"{tmp_path / 'own.py'}:Net"
    base.student.optimizer, base.student.learning_rate = "muon", 0.02
    dataset = {
        "class_names": [*"0123456789"],
        "image_shape": [8, 8, 1],
        "train_examples": 1000,
        "mean": [0.5],
        "std": [0.3],
    }
    made = spec.train_spec(config.resolve(base), "student", dataset)
    params = apply.init(made.model, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))["params"]
    layer = spec.last_layer(config.resolve(base), "student", 10, (8, 8, 1))
    assert layer == {("params", "fc", "kernel"), ("params", "fc", "bias")}
    base.student.model = "resnet8"
    layer = spec.last_layer(config.resolve(base), "student", 10, (8, 8, 1))
    assert layer == {("params", "head", "Dense_0", name) for name in ("kernel", "bias")}
    rng = np.random.default_rng(6)
    gradient = jax.tree.map(lambda leaf: jnp.float32(rng.normal(size=leaf.shape)), params)
    updates, _ = made.optimizer.update(gradient, made.optimizer.init(params), params)
    sizes = {name: np.abs(updates[name]["kernel"]) for name in ("conv1", "fc")}
    # Adam's first update has the same size everywhere, that of a matrix has not.
    assert np.ptp(sizes["fc"]) < 1e-3 * sizes["fc"].max() < np.ptp(sizes["conv1"])
