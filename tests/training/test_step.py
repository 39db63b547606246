"""One train step of a linear network against its equations in float64."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.networks import (
    BATCH,
    CLASSES,
    COUNT,
    HYPER,
    SHAPE,
    device_examples,
    flat_inputs,
    linear_spec,
    order,
    random_split,
    single_program,
    teacher_variables,
    train_step,
)
from support.tiny_network import TinyNetwork

import kdjax.config
from kdjax import models
from kdjax.data.batches import DeviceSplit, make_batch
from kdjax.errors import InputError
from kdjax.objectives import METHODS
from kdjax.training import step
from kdjax.training import teacher as teachers
from kdjax.training.optimizer import OptimizerOptions, make_optimizer
from kdjax.training.spec import STUDENT, TrainSpec, pretraining_spec, train_spec
from kdjax.training.teacher import CachedTeacher, OnlineTeacher


@pytest.fixture(scope="module")
def source() -> DeviceSplit:
    return DeviceSplit(device_examples(), order())


@pytest.fixture(scope="module")
def teacher() -> OnlineTeacher:
    return OnlineTeacher(teacher_variables())


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def reference_loss(z: np.ndarray, t: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Gambler loss plus adjusted distillation, from the equations, in probabilities."""
    rows, q, p = np.arange(len(y)), softmax(z), softmax(t / 3.0)
    top = p.argmax(-1)
    adjusted = p.copy()
    adjusted[rows, y], adjusted[rows, top] = p[rows, top], p[rows, y]
    student = softmax(z[:, :CLASSES] / 3.0)
    divergence = (adjusted * (np.log(adjusted) - np.log(student))).sum(-1)
    return -np.log(q[rows, y] + q[:, -1] / 2.0) + 0.5 * 9.0 * divergence


@pytest.mark.slow
def test_step_follows_the_gradient_of_the_equations(source, teacher) -> None:
    spec = linear_spec(optimizer=optax.sgd(0.1))
    state = step.init_state(spec, SHAPE)
    kernel, bias = (
        np.float64(state.variables["params"]["Dense_0"][name]) for name in ("kernel", "bias")
    )
    indices = np.asarray(order())[:BATCH]
    x, y = flat_inputs(random_split())[indices], random_split().labels[indices]
    layer = teacher.variables["params"]["Dense_0"]
    t = x @ np.float64(layer["kernel"]) + np.float64(layer["bias"])

    after, metrics = train_step(spec, state, source, teacher)
    loss = reference_loss(x @ kernel + bias, t, y)
    np.testing.assert_allclose(metrics["loss"], loss.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["teacher_error"], (t.argmax(-1) != y).mean())
    correct = (x @ kernel + bias)[:, :CLASSES].argmax(-1) == y
    np.testing.assert_allclose(metrics["accuracy"], correct.mean())
    # Central differences of the reference, in float64, for every bias.
    for unit in range(CLASSES + 1):
        difference = np.zeros_like(bias)
        difference[unit] = 1e-6
        up, down = (
            reference_loss(x @ kernel + b, t, y).mean()
            for b in (bias + difference, bias - difference)
        )
        moved = np.float64(after.variables["params"]["Dense_0"]["bias"][unit]) - bias[unit]
        np.testing.assert_allclose(moved, -0.1 * (up - down) / 2e-6, rtol=1e-3, atol=1e-6)
    assert int(after.step) == 1


def sam(rho: float) -> optax.GradientTransformation:
    options = OptimizerOptions(
        momentum=0.0, nesterov=False, weight_decay=0.0, decay_all=False, sam_rho=rho
    )
    return make_optimizer("sam", optax.constant_schedule(0.1), options)


@pytest.mark.slow
def test_sam_step_follows_the_gradient_at_the_perturbed_weights(source) -> None:
    spec = linear_spec(
        optimizer=sam(0.4), teacher=None, objective=lambda *args: METHODS["ce"](*args, hyper=HYPER)
    )
    state = step.init_state(spec, SHAPE)
    layer = state.variables["params"]["Dense_0"]
    before = np.vstack([np.float64(layer["bias"]), np.float64(layer["kernel"])])
    indices = np.asarray(order())[:BATCH]
    x, y = flat_inputs(random_split())[indices], random_split().labels[indices]
    x = np.hstack([np.ones((BATCH, 1)), x])  # the first row of the weights is the bias

    def gradient(weights: np.ndarray) -> np.ndarray:
        """Of cross-entropy over the class logits; the abstention output has none."""
        wrong = softmax((x @ weights)[:, :CLASSES]) - np.eye(CLASSES)[y]
        return x.T @ np.pad(wrong, ((0, 0), (0, 1))) / BATCH

    first = gradient(before)
    second = gradient(before + 0.4 * first / np.linalg.norm(first))
    after, _ = train_step(spec, state, source, None)
    layer = after.variables["params"]["Dense_0"]
    moved = np.vstack([np.float64(layer["bias"]), np.float64(layer["kernel"])]) - before
    np.testing.assert_allclose(moved, -0.1 * second, rtol=1e-3, atol=1e-6)
    assert np.abs(second - first).max() > 0.01


@pytest.mark.slow
def test_batch_statistics_of_sam_are_those_of_the_weights_themselves(source, teacher) -> None:
    stats = []
    for optimizer in (optax.sgd(0.1), sam(5.0)):
        spec = linear_spec(model=TinyNetwork(CLASSES + 1), optimizer=optimizer)
        after, _ = train_step(spec, step.init_state(spec, SHAPE), source, teacher)
        stats.append(after.variables["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, *stats)


@pytest.mark.slow
def test_loss_is_the_sum_of_its_terms(source, teacher) -> None:
    spec = linear_spec()
    _, metrics = train_step(spec, step.init_state(spec, SHAPE), source, teacher)
    np.testing.assert_allclose(
        metrics["loss"], metrics["gambler"] + metrics["distillation"], rtol=1e-6
    )


@pytest.mark.slow
def test_epoch_contains_every_full_batch_of_the_order(source) -> None:
    labels = [
        np.asarray(make_batch(linear_spec().batches, source, jnp.int32(number)).labels)
        for number in range(COUNT // BATCH)
    ]
    np.testing.assert_array_equal(
        np.concatenate(labels), random_split().labels[np.asarray(order())]
    )


def test_batch_depends_on_the_epoch_of_the_step(source) -> None:
    spec = linear_spec(pad=2, flip=True)
    first, again, next_epoch = (
        make_batch(spec.batches, source, jnp.int32(number)).images for number in (1, 1, 6)
    )
    np.testing.assert_array_equal(first, again)
    assert np.any(first != next_epoch)  # the same position of another epoch: other crops


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["online", "cached"])
def test_bfloat16_computation_keeps_state_loss_and_logits_in_float32(kind: str, source) -> None:
    options = {"width": 2, "dtype": "bfloat16"}
    teacher_model = models.create("resnet8", CLASSES, **options)
    student_model = models.create("alexnet_small", CLASSES + 1, **options)
    spec = linear_spec(model=student_model, teacher=teacher_model)
    state = step.abstract_state(spec, SHAPE)
    variables = jax.eval_shape(
        lambda: teacher_model.init(jax.random.key(0), jnp.zeros((1, *SHAPE)), train=False)
    )
    cached = jax.ShapeDtypeStruct((1, COUNT, CLASSES), jnp.float32)
    teacher: Any = OnlineTeacher(variables) if kind == "online" else CachedTeacher(cached)
    after, metrics = jax.eval_shape(lambda *args: train_step(spec, *args), state, source, teacher)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves((after, metrics))}
    assert dtypes == {jnp.dtype(jnp.float32), jnp.dtype(jnp.int32)}
    batch = jax.eval_shape(lambda *args: make_batch(spec.batches, *args), source, state.step)
    logits = jax.eval_shape(
        lambda *args: teachers.teacher_logits(teacher_model, *args), teacher, batch
    )
    assert logits.dtype == jnp.float32


@pytest.mark.slow
def test_teacher_variables_are_not_trained(source, teacher) -> None:
    before = jax.tree.map(np.array, teacher.variables)
    spec = linear_spec(pad=1)
    single_program(spec)(step.init_state(spec, SHAPE), source, teacher.variables, 1)
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.asarray, teacher.variables))


def test_initial_state_is_a_function_of_the_seed() -> None:
    first, same, different = (step.init_state(linear_spec(seed=seed), SHAPE) for seed in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, first.variables, same.variables)
    kernels = [state.variables["params"]["Dense_0"]["kernel"] for state in (first, different)]
    assert np.any(kernels[0] != kernels[1])


def test_abstract_state_has_the_shapes_of_the_initial_state() -> None:
    initial = step.init_state(linear_spec(), SHAPE)
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), initial)
    abstract = step.abstract_state(linear_spec(), SHAPE)
    assert shapes == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), abstract)


def test_check_of_the_shapes_and_initial_state_trace_the_network_once() -> None:
    calls = []

    class Counted(nn.Module):
        @nn.compact
        def __call__(self, images: jax.Array, train: bool) -> jax.Array:
            calls.append(images.shape)
            return nn.Dense(CLASSES + 1)(images.reshape(len(images), -1))

    step.abstract_state(linear_spec(model=Counted()), SHAPE)
    for seed in (1, 2):
        step.init_state(linear_spec(model=Counted(), seed=seed), SHAPE)
    assert len(calls) == 1


def self_adaptive_spec(momentum: float, **changes: Any) -> TrainSpec:
    hyper = HYPER.replace(target_momentum=momentum)
    objective = functools.partial(METHODS["self_adaptive"], hyper=hyper)
    targets = {"target_momentum": momentum, "train_examples": COUNT}
    return linear_spec(teacher=None, objective=objective, **targets, **changes)


@pytest.mark.slow
def test_running_targets_follow_the_probabilities_of_the_labels(source) -> None:
    spec, expected = self_adaptive_spec(0.8), np.ones(COUNT)
    run, state = single_program(spec), step.init_state(spec, SHAPE)
    labels, inputs = random_split().labels, flat_inputs(random_split())
    for number in range(COUNT // BATCH + 1):  # one image batch is seen twice
        layer = jax.tree.map(np.float64, state.variables["params"]["Dense_0"])
        indices = np.asarray(order())[BATCH * number % COUNT :][:BATCH]
        logits = inputs[indices] @ layer["kernel"] + layer["bias"]
        own = softmax(logits[:, :CLASSES])[np.arange(BATCH), labels[indices]]
        expected[indices] = 0.8 * expected[indices] + 0.2 * own
        state, metrics = run(state, source, None, 1)
        log_q = np.log(softmax(logits))
        s = expected[indices]
        loss = -s * log_q[np.arange(BATCH), labels[indices]] - (1 - s) * log_q[:, -1]
        np.testing.assert_allclose(metrics["loss"], loss.mean(), rtol=1e-5)
        np.testing.assert_allclose(state.targets, expected, rtol=1e-5)
    assert state.targets.sharding.is_fully_replicated


@pytest.mark.slow
def test_pre_training_leaves_the_running_targets_at_their_start(source) -> None:
    spec = self_adaptive_spec(0.8, pretrain_epochs=1)
    state, metrics = train_step(pretraining_spec(spec), step.init_state(spec, SHAPE), source, None)
    np.testing.assert_array_equal(state.targets, np.ones(COUNT))
    assert "cross_entropy" in metrics


def test_methods_without_running_targets_have_no_state_for_them() -> None:
    assert step.init_state(linear_spec(), SHAPE).targets == {}


@pytest.mark.slow
def test_warm_up_of_the_distillation_weight_is_traced_and_starts_after_pre_training(
    source, teacher
) -> None:
    config = kdjax.config.base()
    config.update_from_flattened_dict(
        {
            "size": "laptop",
            "objective.method": "kd",
            "objective.distill_weight": 3.0,
            "objective.distill_warmup_epochs": 0.4,
            "objective.pretrain_epochs": 1,
            "student.batch_size": BATCH,
        }
    )
    metadata = {"class_names": ["a", "b", "c"], "train_examples": COUNT, "image_shape": SHAPE}
    warm = train_spec(kdjax.config.resolve(config), STUDENT, metadata)
    spec = linear_spec(objective=warm.objective, distill_warmup=warm.distill_warmup)
    full = linear_spec(
        objective=functools.partial(
            METHODS["kd"], hyper=HYPER.replace(distill_weight=3.0, temperature=4.0)
        )
    )
    assert pretraining_spec(warm).distill_warmup is None

    initial = step.init_state(spec, SHAPE)

    @jax.jit
    def distillation(count: jax.Array) -> tuple[jax.Array, ...]:
        state = initial.replace(step=count)
        return tuple(train_step(s, state, source, teacher)[1]["distillation"] for s in (spec, full))

    # Five steps in an epoch: the weight rises over two steps from step 5 on.
    shares = [np.divide(*distillation(jnp.int32(count))) for count in (5, 6, 7, 9)]
    np.testing.assert_allclose(shares, [0, 0.5, 1, 1], rtol=1e-5)
    assert distillation._cache_size() == 1


def test_dkd_of_two_classes_is_refused_when_the_spec_is_made() -> None:
    config = kdjax.config.base()
    config.objective.method, config.size = "dkd", "laptop"
    metadata = {"class_names": ["a", "b"], "train_examples": 500, "image_shape": SHAPE}
    with pytest.raises(
        InputError, match=r"'dkd' is not defined for 2 classes: .* use 'kd' or 'rld'"
    ):
        train_spec(kdjax.config.resolve(config), STUDENT, metadata)
