"""The training loop: one stage, of one network or of several that see the same batches."""

import contextlib
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from kdjax import config as configs
from kdjax import data, optimizer, parallel, stage, step, teaching, together
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
    """One network to train.

    Attributes:
        stage: teacher or student.
        folder: its workdir.
        config: resolved.
        recipe: of the epochs from `pretrain_epochs` on.
        pretrain_epochs: of cross-entropy before.
    """

    stage: str
    folder: pathlib.Path
    config: ConfigDict
    recipe: step.Recipe
    pretrain_epochs: int


class Desk(NamedTuple):
    """A job and where what becomes of it is written.

    Attributes:
        job: the job.
        checkpoints, log, recorder: its own.
        settle: `(state, train split, order) -> state` after an epoch, see `step.recalibrate`.
    """

    job: Job
    checkpoints: Checkpoints
    log: Log
    recorder: Recorder
    settle: Callable[..., step.TrainState]


def train(jobs: Sequence[Job], dataset: data.Dataset, teacher: teaching.Master | None) -> None:
    """Trains from the latest checkpoint that all jobs have, or from the start, to the last epoch.

    Args:
        jobs: of one stage, which see the same batches for the same number of epochs.
        dataset: theirs.
        teacher: of those that have one.

    Raises:
        FloatingPointError: if a loss is not finite.
        Preempted: after SIGTERM, once the states are saved.
    """
    first, recipe = jobs[0], jobs[0].recipe
    epochs = first.config[first.stage].epochs
    with contextlib.ExitStack() as stack:
        stores = [
            stack.enter_context(Checkpoints(job.folder / "checkpoints", job.config.to_dict()))
            for job in jobs
        ]
        states, clock = _resumed(jobs, stores, dataset.image_shape)
        done = int(states[0].step)
        if done >= epochs * recipe.steps_per_epoch:
            for job in jobs if parallel.primary() else ():
                print(f"{job.stage} in {job.folder} is finished: {done} steps")
            return
        train_split, dev = (
            stage.examples_of(dataset, name, first.config.data.placement)
            for name in ("train", "dev")
        )
        asked = teaching.prepare(
            teacher, [(job.config, job.recipe) for job in jobs], dataset, train_split
        )
        desks = [
            stack.enter_context(_desk(job, store, done, clock))
            for job, store in zip(jobs, stores, strict=True)
        ]
        preemption = stack.enter_context(Preemption())
        programs = _programs(jobs)
        begun = done
        for epoch in range(done // recipe.steps_per_epoch, epochs):
            # All that an epoch needs is on the devices before it begins.
            order = parallel.everywhere(
                epoch_order(len(train_split.labels), seed=recipe.order_seed, epoch=epoch)
            )
            run_steps = programs(epoch)
            for fed, count in calls(recipe, train_split, order, done % recipe.steps_per_epoch):
                states, metrics = run_steps(states, fed, asked, count)
                if done == begun:
                    taken = run_steps.memory(states, fed, asked, count)
                    desks[0].log.note(f"a step takes {taken / 2**20:,.0f} MiB of a device's memory")
                done += count
                for desk, values in zip(desks, metrics, strict=True):
                    desk.recorder.add(done, values)
                if preemption.asked(done) and done % recipe.steps_per_epoch:
                    for desk, state in zip(desks, states, strict=True):
                        desk.recorder.flush()
                        _save(desk, done, state, UNSCORED, {})
                    raise _stopped(first, done)
            # Before the checkpoints, so that the last ones are always good ones.
            for desk in desks:
                desk.recorder.flush()
            states = tuple(
                desk.settle(state, train_split, order)
                for desk, state in zip(desks, states, strict=True)
            )
            for desk, state in zip(desks, states, strict=True):
                measured = measure(desk.job, state, dev)
                desk.recorder.dev(done, measured)
                _save(desk, done, state, _score(desk.job, measured, epoch), measured)
            if preemption.asked(done):
                raise _stopped(first, done)


def _resumed(
    jobs: Sequence[Job], stores: Sequence[Checkpoints], image_shape: tuple[int, ...]
) -> tuple[step.States, float]:
    """Returns the states and the seconds trained so far: of the latest step that all jobs have."""
    states = [step.init_state(job.recipe, image_shape) for job in jobs]
    found = [store.latest(state) for store, state in zip(stores, states, strict=True)]
    while any(found):
        # A kill between two saves leaves some jobs one checkpoint ahead.
        together = min(one.step if one else 0 for one in found)
        if all(one and one.step == together for one in found):
            return tuple(one.state for one in found if one), max(one.clock for one in found if one)
        found = [
            store.latest(state, at_most=together)
            for store, state in zip(stores, states, strict=True)
        ]
    return tuple(states), 0.0


@contextlib.contextmanager
def _desk(job: Job, checkpoints: Checkpoints, done: int, clock: float) -> Iterator[Desk]:
    fields, recipe = job.config[job.stage], job.recipe
    with Log(
        job.folder,
        stage=job.stage,
        steps_per_epoch=recipe.steps_per_epoch,
        epochs=fields.epochs,
        batch_size=recipe.batch_size,
        done=done,
        clock=clock,
        silent=not parallel.primary(),
    ) as log:
        rate = optimizer.schedule(fields, recipe.steps_per_epoch)
        recorder = Recorder(log, checkpoints, every=job.config.log_every, rate=rate)
        yield Desk(job, checkpoints, log, recorder, step.recalibrate(recipe, fields.norm_batches))


def _programs(jobs: Sequence[Job]) -> Callable[[int], together.Program]:
    """Returns what runs the steps of an epoch: another program while some are pre-trained."""
    pretraining = [stage.pretraining(job.recipe) for job in jobs]

    @functools.cache
    def program(early: tuple[bool, ...]) -> together.Program:
        recipes = [
            before if is_early else job.recipe
            for before, job, is_early in zip(pretraining, jobs, early, strict=True)
        ]
        return together.train_steps(recipes)

    return lambda epoch: program(tuple(epoch < job.pretrain_epochs for job in jobs))


def calls(
    recipe: step.Recipe, examples: step.Examples, order: jax.Array, position: int
) -> Iterator[tuple[step.Fed, int]]:
    """Yields what each call is fed and how many steps it runs, from a position in an epoch on."""
    most = together.steps_per_call(examples)
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


def _score(job: Job, metrics: Mapping[str, float], epoch: int) -> float:
    name, early = job.config.best_metric, epoch < job.pretrain_epochs
    return configs.BEST_METRICS[name] * metrics[name] - PRETRAINING_HANDICAP * early


def _save(
    desk: Desk, done: int, state: step.TrainState, score: float, metrics: Mapping[str, float]
) -> None:
    desk.checkpoints.save(done, state, score=score, clock=desk.log.clock, metrics=metrics)


def _stopped(job: Job, done: int) -> Preempted:
    return Preempted(f"{job.stage} stopped by SIGTERM at step {done}, {SAVED}")
