"""The effects of a config: what `pipeline.train` loads and trains, in comparable values."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from kdjax import data, pipeline
from kdjax.data import Dataset, Split
from kdjax.models import user_network
from kdjax.runs import restore, teacher_stage, workdir
from kdjax.runs.restore import RestoredModel
from kdjax.runtime import compiler
from kdjax.training import step
from kdjax.training.spec import TrainSpec
from support.networks import Linear

CLASSES, TRAIN_IMAGES = 10, 2000
STEPS = (0, 1, 2, 20, 200, 500, 1500, 2500)


def _dataset() -> Dataset:
    """Blank images; only their number and shape matter."""

    def split(count: int) -> Split:
        return Split(np.zeros((count, 8, 8, 1), np.uint8), np.zeros(count, np.int32))

    return Dataset(
        name="blank",
        version="1.0.0",
        class_names=tuple(map(str, range(CLASSES))),
        train=split(TRAIN_IMAGES),
        dev=split(200),
        calibration=split(200),
        test=split(200),
        mean=np.zeros(1, np.float32),
        std=np.ones(1, np.float32),
    )


def training_effects(
    config: ConfigDict, folder: pathlib.Path, patch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """Returns what `pipeline.train` does with a config, with loading and training replaced.

    Args:
        config: resolved.
        folder: an empty workdir.
        patch: replaces the functions that load and train.
    """
    effects: dict[str, Any] = {}

    def load(name: str, **options: Any) -> Dataset:
        effects["load"] = name, options
        return _dataset()

    def train_stage(jobs: Any, dataset: Dataset, *, teacher: Any = None, **options: Any) -> None:
        for job in jobs:
            where = str(job.folder.relative_to(folder))
            effects[where] = {
                **describe_spec(job.spec),
                "images": len(dataset.train.labels),
                "teacher trained here": teacher and teacher.folder == folder / "teacher",
                **options,
            }

    patch.setattr(data, "load", load)
    for module in (pipeline, teacher_stage):
        patch.setattr(module, "train_stage", train_stage)
    # These take longer than the rest, and have no effect but errors.
    patch.setattr(user_network, "check", lambda *arguments, **options: None)
    patch.setattr(step, "abstract_state", lambda *arguments: None)
    patch.setattr(compiler, "set_tuned", lambda tuned: effects.update(tuned=tuned))
    patch.setattr(restore, "restore", lambda _: RestoredModel(Linear(CLASSES), {}))
    pipeline.train(config, folder)
    effects["stage"] = workdir.read_metadata(folder)["stage"]
    return effects


def describe_spec(spec: TrainSpec) -> dict[str, Any]:
    """Returns the spec with its functions replaced by their values at fixed arguments."""
    average = spec.average_weight and _values(spec.average_weight, 1)
    return {
        "stage": spec.stage,
        "model": repr(spec.model),
        "seed": spec.seed,
        "pretrain_epochs": spec.pretrain_epochs,
        "teacher network": repr(spec.teacher),
        "objective": _losses(spec),
        "updates": _updates(spec.optimizer),
        "learning_rate": _values(spec.learning_rate),
        "average": average,
        "bn_batches": spec.bn_batches,
        "batches": repr(spec.batches),
        "rank_weight_epoch": spec.rank_weight_epoch,
        "epochs": spec.epochs,
        "eval_batch_size": spec.eval_batch_size,
        "best_metric": spec.best_metric,
        "log_every": spec.log_every,
        "eval_every": spec.eval_every,
        "metric_writers": spec.metric_writers,
    }


@functools.cache
def _values(schedule: Callable[[Any], Any], first: int = 0) -> list[float]:
    """Returns the values of a schedule, which may be constant, at all steps at once."""
    steps = jnp.array(STEPS) + first
    return np.broadcast_to(schedule(steps), steps.shape).tolist()


def _losses(spec: TrainSpec) -> dict[str, list[float]]:
    """Returns the terms of the loss; equal objectives have equal ones, and are called once."""
    outputs, objective = spec.num_classes + (spec.stage == "student"), spec.objective
    if spec.distill_warmup is not None:
        objective = functools.partial(objective, warmup=spec.distill_warmup(jnp.int32(20)))
    return _terms(objective, spec.num_classes, outputs)


@functools.cache
def _terms(objective: Callable[..., Any], classes: int, outputs: int) -> dict[str, list[float]]:
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(4, outputs)), jnp.float32)
    teacher_logits = jnp.asarray(rng.normal(size=(4, classes)), jnp.float32)
    _, terms = jax.jit(objective)(logits, teacher_logits, jnp.arange(4))
    return {name: np.asarray(value).tolist() for name, value in terms.items()}


@functools.cache
def _updates(transformation: optax.GradientTransformation) -> list[list[float]]:
    """Returns the parameters after two steps with the gradient 2 w^2."""
    bias = jnp.full(2, 0.5)
    params = {"kernel": jnp.full((2, 2), 0.5), "bias": bias, "BatchNorm_0": {"bias": bias}}

    def gradient(params: Any, step: Any = None) -> Any:
        return jax.tree.map(lambda leaf: 2 * leaf**2, params)

    optimizer = optax.with_extra_args_support(transformation)
    state = optimizer.init(params)
    for _ in range(2):
        updates, state = optimizer.update(gradient(params), state, params, grad_fn=gradient)
        params = jax.tree.map(jnp.add, params, updates)
    return [np.ravel(leaf).tolist() for leaf in jax.tree.leaves(params)]
