"""One train step of a linear network against its equations in float64."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.networks import (
    BATCH,
    CLASSES,
    COUNT,
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

from kdjax import models
from kdjax.data.batches import DeviceSplit, make_batch
from kdjax.training import step
from kdjax.training import teacher as teachers
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


def test_loss_is_the_sum_of_its_terms(source, teacher) -> None:
    spec = linear_spec()
    _, metrics = train_step(spec, step.init_state(spec, SHAPE), source, teacher)
    np.testing.assert_allclose(
        metrics["loss"], metrics["gambler"] + metrics["distillation"], rtol=1e-6
    )


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
