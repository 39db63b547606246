"""The kdjax worker: trains with the functions that `kdjax.main` uses.

`python -m experiments.benchmark.kdjax_side`, started by the benchmark; see `protocol`.
"""

import contextlib
import dataclasses
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.benchmark import cases, ceiling
from experiments.benchmark.forward import forward_function
from experiments.benchmark.protocol import Prepared, Reply, serve, versions
from experiments.benchmark.reference import agreement
from kdjax import config as configs
from kdjax import models
from kdjax.data import Split, batches
from kdjax.data.augment import epoch_order
from kdjax.runtime.compiler import jit, tune_allocator
from kdjax.training import loop, multi_student, step
from kdjax.training import teacher as teachers
from kdjax.training.checkpoint import Checkpoints
from kdjax.training.progress import Progress
from kdjax.training.recorder import Recorder
from kdjax.training.spec import STUDENT, TEACHER, TrainSpec, train_spec
from kdjax.training.stage_log import StageLog

LIBRARIES = ("kdjax", "jax", "jaxlib", "flax", "optax")


@dataclasses.dataclass
class TrainingRun:
    """One network in training, with its data, its program and its state."""

    spec: TrainSpec
    examples: batches.Examples
    teacher: teachers.TeacherSource
    program: multi_student.Program
    states: multi_student.States
    steps_done: int = 0

    def train_epoch(self, after_call: Callable[[int, step.Metrics], None]) -> None:
        """Trains one epoch.

        Args:
            after_call: called with the finished steps and the metrics after each call of the
                program.
        """
        epoch = self.steps_done // self.spec.batches.steps_per_epoch
        order = epoch_order(
            len(self.examples.labels), seed=self.spec.batches.order_seed, epoch=epoch
        )
        for source, count in loop.iterate_calls(self.spec.batches, self.examples, order, 0):
            self.states, (metrics,) = self.program(self.states, source, self.teacher, count)
            self.steps_done += count
            after_call(self.steps_done, metrics)
        jax.block_until_ready(self.states)


def describe() -> Reply:
    """Returns versions, device, and the FLOP/s of matrix products on it."""
    device = jax.default_backend()
    return {
        "versions": versions(*LIBRARIES),
        "device": device,
        "device_name": "" if device == "cpu" else jax.devices()[0].device_kind,
        "ceilings": _ceilings(device),
    }


def _ceilings(device: str) -> dict[str, dict[str, float]]:
    side = ceiling.side_length(device)
    ceilings = {
        name: {"XLA": _rate_of_xla(side, dtype)}
        for name, dtype in ((ceiling.FLOAT32, jnp.float32), (ceiling.BFLOAT16, jnp.bfloat16))
    }
    if device == "cpu":
        matrix = np.ones((side, side), np.float32)
        ceilings[ceiling.FLOAT32]["numpy"] = ceiling.rate(
            lambda: matrix @ matrix, lambda _: None, side
        )
    return ceilings


def _rate_of_xla(side: int, dtype: Any) -> float:
    matrix, product = jnp.ones((side, side), dtype), jit(jnp.matmul)
    return ceiling.rate(lambda: product(matrix, matrix), jax.block_until_ready, side)


def prepare(
    resources: contextlib.ExitStack,
    case: dict[str, Any],
    variant: dict[str, Any],
    batch: int,
    steps: int,
) -> Prepared:
    """Returns a variant of a case, ready to be timed; see `protocol.serve`."""
    if not case["student"]:
        config = _config({"student": "alexnet"}, variant, batch)
        return _prepare_input(config, cases.INPUT_EPOCHS * steps)
    config = _config(case, variant, batch)
    stage = STUDENT if case["teacher"] else TEACHER
    run = _training_run(config, stage, variant, steps)
    recorder = _recorder(resources, run.spec, config)

    def epoch_with_log() -> None:
        run.train_epoch(recorder.add)
        recorder.flush()

    phases = {cases.STEP: lambda: run.train_epoch(lambda *_: None), cases.EPOCH: epoch_with_log}
    if not case["teacher"]:
        phases[cases.FORWARD] = _forward(case["student"], variant["dtype"], batch, steps)
    return Prepared(
        phases,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(run.states[0].variables["params"])),
        memory=_memory(run),
    )


def _config(case: dict[str, Any], variant: dict[str, Any], batch: int) -> ConfigDict:
    config = configs.base()
    config.student.model = case["student"]
    # A network without a teacher is trained in the teacher stage.
    config.teacher.model = case.get("teacher") or case["student"]
    config.student.compute_dtype = variant["dtype"]
    config.teacher.compute_dtype = variant["teacher_dtype"]
    for fields in (config.student, config.teacher):
        fields.batch_size, fields.learning_rate = batch, cases.LEARNING_RATE
    config.objective.payoff, config.objective.temperature = cases.PAYOFF, cases.TEMPERATURE
    config.log_every = cases.LOG_EVERY
    config.data.pad, config.data.flip = (0, False) if variant["cached"] else (cases.PAD, True)
    return configs.resolve(config)


def _spec(
    config: ConfigDict, stage: str, steps: int, teacher: nn.Module | None = None
) -> TrainSpec:
    count = steps * config[stage].batch_size
    metadata = {"class_names": range(cases.CLASSES), "train_examples": count}
    return train_spec(config, stage, metadata, teacher)


def _examples(spec: TrainSpec) -> batches.Examples:
    images, labels = cases.examples(spec.batches.steps_per_epoch * spec.batches.batch_size)
    mean, std = np.array([cases.MEAN, cases.STD], np.float32)
    return batches.put_split(Split(images, labels), mean, std)


def _training_run(
    config: ConfigDict, stage: str, variant: dict[str, Any], steps: int
) -> TrainingRun:
    teacher_model: nn.Module | None = None
    teacher: teachers.TeacherSource = None
    if stage == STUDENT:
        teacher_spec = _spec(config, TEACHER, steps)
        variables = step.init_state(teacher_spec, cases.IMAGE_SHAPE).variables
        teacher_model, folded = models.fold_batch_norm(teacher_spec.model, variables)
        teacher = teachers.OnlineTeacher(folded)
    spec = _spec(config, stage, steps, teacher_model)
    examples = _examples(spec)
    if variant["cached"]:
        shape = (1, len(examples.labels), cases.CLASSES)
        teacher = teachers.CachedTeacher(jax.random.normal(jax.random.key(0), shape))
    state = step.init_state(spec, cases.IMAGE_SHAPE)
    return TrainingRun(spec, examples, teacher, multi_student.make_program([spec]), (state,))


def _recorder(resources: contextlib.ExitStack, spec: TrainSpec, config: ConfigDict) -> Recorder:
    folder = pathlib.Path(resources.enter_context(tempfile.TemporaryDirectory()))
    progress = Progress(
        spec.stage,
        steps_per_epoch=spec.batches.steps_per_epoch,
        epochs=spec.epochs,
        batch_size=spec.batches.batch_size,
        done=0,
    )
    log = StageLog(folder, progress, done=0, clock=0.0)
    checkpoints = Checkpoints(folder / "checkpoints", config.to_dict())
    return Recorder(
        resources.enter_context(log),
        resources.enter_context(checkpoints),
        every=spec.log_every,
        learning_rate=spec.learning_rate,
    )


def _first_call(run: TrainingRun) -> tuple[batches.BatchSource, int]:
    order = epoch_order(len(run.examples.labels), seed=0, epoch=0)
    return next(loop.iterate_calls(run.spec.batches, run.examples, order, 0))


def _memory(run: TrainingRun) -> int | None:
    run.train_epoch(lambda *_: None)  # compiles
    source, count = _first_call(run)
    return run.program.memory(run.states, source, run.teacher, count)


def _forward(network: str, dtype: str, batch: int, steps: int) -> Callable[[], None]:
    """Returns forward passes as in evaluation, from uint8 images to logits in host memory."""
    function, (images, _) = jit(forward_function(network, dtype)), cases.examples(batch)

    def passes() -> None:
        for _ in range(steps):
            np.asarray(function(images))

    return passes


def _prepare_input(config: ConfigDict, steps: int) -> Prepared:
    """Returns the phase in which batches are taken, augmented and normalized."""
    spec = _spec(config, TEACHER, steps)
    examples = _examples(spec)
    make_batch = jit(lambda source, step: batches.make_batch(spec.batches, source, step))

    def read_epoch() -> None:
        order = epoch_order(len(examples.labels), seed=spec.batches.order_seed, epoch=0)
        with batches.iterate_batches(examples, order, spec.batches.batch_size) as sources:
            for step_index in range(steps):
                jax.block_until_ready(make_batch(next(sources), step_index))

    return Prepared({cases.INPUT: read_epoch})


if __name__ == "__main__":
    tune_allocator()  # as in kdjax.main
    serve(prepare, describe=describe, agreement=agreement)
