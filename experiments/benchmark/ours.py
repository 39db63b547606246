"""The kdjax worker: all that the benchmark knows of how kdjax trains.

`python -m experiments.benchmark.ours`, started by the driver, see `protocol`.
"""

import contextlib
import dataclasses
import functools
import importlib.metadata
import pathlib
import platform
import tempfile
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from experiments.benchmark import cases
from experiments.benchmark.ceiling import ceiling
from experiments.benchmark.protocol import Prepared, Reply, serve
from experiments.benchmark.reference import agreement
from kdjax import config as configs
from kdjax import loop, models, optimizer, stage, step, together
from kdjax.checkpoint import Checkpoints
from kdjax.compiler import compiled, keep_memory
from kdjax.data import Split
from kdjax.data.augment import epoch_order
from kdjax.report.logs import Log
from kdjax.report.recorder import Recorder

LIBRARIES = ("kdjax", "jax", "jaxlib", "flax", "optax")


@dataclasses.dataclass
class Job:
    """What is trained, and where it stands."""

    recipe: step.Recipe
    examples: step.Examples
    teacher: step.Teacher
    run: together.Program
    states: step.States
    done: int = 0

    def epoch(self, after: Callable[[int, step.Metrics], None]) -> None:
        """Trains one epoch; `after(finished steps, metrics)` is called after each call."""
        number = self.done // self.recipe.steps_per_epoch
        order = epoch_order(len(self.examples.labels), seed=self.recipe.order_seed, epoch=number)
        for fed, count in loop.calls(self.recipe, self.examples, order, 0):
            self.states, (metrics,) = self.run(self.states, fed, self.teacher, count)
            self.done += count
            after(self.done, metrics)
        jax.block_until_ready(self.states)


def describe() -> Reply:
    """Returns what this side is and runs on."""
    device = jax.default_backend()
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    flops, dtype = ceiling()
    return {
        "versions": {**versions, "python": platform.python_version()},
        "device": device,
        "device_name": "" if device == "cpu" else jax.devices()[0].device_kind,
        "ceiling_flops": flops,
        "ceiling_dtype": dtype,
    }


def prepare(
    held: contextlib.ExitStack,
    case: dict[str, Any],
    variant: dict[str, Any],
    batch: int,
    steps: int,
) -> Prepared:
    """Returns the turns of one variant, see `protocol.serve`."""
    if not case["student"]:
        return _reading(_config({"student": "alexnet"}, variant, batch), cases.INPUT_EPOCHS * steps)
    config = _config(case, variant, batch)
    name = stage.STUDENT if case["teacher"] else stage.TEACHER
    job = _job(config, name, variant, steps)
    recorder = _recorder(held, job.recipe, config, name)

    def epoch() -> None:
        job.epoch(recorder.add)
        recorder.flush()

    return Prepared(
        {cases.STEP: lambda: job.epoch(lambda *_: None), cases.EPOCH: epoch},
        parameters=sum(leaf.size for leaf in jax.tree.leaves(job.states[0].variables["params"])),
        flops=_flops(job),
        memory=_memory(job),
    )


def _config(case: dict[str, Any], variant: dict[str, Any], batch: int) -> ConfigDict:
    config = configs.base()
    config.student.model = case["student"]
    # A network without a teacher is trained as teachers are.
    config.teacher.model = case.get("teacher") or case["student"]
    config.student.compute_dtype = variant["dtype"]
    config.teacher.compute_dtype = variant["teacher_dtype"]
    for fields in (config.student, config.teacher):
        fields.batch_size, fields.learning_rate = batch, cases.LEARNING_RATE
    config.objective.payoff, config.objective.temperature = cases.PAYOFF, cases.TEMPERATURE
    config.log_every = cases.LOG_EVERY
    config.data.pad, config.data.flip = (0, False) if variant["cached"] else (cases.PAD, True)
    return configs.resolve(config)


def _recipe(
    config: ConfigDict, name: str, steps: int, teacher: nn.Module | None = None
) -> step.Recipe:
    count = steps * config[name].batch_size
    about = {"class_names": range(cases.CLASSES), "train_examples": count}
    return stage.recipe(config, name, about, teacher)


def _examples(recipe: step.Recipe) -> step.Examples:
    images, labels = cases.examples(recipe.steps_per_epoch * recipe.batch_size)
    mean, std = np.array([cases.MEAN, cases.STD], np.float32)
    return step.to_device(Split(images, labels), mean, std)


def _job(config: ConfigDict, name: str, variant: dict[str, Any], steps: int) -> Job:
    model: nn.Module | None = None
    teacher: step.Teacher = None
    if name == stage.STUDENT:
        taught_by = _recipe(config, stage.TEACHER, steps)
        variables = step.init_state(taught_by, cases.IMAGE_SHAPE).variables
        model, folded = models.fold(taught_by.model, variables)
        teacher = step.Live(folded)
    recipe = _recipe(config, name, steps, model)
    examples = _examples(recipe)
    if variant["cached"]:
        shape = (1, len(examples.labels), cases.CLASSES)
        teacher = step.Table(jax.random.normal(jax.random.key(0), shape))
    state = step.init_state(recipe, cases.IMAGE_SHAPE)
    return Job(recipe, examples, teacher, together.train_steps([recipe]), (state,))


def _recorder(
    held: contextlib.ExitStack, recipe: step.Recipe, config: ConfigDict, name: str
) -> Recorder:
    folder = pathlib.Path(held.enter_context(tempfile.TemporaryDirectory()))
    log = Log(
        folder,
        stage=name,
        steps_per_epoch=recipe.steps_per_epoch,
        epochs=config[name].epochs,
        batch_size=recipe.batch_size,
        done=0,
        clock=0.0,
    )
    checkpoints = Checkpoints(folder / "checkpoints", config.to_dict())
    rate = optimizer.schedule(config[name], recipe.steps_per_epoch)
    return Recorder(
        held.enter_context(log), held.enter_context(checkpoints), every=config.log_every, rate=rate
    )


def _first_call(job: Job) -> tuple[step.Fed, int]:
    order = epoch_order(len(job.examples.labels), seed=0, epoch=0)
    return next(loop.calls(job.recipe, job.examples, order, 0))


def _memory(job: Job) -> int:
    job.epoch(lambda *_: None)  # compiles
    fed, count = _first_call(job)
    return job.run.memory(job.states, fed, job.teacher, count)


def _flops(job: Job) -> float:
    """Returns the floating-point operations of one step, as XLA counts those of its program."""
    fed, _ = _first_call(job)
    one = jax.jit(functools.partial(step.train_step, job.recipe))
    counted: Any = one.lower(job.states[0], fed, job.teacher).cost_analysis()
    return float(counted["flops"])


def _reading(config: ConfigDict, steps: int) -> Prepared:
    """Returns the turn in which an epoch of images is gathered, augmented and normalized."""
    recipe = _recipe(config, stage.TEACHER, steps)
    examples = _examples(recipe)
    batch_at = compiled(lambda fed, done: step.batch_at(recipe, fed, done))

    def read() -> None:
        order = epoch_order(len(examples.labels), seed=recipe.order_seed, epoch=0)
        with step.feed(examples, order, recipe.batch_size) as fed:
            for done in range(steps):
                jax.block_until_ready(batch_at(next(fed), done))

    return Prepared({cases.INPUT: read})


if __name__ == "__main__":
    keep_memory()  # as kdjax.main does
    serve(prepare, describe=describe, agreement=agreement)
