"""One train step and its company, on networks of a few hundred weights."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import loop, models, parallel, step, together
from kdjax.data import Split
from kdjax.data.augment import epoch_order
from kdjax.data.batches import Ordered
from kdjax.data.records import Records
from kdjax.models.alexnet import AlexNet
from kdjax.objectives import METHODS, Hyper

CLASSES, SHAPE, COUNT, BATCH = 3, (8, 8, 1), 20, 4
HYPER = Hyper(payoff=2.0, weight=0.5, temperature=3.0)


class Linear(nn.Module):
    """A network whose steps can be followed by hand."""

    outputs: int

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        return nn.Dense(self.outputs)(images.reshape(len(images), -1))


def split(seed: int = 0) -> Split:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (COUNT, *SHAPE), dtype=np.uint8)
    return Split(images, rng.integers(0, CLASSES, COUNT, dtype=np.int32))


@pytest.fixture(scope="module")
def examples() -> step.Examples:
    return step.to_device(split(), np.full(1, 0.5, np.float32), np.full(1, 0.3, np.float32))


@pytest.fixture(scope="module")
def streamed(examples: step.Examples) -> step.Examples:
    images = split().images
    return examples._replace(images=Records(lambda at: images[at], np.arange(COUNT), SHAPE))


@pytest.fixture(scope="module")
def fed(examples: step.Examples) -> Ordered:
    return Ordered(examples, order())


def recipe(**changes: Any) -> step.Recipe:
    method = METHODS["ka_gambler_sum"]
    plain = step.Recipe(
        model=Linear(CLASSES + 1),
        objective=lambda *args: method(*args, hyper=HYPER),
        optimizer=optax.sgd(0.1, momentum=0.9, nesterov=True),
        average_weight=None,
        teacher=Linear(CLASSES),
        classes=CLASSES,
        seed=7,
        order_seed=7,
        steps_per_epoch=COUNT // BATCH,
        batch_size=BATCH,
        pad=0,
        flip=False,
    )
    return plain._replace(**changes)


@pytest.fixture(scope="module")
def teacher() -> step.Variables:
    return Linear(CLASSES).init(jax.random.key(5), jnp.zeros((1, *SHAPE)), train=False)


def steps_of(plan: step.Recipe) -> Callable:
    """`train_steps` of one network, as if there were never more."""
    run = together.train_steps([plan])

    def one(state: Any, fed: Any, variables: Any, count: int) -> tuple[Any, Any]:
        teacher = None if variables is None else step.Live(variables)
        (state,), (metrics,) = run((state,), fed, teacher, count)
        return state, metrics

    return one


def order(epoch: int = 0) -> jax.Array:
    return epoch_order(COUNT, seed=7, epoch=epoch)


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


def test_a_step_is_the_gradient_of_the_equations(fed: Ordered, teacher: Any) -> None:
    plan = recipe(optimizer=optax.sgd(0.1))
    state = step.init_state(plan, SHAPE)
    kernel, bias = (
        np.float64(state.variables["params"]["Dense_0"][name]) for name in ("kernel", "bias")
    )
    index = np.asarray(order())[:BATCH]
    x = (split().images[index].reshape(BATCH, -1) / 255 - 0.5) / 0.3
    y = split().labels[index]
    taught = teacher["params"]["Dense_0"]
    t = x @ np.float64(taught["kernel"]) + np.float64(taught["bias"])

    after, metrics = step.train_step(plan, state, fed, step.Live(teacher))
    loss = reference_loss(x @ kernel + bias, t, y)
    np.testing.assert_allclose(metrics["loss"], loss.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["corrected"], (t.argmax(-1) != y).mean())
    right = (x @ kernel + bias)[:, :CLASSES].argmax(-1) == y
    np.testing.assert_allclose(metrics["accuracy"], right.mean())
    # Central differences of the reference, in float64, for every bias.
    for unit in range(CLASSES + 1):
        nudge = np.zeros_like(bias)
        nudge[unit] = 1e-6
        up, down = (
            reference_loss(x @ kernel + b, t, y).mean() for b in (bias + nudge, bias - nudge)
        )
        moved = np.float64(after.variables["params"]["Dense_0"]["bias"][unit]) - bias[unit]
        np.testing.assert_allclose(moved, -0.1 * (up - down) / 2e-6, rtol=1e-3, atol=1e-6)
    assert int(after.step) == 1


def test_the_parts_add_up_to_the_loss(fed: Ordered, teacher: Any) -> None:
    _, metrics = step.train_step(
        recipe(), step.init_state(recipe(), SHAPE), fed, step.Live(teacher)
    )
    np.testing.assert_allclose(
        metrics["loss"], metrics["gambler"] + metrics["distillation"], rtol=1e-6
    )


def test_a_scan_of_steps_equals_one_call_a_step(fed: Ordered, teacher: Any) -> None:
    run = steps_of(recipe())
    one = step.init_state(recipe(), SHAPE)
    losses = []
    for _ in range(5):
        one, metrics = run(one, fed, teacher, 1)
        losses.append(metrics["loss"][0])
    many, metrics = run(step.init_state(recipe(), SHAPE), fed, teacher, 5)
    np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, many)


def test_an_epoch_sees_every_full_batch_of_the_order(fed: Ordered) -> None:
    seen = [np.asarray(step.batch_at(recipe(), fed, jnp.int32(number))[1]) for number in range(5)]
    np.testing.assert_array_equal(np.concatenate(seen), split().labels[np.asarray(order())])


def test_the_batch_depends_on_the_epoch_through_the_step(fed: Ordered) -> None:
    plan = recipe(pad=2, flip=True)
    first, again, later = (step.batch_at(plan, fed, jnp.int32(number))[0] for number in (1, 1, 6))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != later)  # the same position of another epoch: other crops


def test_the_state_is_donated(fed: Ordered, teacher: Any) -> None:
    state = step.init_state(recipe(), SHAPE)
    steps_of(recipe())(state, fed, teacher, 1)
    assert state.variables["params"]["Dense_0"]["kernel"].is_deleted()


def test_the_memory_of_a_step_is_known_without_compiling_it_again(
    fed: Ordered, teacher: Any, caplog: pytest.LogCaptureFixture
) -> None:
    plan = recipe()
    run, asked = together.train_steps([plan]), step.Live(parallel.everywhere(teacher))
    states: Any = (step.init_state(plan, SHAPE),)
    with jax.log_compiles():
        states, _ = run(states, fed, asked, 1)
        assert "Finished XLA compilation of jit(steps)" in caplog.text
        caplog.clear()
        taken = run.memory(states, fed, asked, 1)
    assert "Finished XLA compilation" not in caplog.text
    # What goes in has to lie there; no step of so small a network needs four times as much.
    given = sum(leaf.nbytes for leaf in jax.tree.leaves((states, fed)))
    assert given < taken < 4 * given


def test_an_epoch_moves_nothing_between_host_and_device(
    examples: step.Examples, teacher: Any
) -> None:
    plan = recipe(pad=1)
    run, states = together.train_steps([plan]), (step.init_state(plan, SHAPE),)
    asked = step.Live(parallel.everywhere(teacher))
    epochs = [parallel.everywhere(order(epoch)) for epoch in (0, 1)]
    states, _ = run(states, Ordered(examples, epochs[0]), asked, 1)  # compiles

    def epoch(visited: jax.Array, start: int) -> None:
        nonlocal states
        for fed, count in loop.calls(plan, examples, visited, start):
            states, _ = run(states, fed, asked, count)

    with jax.transfer_guard("disallow"):
        epoch(epochs[0], 1)
        epoch(epochs[1], 0)
    assert int(states[0].step) == 10
    # Not for want of a guard: a number that Python holds has to be moved.
    refused = pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device")
    with jax.transfer_guard("disallow"), refused:
        jnp.add(states[0].step, 1)


@pytest.mark.parametrize("asked", ["live", "table"])
def test_in_bfloat16_what_is_kept_and_what_is_minimized_stays_float32(
    asked: str, fed: Ordered, examples: step.Examples
) -> None:
    half = {"width": 2, "dtype": "bfloat16"}
    taught_by = models.create("resnet8", CLASSES, **half)
    plan = recipe(model=models.create("alexnet_small", CLASSES + 1, **half), teacher=taught_by)
    state = step.abstract_state(plan, SHAPE)
    variables = jax.eval_shape(
        lambda: taught_by.init(jax.random.key(0), jnp.zeros((1, *SHAPE)), train=False)
    )
    table = jax.ShapeDtypeStruct((1, COUNT, CLASSES), jnp.float32)
    teacher = step.Live(variables) if asked == "live" else step.Table(table)
    after, metrics = jax.eval_shape(lambda *args: step.train_step(plan, *args), state, fed, teacher)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves((after, metrics))}
    assert dtypes == {jnp.dtype(jnp.float32), jnp.dtype(jnp.int32)}
    batch = jax.eval_shape(lambda *args: step.batch_at(plan, *args), fed, state.step)
    logits = jax.eval_shape(lambda *args: step.said(plan, *args), teacher, batch)
    assert logits.dtype == jnp.float32


def test_the_frozen_teacher_gets_no_gradient_and_sees_the_students_images(
    fed: Ordered, teacher: Any
) -> None:
    before = jax.tree.map(np.array, teacher)
    run = steps_of(recipe(pad=1))
    run(step.init_state(recipe(), SHAPE), fed, teacher, 1)
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.asarray, teacher))


@pytest.mark.parametrize("batch_size", [1, 6, 20, 64])
def test_every_example_counts_once_whatever_the_batch(
    batch_size: int, examples: step.Examples, teacher: Any
) -> None:
    x = (split().images.reshape(COUNT, -1) / 255 - 0.5) / 0.3
    dense = teacher["params"]["Dense_0"]
    expected = x @ np.float64(dense["kernel"]) + np.float64(dense["bias"])
    found = step.predict(Linear(CLASSES), teacher, examples, batch_size=batch_size)
    assert found.shape == (COUNT, CLASSES)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_what_is_done_to_the_images_is_compiled_once_whatever_it_has_bound(
    examples: step.Examples, teacher: Any
) -> None:
    traced = []

    def darker(images: jax.Array, index: jax.Array, *, by: jax.Array) -> jax.Array:
        traced.append(by)
        return jnp.where(index[:, None, None, None] % 2 == 0, images // by, images)

    images, labels, mean, std = examples
    for by in (2, 3):
        dark = np.where(np.arange(COUNT)[:, None, None, None] % 2 == 0, images // by, images)
        expected = step.predict(
            Linear(CLASSES), teacher, step.Examples(dark, labels, mean, std), batch_size=6
        )
        change = jax.tree_util.Partial(darker, by=by)
        found = step.predict(Linear(CLASSES), teacher, examples, batch_size=6, change=change)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert len(traced) == 1


def test_the_average_follows_its_weights(fed: Ordered, teacher: Any) -> None:
    plan = recipe(average_weight=lambda done: jnp.where(done < 3, 1.0, 1 / (done - 1)))
    state, seen = step.init_state(plan, SHAPE), []
    assert step.deployed(state) is state.average
    run = steps_of(plan)
    for _ in range(5):
        state, _ = run(state, fed, teacher, 1)
        seen.append(np.float64(state.variables["params"]["Dense_0"]["bias"]))
    # 1, 1, then 1/2, 1/3, 1/4: the plain mean of steps 2 to 5.
    averaged = state.average["params"]["Dense_0"]["bias"]
    np.testing.assert_allclose(averaged, np.mean(seen[1:], axis=0), rtol=1e-5, atol=1e-6)


def test_recalibrated_statistics_are_those_of_the_averaged_weights(
    examples: step.Examples,
) -> None:
    model = models.create("resnet8", CLASSES + 1, width=2)
    plan = recipe(
        model=model,
        teacher=None,
        objective=lambda *args: METHODS["gambler"](*args, hyper=HYPER),
        average_weight=lambda done: jnp.float32(0.5),
        batch_size=10,
        steps_per_epoch=2,
    )
    state, _ = steps_of(plan)(step.init_state(plan, SHAPE), Ordered(examples, order()), None, 1)
    found = step.recalibrate(plan, batches=9)(state, examples, order()).average
    # The stem's statistics by hand: means and variances of its convolution over both batches.
    kernel = np.float64(found["params"]["stem"]["Conv_0"]["kernel"])
    x = (split().images[np.asarray(order())] / 255 - 0.5) / 0.3
    padded = np.pad(x[..., 0], ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    outputs = np.einsum("nhwij,ijo->nhwo", windows, kernel[:, :, 0])
    halves = outputs.reshape(2, 10, 8, 8, -1)
    stem = found["batch_stats"]["stem"]["BatchNorm_0"]
    np.testing.assert_allclose(stem["mean"], halves.mean((1, 2, 3)).mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(stem["var"], halves.var((1, 2, 3)).mean(0), rtol=1e-3)


def test_the_initial_state_is_a_function_of_the_seed() -> None:
    one, same, other = (step.init_state(recipe(seed=seed), SHAPE) for seed in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, one.variables, same.variables)
    kernels = [state.variables["params"]["Dense_0"]["kernel"] for state in (one, other)]
    assert np.any(kernels[0] != kernels[1])


def test_the_abstract_state_has_the_shapes_of_the_real_one() -> None:
    real = step.init_state(recipe(), SHAPE)
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), real)
    abstract = step.abstract_state(recipe(), SHAPE)
    assert shapes == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), abstract)


def test_accelerators_run_many_steps_a_call_the_cpu_and_a_stream_one(
    examples: step.Examples, streamed: step.Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert together.steps_per_call(examples) == together.steps_per_call(streamed) == 1
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert together.steps_per_call(examples) == together.STEPS_PER_CALL_ELSEWHERE > 1
    assert together.steps_per_call(streamed) == 1


def test_an_epoch_from_a_stream_ends_in_the_same_bits(
    examples: step.Examples, streamed: step.Examples
) -> None:
    # Little to compile, with batch normalization.
    layers = ((1, 3, 1, True), (2, 3, 1, False))
    model = AlexNet(CLASSES + 1, layers=layers, width=4, normalize=True)
    plan = recipe(
        model=model,
        teacher=None,
        objective=lambda *args: METHODS["gambler"](*args, hyper=HYPER),
        average_weight=lambda done: jnp.float32(0.5),
        pad=1,
        flip=True,
    )
    run, recalibrate = steps_of(plan), step.recalibrate(plan, batches=2)

    def epoch(split: step.Examples) -> tuple[Any, ...]:
        state, losses = step.init_state(plan, SHAPE), []
        with step.feed(split, order(), BATCH) as fed:
            for _ in range(plan.steps_per_epoch):
                state, metrics = run(state, next(fed), None, 1)
                losses.append(metrics["loss"])
        state = recalibrate(state, split, order())
        return state, losses, step.predict(model, step.deployed(state), split, batch_size=6)

    jax.tree.map(np.testing.assert_array_equal, epoch(examples), epoch(streamed))
