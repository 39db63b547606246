"""Jitted programs of train steps, and the training of several students on the same batches."""

import functools
import pathlib
from typing import Any

import flax.linen as nn
import jax
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
    linear_spec,
    order,
    single_program,
    streamed_examples,
    teacher_variables,
)

from kdjax import config as configs
from kdjax.data.batches import DeviceSplit
from kdjax.objectives import METHODS
from kdjax.runtime import sharding
from kdjax.training import host_teacher, multi_student, step
from kdjax.training.host_teacher import HostTeacher
from kdjax.training.optimizer import OptimizerOptions, make_optimizer
from kdjax.training.spec import Phase, TrainSpec, phase_spec, train_spec
from kdjax.training.teacher import OnlineTeacher

METADATA = {"class_names": ["a", "b", "c"], "train_examples": COUNT, "image_shape": SHAPE}


class Mlp(nn.Module):
    """A network with one hidden layer."""

    outputs: int

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        hidden = nn.relu(nn.Dense(5)(images.reshape(len(images), -1)))
        return nn.Dense(self.outputs)(hidden)


@pytest.fixture(scope="module")
def source() -> DeviceSplit:
    return DeviceSplit(device_examples(), order())


@pytest.fixture(scope="module")
def variables() -> dict[str, Any]:
    return teacher_variables()


@pytest.mark.slow
def test_scan_of_steps_equals_one_call_per_step(source, variables) -> None:
    run = single_program(linear_spec())
    state, losses = step.init_state(linear_spec(), SHAPE), []
    for _ in range(5):
        state, metrics = run(state, source, variables, 1)
        losses.append(metrics["loss"][0])
    scanned, metrics = run(step.init_state(linear_spec(), SHAPE), source, variables, 5)
    np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state, scanned
    )


@pytest.mark.slow
@pytest.mark.parametrize("stacked", [False, True])
def test_students_together_equal_each_trained_separately(
    stacked: bool, source: DeviceSplit, variables: dict[str, Any]
) -> None:
    def objective(method: str) -> Any:
        return lambda *args: METHODS[method](*args, hyper=HYPER)

    def optimizer(name: str) -> optax.GradientTransformation:
        options = OptimizerOptions(
            momentum=0.9, nesterov=True, weight_decay=0.01, decay_all=False, sam_rho=0.5
        )
        return make_optimizer(name, optax.constant_schedule(0.05), options)

    def self_adaptive(momentum: float) -> dict[str, Any]:
        hyper = HYPER.replace(target_momentum=momentum)
        objective = functools.partial(METHODS["self_adaptive"], hyper=hyper)
        return {"objective": objective, "target_momentum": momentum, "train_examples": COUNT}

    # Some of the same structure, whose layers may be vmapped, some of them without a teacher.
    specs = [
        linear_spec(),
        linear_spec(seed=3, objective=objective("gambler"), teacher=None),
        linear_spec(seed=7, teacher=None, **self_adaptive(0.5)),
        linear_spec(seed=7, teacher=None, **self_adaptive(0.9)),
        linear_spec(seed=5, optimizer=optimizer("sam")),
        linear_spec(seed=6, optimizer=optimizer("muon")),
        linear_spec(seed=4, model=Mlp(CLASSES + 1), objective=objective("ka")),
    ]
    program = multi_student.make_program(specs, stacked=stacked)
    teacher = OnlineTeacher(variables)
    states: Any = tuple(step.init_state(spec, SHAPE) for spec in specs)
    for _ in range(COUNT // BATCH):
        states, metrics = program(states, source, teacher, 1)
    for spec, state, values in zip(specs, states, metrics, strict=True):
        separate, run = step.init_state(spec, SHAPE), single_program(spec)
        for _ in range(COUNT // BATCH):
            separate, expected = run(separate, source, variables if spec.teacher else None, 1)
        # Muon divides by singular values, which amplifies rounding: weights differ by 1.4e-6 on a
        # CPU without AVX-512, where a step changes them by up to 0.05.
        close = functools.partial(
            np.testing.assert_allclose, rtol=1e-5, atol=5e-6 if spec is specs[5] else 1e-6
        )
        for actual, reference in ((state, separate), (values, expected)):
            assert jax.tree.structure(actual) == jax.tree.structure(reference)
            jax.tree.map(close, actual, reference)


def config_spec(stage: str, **fields: Any) -> TrainSpec:
    config = configs.base()
    config.update_from_flattened_dict({f"{stage}.batch_size": BATCH, "size": "laptop", **fields})
    return train_spec(configs.resolve(config), stage, METADATA)


@pytest.mark.parametrize(
    "stage, changes",
    [
        ("teacher", {"teacher.label_smoothing": 0.1, "teacher.average": "ema"}),
        ("student", {"objective.method": "kd", "objective.distill_warmup_epochs": 0.5}),
        ("student", {"objective.method": "self_adaptive", "objective.pretrain_epochs": 1}),
    ],
)
def test_networks_of_equal_configs_share_their_programs(stage, changes) -> None:
    def programs(**fields: Any) -> list[Any]:
        whole = config_spec(stage, **changes, **fields)
        specs = [phase_spec(whole, phase) for phase in Phase]
        return [multi_student.make_program([spec]).run for spec in specs]

    first = programs()
    assert len(set(first)) == 3  # pre-training, the objective, and with weights
    assert programs(seed=5, order_seed=6) == first  # seeds are arguments
    assert not {*programs(**{f"{stage}.learning_rate": 0.0123})} & {*first}


@pytest.mark.slow
def test_state_is_donated(source, variables) -> None:
    state = step.init_state(linear_spec(), SHAPE)
    single_program(linear_spec())(state, source, variables, 1)
    assert state.variables["params"]["Dense_0"]["kernel"].is_deleted()


def random_host_teacher() -> HostTeacher:
    rng = np.random.default_rng(0)
    return HostTeacher(
        lambda _, images, *__: rng.normal(size=(len(images), CLASSES)).astype(np.float32),
        *("random", ("train",), True, pathlib.Path()),
    )


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "log_every"), [("online", 17), ("host", 18)])
def test_memory_of_a_step_is_known_without_compiling_or_computing_again(
    kind: str, log_every: int, source, variables, caplog: pytest.LogCaptureFixture, monkeypatch
) -> None:
    # Other than in other tests, which would share the program.
    spec = linear_spec(log_every=log_every)
    program, teacher = (
        multi_student.make_program([spec]),
        OnlineTeacher(sharding.replicate(variables)) if kind == "online" else random_host_teacher(),
    )
    states: Any = (step.init_state(spec, SHAPE),)
    with jax.log_compiles():
        states, _ = program(states, source, teacher, 1)
        assert "Finished XLA compilation of jit(steps)" in caplog.text
        caplog.clear()
        monkeypatch.setattr(host_teacher, "batch_logits", lambda *_: pytest.fail("computed"))
        size = program.memory(states, source, teacher, 1)
    assert "Finished XLA compilation" not in caplog.text
    # At least the arguments; a step of so small a network needs less than four times as much.
    arguments = sum(leaf.nbytes for leaf in jax.tree.leaves((states, source)))
    assert arguments < size < 4 * arguments


def test_accelerators_run_many_steps_per_call_cpu_and_streams_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    examples, streamed = device_examples(), streamed_examples()
    assert multi_student.steps_per_call(examples) == multi_student.steps_per_call(streamed) == 1
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert multi_student.steps_per_call(examples) == multi_student.DEFAULT_STEPS_PER_CALL > 1
    assert multi_student.steps_per_call(streamed) == 1
