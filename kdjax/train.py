"""The teacher stage, then the student stage: one flat loop."""

import pathlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from kdjax import config as configs
from kdjax import data, objectives, optimizer, parallel, stage, step, workdir
from kdjax.checkpoint import Checkpoints
from kdjax.data.augment import epoch_order
from kdjax.errors import Preempted
from kdjax.preemption import Preemption
from kdjax.report.logs import Log
from kdjax.report.recorder import Recorder
from kdjax.report.results import split_metrics

# A checkpoint of the pre-training epochs must not win: it has not learnt to abstain yet.
PRETRAINING_HANDICAP = 1e6
# Nor must one that was saved within an epoch, without a look at dev.
UNSCORED = -1e12
SAVED = "which is saved: the same command continues"


class Job(NamedTuple):
    """One stage, ready to train.

    Attributes:
        name: teacher or student.
        folder: its workdir.
        config: resolved.
        recipe: of the epochs from `pretrain_epochs` on.
        pretrain_epochs: of cross-entropy before.
        teacher: frozen, or None.
    """

    name: str
    folder: pathlib.Path
    config: ConfigDict
    recipe: step.Recipe
    pretrain_epochs: int
    teacher: stage.Frozen | None


def run(config: ConfigDict, folder: pathlib.Path) -> data.Dataset:
    """Trains what the config asks for, from where the workdir stands.

    Args:
        config: resolved.
        folder: the workdir.

    Returns:
        The data set, for the evaluation that follows.

    Raises:
        InputError: if the workdir, the teacher or the data do not fit the config.
        FloatingPointError: if a loss is not finite.
        Preempted: after SIGTERM, once what was reached is saved.
    """
    for name in (stage.TEACHER, stage.STUDENT):
        parallel.check_batch(f"{name}.batch_size", config[name].batch_size)
    workdir.require_writable(folder)
    _check_same(config, folder)
    with parallel.primary_first("the data are prepared"):
        dataset = stage.load_data(config)
    about = workdir.describe(dataset)
    _warn_of_idle_payoff(config, dataset.num_classes)
    teacher = None
    if config.objective.method in objectives.WITH_TEACHER:
        teacher = _teacher(config, folder, dataset)
    model = teacher.model if teacher else None
    recipe = stage.recipe(config, stage.STUDENT, about, model)
    with parallel.primary_first("the workdir is claimed"):
        workdir.claim(folder, stage.identity(config, stage.STUDENT, about))
    pretrain = config.objective.pretrain_epochs
    train(Job(stage.STUDENT, folder, config, recipe, pretrain, teacher), dataset)
    return dataset


def _warn_of_idle_payoff(config: ConfigDict, classes: int) -> None:
    fields = config.objective
    if fields.method in objectives.WITH_ABSTENTION and fields.payoff >= classes:
        warnings.warn(
            f"objective.payoff {fields.payoff} is not below the number of classes, {classes}: "
            "abstaining never pays",
            RuntimeWarning,
            stacklevel=2,
        )


def finished(config: ConfigDict, folder: pathlib.Path) -> dict[str, Any] | None:
    """Returns the results of a run that was trained and evaluated to its end, or None.

    Raises:
        InputError: if the workdir is another run's, or its results are damaged.
    """
    _check_same(config, folder)
    path = folder / "results.json"
    return workdir.read_json(path) if path.exists() else None


def _check_same(config: ConfigDict, folder: pathlib.Path) -> None:
    workdir.check_same(folder, {"stage": stage.STUDENT, "config": config.to_dict()})


def _teacher(config: ConfigDict, folder: pathlib.Path, dataset: data.Dataset) -> stage.Frozen:
    """Returns the teacher of a workdir, trained here first if the config names none."""
    home = folder / "teacher"
    if config.teacher.workdir:
        given = workdir.teacher_folder(config.teacher.workdir)
        workdir.check_teacher(given, dataset, config.data)
        with parallel.primary_first("the teacher is linked"):
            workdir.link_teacher(folder, given)
        return stage.restore(given)
    about = workdir.describe(dataset)
    recipe = stage.recipe(config, stage.TEACHER, about, None)
    with parallel.primary_first("the teacher's folder is claimed"):
        workdir.claim(home, stage.identity(config, stage.TEACHER, about))
    train(Job(stage.TEACHER, home, config, recipe, 0, None), dataset)
    return stage.restore(home)


def train(job: Job, dataset: data.Dataset) -> None:
    """Trains one stage from its latest checkpoint, or from the start, to its last epoch.

    Raises:
        FloatingPointError: if a loss is not finite.
        Preempted: after SIGTERM, once the state is saved.
    """
    recipe, fields = job.recipe, job.config[job.name]
    epochs, rate = fields.epochs, optimizer.schedule(fields, recipe.steps_per_epoch)
    state, clock = step.init_state(recipe, dataset.image_shape), 0.0
    with Checkpoints(job.folder / "checkpoints", job.config.to_dict()) as checkpoints:
        if found := checkpoints.latest(state):
            state, clock = found.state, found.clock
        done = int(state.step)
        if done >= epochs * recipe.steps_per_epoch:
            if parallel.primary():
                print(f"{job.name} in {job.folder} is finished: {done} steps")
            return
        train_split, dev = (
            stage.examples_of(dataset, name, job.config.data.placement) for name in ("train", "dev")
        )
        teacher = job.teacher.variables if job.teacher else None
        pretrain_steps, method_steps = map(step.train_steps, (stage.pretraining(recipe), recipe))
        recalibrate = step.recalibrate(recipe, fields.norm_batches)
        with (
            Log(
                job.folder,
                stage=job.name,
                steps_per_epoch=recipe.steps_per_epoch,
                epochs=epochs,
                batch_size=recipe.batch_size,
                done=done,
                clock=clock,
                silent=not parallel.primary(),
            ) as log,
            Preemption() as preemption,
        ):
            recorder = Recorder(log, checkpoints, every=job.config.log_every, rate=rate)
            for epoch in range(done // recipe.steps_per_epoch, epochs):
                order = epoch_order(len(train_split.labels), seed=recipe.seed, epoch=epoch)
                pretrain = epoch < job.pretrain_epochs
                run_steps = pretrain_steps if pretrain else method_steps
                for fed, count in calls(recipe, train_split, order, done % recipe.steps_per_epoch):
                    state, metrics = run_steps(state, fed, teacher, count)
                    done += count
                    recorder.add(done, metrics)
                    if preemption.asked(done) and done % recipe.steps_per_epoch:
                        recorder.flush()
                        checkpoints.save(done, state, score=UNSCORED, clock=log.clock, metrics={})
                        raise Preempted(f"{job.name} stopped by SIGTERM at step {done}, {SAVED}")
                # Before the checkpoint, so that the last one is always a good one.
                recorder.flush()
                if recipe.average_weight:
                    state = recalibrate(state, train_split, order)
                measured = measure(job, state, dev)
                recorder.dev(done, measured)
                score = _score(job.config.best_metric, measured, pretrain)
                checkpoints.save(done, state, score=score, clock=log.clock, metrics=measured)
                if preemption.asked(done):
                    raise Preempted(f"{job.name} stopped by SIGTERM at step {done}, {SAVED}")


def calls(
    recipe: step.Recipe, examples: step.Examples, order: jax.Array, position: int
) -> Iterator[tuple[step.Fed, int]]:
    """Yields what each call is fed and how many steps it runs, from a position in an epoch on."""
    most = step.steps_per_call(examples)
    with step.feed(examples, order, recipe.batch_size, position) as fed:
        while position < recipe.steps_per_epoch:
            count = min(most, recipe.steps_per_epoch - position)
            yield next(fed), count
            position += count


def measure(job: Job, state: step.TrainState, dev: step.Examples) -> dict[str, float]:
    """Returns the metrics of the development split for the weights that would be deployed."""
    logits = step.predict(
        job.recipe.model, step.deployed(state), dev, batch_size=job.config.eval_batch_size
    )
    return split_metrics(logits, np.asarray(dev.labels), job.recipe.classes)


def _score(name: str, metrics: Mapping[str, float], pretrain: bool) -> float:
    return configs.BEST_METRICS[name] * metrics[name] - PRETRAINING_HANDICAP * pretrain
