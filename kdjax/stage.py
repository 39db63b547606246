"""A stage of a run: the network that a config asks for, its recipe, and how to get it back."""

import functools
import pathlib
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from kdjax import config as configs
from kdjax import data, losses, models, objectives, optimizer, step, workdir
from kdjax.checkpoint import Checkpoints
from kdjax.errors import InputError

TEACHER, STUDENT = "teacher", "student"
STUDENTS = "students"  # of a workdir in which several students have workdirs of their own


class Frozen(NamedTuple):
    """A trained network.

    Attributes:
        model: the network.
        variables: its params and batch_stats.
    """

    model: nn.Module
    variables: step.Variables


def load_data(config: ConfigDict) -> data.Dataset:
    """Returns the data set that the config names, cut down to `data.limit` images a split."""
    fields = config.data
    dataset = data.load(
        fields.name,
        data_dir=fields.dir or None,
        train_split=fields.train_split,
        test_split=fields.test_split,
        dev_fraction=fields.dev_fraction,
        calibration_fraction=fields.calibration_fraction,
        split_seed=fields.split_seed,
        stream=fields.pipeline == "stream",
    )
    return data.head(dataset, fields.limit) if fields.limit else dataset


def config_of(folder: pathlib.Path) -> ConfigDict:
    """Returns the config of a workdir; fields that came after its time have their defaults.

    Raises:
        InputError: if the folder is not a workdir.
    """
    config = configs.base()
    config.update(workdir.read(folder)["config"])
    return config


def data_of(folder: pathlib.Path, data_dir: str | None = None) -> data.Dataset:
    """Returns the data set of a workdir.

    Args:
        folder: the workdir.
        data_dir: of TFDS, if the data have moved since.

    Raises:
        InputError: if the folder is not a workdir, or the data set has changed.
    """
    config = config_of(folder)
    config.data.dir = data_dir or config.data.dir
    dataset = load_data(config)
    workdir.check_same(folder, {"dataset": workdir.describe(dataset)})
    return dataset


def network(config: ConfigDict, stage: str, classes: int) -> nn.Module:
    """Returns the stage's network: m outputs for a teacher, m+1 for a student."""
    fields = config[stage]
    width = {"width": fields.width} if fields.width else {}
    outputs = classes + (stage == STUDENT)
    return models.create(fields.model, outputs, dtype=fields.compute_dtype, **width)


def recipe(
    config: ConfigDict, stage: str, dataset: dict[str, Any], teacher: nn.Module | None
) -> step.Recipe:
    """Returns the recipe of a stage.

    Args:
        config: resolved.
        stage: teacher or student.
        dataset: as `workdir.describe` gives it.
        teacher: of a student whose method has one.

    Raises:
        InputError: if there are fewer training images than a batch holds.
    """
    fields, classes = config[stage], len(dataset["class_names"])
    examples = dataset["train_examples"]
    if fields.batch_size > examples:
        raise InputError(
            f"{stage}.batch_size {fields.batch_size} is more than the {examples} training images; "
            f"the largest that fits is {examples}"
        )
    steps_per_epoch = examples // fields.batch_size
    return step.Recipe(
        model=network(config, stage, classes),
        objective=_objective(config) if stage == STUDENT else _classify,
        optimizer=optimizer.optimizer(fields, steps_per_epoch),
        average_weight=optimizer.averaging(fields, steps_per_epoch),
        teacher=teacher,
        classes=classes,
        seed=config.seed,
        order_seed=config.order_seed,
        steps_per_epoch=steps_per_epoch,
        batch_size=fields.batch_size,
        pad=config.data.pad,
        flip=config.data.flip,
    )


def _classify(
    logits: jax.Array, teacher_logits: jax.Array | None, labels: jax.Array
) -> objectives.Loss:
    """Cross-entropy over all outputs: the objective of a teacher, which does not abstain."""
    loss = losses.cross_entropy(logits, labels)
    return loss, {"cross_entropy": loss}


def _objective(config: ConfigDict) -> step.Objective:
    method = objectives.METHODS[config.objective.method]
    return functools.partial(method, hyper=configs.hyper(config))


def pretraining(full: step.Recipe) -> step.Recipe:
    """Returns the recipe of the first epochs: cross-entropy on the class logits, no teacher."""
    ce = functools.partial(objectives.ce, hyper=objectives.Hyper())
    return full._replace(objective=ce, teacher=None)


def identity(config: ConfigDict, stage: str, dataset: dict[str, Any]) -> dict[str, Any]:
    """Returns what `config.json` of the stage's folder holds.

    A teacher's leaves out what it does not depend on, so that any student may use it.
    """
    fields = config.to_dict()
    if stage == TEACHER:
        shared = ("seed", "order_seed", "best_metric", "log_every", "eval_batch_size", "data")
        fields = {key: fields[key] for key in (*shared, TEACHER)}
        fields[TEACHER] = {
            k: v for k, v in fields[TEACHER].items() if k not in ("workdir", "cache")
        }
    return {"stage": stage, "config": fields, "dataset": dataset}


def restore(folder: pathlib.Path) -> Frozen:
    """Returns the network of a workdir from its best checkpoint.

    Raises:
        InputError: if the folder is not a workdir, or its training has not come to its end.
    """
    found = workdir.read(folder)
    if found["stage"] == STUDENTS:
        there = ", ".join(sorted(path.name for path in (folder / STUDENTS).glob("*")))
        raise InputError(f"{str(folder)!r} holds several students: name one of {there}")
    config, dataset = config_of(folder), found["dataset"]
    parts = recipe(config, found["stage"], dataset, teacher=None)
    template = step.abstract_state(parts, tuple(dataset["image_shape"]))
    with Checkpoints(folder / "checkpoints", found["config"]) as checkpoints:
        best, done = checkpoints.best(template), max(checkpoints.steps(), default=0)
    total = config[found["stage"]].epochs * parts.steps_per_epoch
    if best is None or done < total:
        raise InputError(
            f"the training in {str(folder)!r} is not finished (step {done} of {total}): "
            "its command continues it"
        )
    return Frozen(parts.model, step.deployed(best.state))


def examples_of(dataset: data.Dataset, split: str, placement: str = "auto") -> step.Examples:
    """Returns a split of the data set for the steps, its images as `step.to_device` has them."""
    return step.to_device(getattr(dataset, split), dataset.mean, dataset.std, placement)
