"""One network in training, or several that see the same batches, behind one interface."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from kdjax import config as configs
from kdjax import selective
from kdjax.data import Dataset
from kdjax.data.batches import BatchSource, Examples
from kdjax.errors import InputError
from kdjax.runtime import multihost
from kdjax.training import averaging, collapse, data_init, inference, initial, multi_student, step
from kdjax.training.checkpoint import Checkpoints
from kdjax.training.initial import InitialWeights
from kdjax.training.optimizer import schedule_program
from kdjax.training.progress import Progress
from kdjax.training.recorder import Recorder
from kdjax.training.spec import Phase, TrainSpec, phase, phase_spec
from kdjax.training.stage_log import StageLog
from kdjax.training.step import TrainState
from kdjax.training.teacher import TeacherSource


@dataclasses.dataclass(frozen=True)
class TrainJob:
    """A network to train, and where its files go.

    Attributes:
        spec: what is trained, and how.
        folder: its workdir.
        config: stored with every checkpoint, as JSON values.
        initial: gives the weights with which the training starts; None: random ones.
    """

    spec: TrainSpec
    folder: pathlib.Path
    config: Mapping[str, Any]
    initial: Callable[[], InitialWeights] | None = None


class TrainRun:
    """One network in training, with its checkpoints, log and recorder."""

    def __init__(self, job: TrainJob, checkpoints: Checkpoints) -> None:
        """Binds a job to its open checkpoints; the log is opened by `open_log`."""
        self.job, self.spec, self.checkpoints = job, job.spec, checkpoints
        self._abstains = collapse.trains_abstention(job.spec.stage, job.config)
        self._collapse = collapse.Monitor(job.spec)
        self._update_batch_stats = averaging.make_batch_stats_update(
            job.spec.model, job.spec.batches, job.spec.bn_batches
        )

    def open_log(self, progress: Progress, name: str, step: int, clock: float) -> StageLog:
        """Opens the log, which the caller closes.

        Args:
            progress: of the group.
            name: of the network in the group; empty if it is the only one.
            step: steps finished before this session.
            clock: seconds trained before this session.
        """
        spec = self.spec
        self.log = StageLog(
            self.job.folder,
            progress,
            done=step,
            clock=clock,
            name=name,
            writers=spec.metric_writers,
            silent=not multihost.is_primary(),
        )
        self.recorder = Recorder(
            self.log,
            self.checkpoints,
            every=spec.log_every,
            learning_rate=schedule_program(spec.learning_rate),
        )
        self._note, self._name = progress.note, name
        if self._abstains and multihost.is_primary():  # only the primary process reports one
            self._collapse.replay(self.job.folder)
        return self.log

    def update_average(self, state: TrainState, examples: Examples, order: Any) -> TrainState:
        """Returns the state with the average's batch statistics recomputed, if it has one."""
        if not state.average:
            return state
        newest = state.variables.get("batch_stats", {})
        average = self._update_batch_stats(state.average, newest, examples, order, state.step)
        return state.replace(average=average)

    def evaluate_and_save(self, step: int, epoch: int, state: TrainState, dev: Examples) -> None:
        """Evaluates the network on dev after an epoch, and saves a scored checkpoint."""
        metrics = evaluate_on_dev(self.spec, state, dev, abstains=self._abstains)
        self.recorder.record_dev(step, metrics)
        if self._abstains and self._collapse.update(step, metrics["abstained"]):
            text = collapse.warning(metrics["abstained"], self.job.config)
            self._note(f"{self._name} {text}".lstrip())
        self.save(step, state, score=score(self.spec, metrics, epoch), metrics=metrics)

    def save(
        self,
        step: int,
        state: TrainState,
        *,
        score: float | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Saves a checkpoint; one within an epoch has neither score nor metrics."""
        self.checkpoints.save(step, state, score=score, clock=self.log.clock, metrics=metrics or {})


def evaluate_on_dev(
    spec: TrainSpec, state: TrainState, dev: Examples, *, abstains: bool = False
) -> dict[str, float]:
    """Returns the metrics on the development split of the weights that would be exported.

    Args:
        spec: of the network.
        state: of its training.
        dev: the split.
        abstains: whether to add `abstained`, see `collapse.abstained_share`.
    """
    logits = inference.predict_logits(
        spec.model, step.eval_variables(state), dev, batch_size=spec.eval_batch_size
    )
    metrics = selective.split_metrics(logits, np.asarray(dev.labels), spec.num_classes)
    return metrics | ({"abstained": collapse.abstained_share(logits)} if abstains else {})


def score(spec: TrainSpec, metrics: Mapping[str, float], epoch: int) -> float | None:
    """Returns the number by which the best checkpoint is chosen; higher is better.

    Args:
        spec: of the network.
        metrics: of the development split.
        epoch: that has just ended, from 0.

    Returns:
        None for an epoch of pre-training, in which the network has not learnt to abstain, unless
        all epochs are pre-training.
    """
    if epoch < spec.pretrain_epochs < spec.epochs:
        return None
    return configs.BEST_METRICS[spec.best_metric] * metrics[spec.best_metric]


def _no_common_step(stores: Sequence[Checkpoints]) -> InputError:
    steps = (f"{store.folder}: {', '.join(map(str, store.steps()))}" for store in stores)
    return InputError(
        f"there is no step of which all networks have a readable checkpoint ({'; '.join(steps)}); "
        "remove these folders to train from the start"
    )


def _first_state(job: TrainJob, state: TrainState, dataset: Dataset) -> TrainState:
    """Returns the state before the first step: given weights count more than those from images."""
    state = data_init.start(job.spec, state, dataset)
    return state if job.initial is None else initial.start(state, job.initial())


class TrainGroup(contextlib.AbstractContextManager):
    """The networks that are trained together; a context manager.

    Attributes:
        step: finished steps, the same for all networks.
    """

    def __init__(self, jobs: Sequence[TrainJob], dataset: Dataset) -> None:
        """Describes the group; entering the context restores it.

        Args:
            jobs: of one stage, with the same batches and number of epochs.
            dataset: to train on.
        """
        self._jobs, self._dataset = jobs, dataset
        self._stack = contextlib.ExitStack()
        self._memory_shown = False
        self._programs: dict[tuple[Phase, ...], multi_student.Program] = {}

    def __enter__(self) -> "TrainGroup":
        self._runs = [
            TrainRun(
                job,
                self._stack.enter_context(Checkpoints(job.folder / "checkpoints", job.config)),
            )
            for job in self._jobs
        ]
        try:
            self._states, self._clock = self._restore()
        except BaseException:
            self._stack.close()
            raise
        self.step = int(self._states[0].step)
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def _restore(self) -> tuple[multi_student.States, float]:
        """Returns the states of the latest step that all networks have, and the seconds so far."""
        states = [step.init_state(job.spec, self._dataset.image_shape) for job in self._jobs]
        stores = [run.checkpoints for run in self._runs]
        restored = [store.latest(state) for store, state in zip(stores, states, strict=True)]
        while any(restored):
            # A kill between two saves leaves some networks one checkpoint ahead of the others.
            common = min(checkpoint.step if checkpoint else 0 for checkpoint in restored)
            if all(checkpoint and checkpoint.step == common for checkpoint in restored):
                complete = [checkpoint for checkpoint in restored if checkpoint]
                return tuple(c.state for c in complete), max(c.clock for c in complete)
            restored = [
                store.latest(state, at_most=common)
                for store, state in zip(stores, states, strict=True)
            ]
        if all(store.steps() for store in stores):
            raise _no_common_step(stores)
        first = (
            _first_state(job, state, self._dataset)
            for job, state in zip(self._jobs, states, strict=True)
        )
        return tuple(first), 0.0

    def open_logs(self) -> None:
        """Opens the log of every network, and starts the progress bar."""
        spec = self._jobs[0].spec
        self._progress = Progress(
            spec.stage,
            steps_per_epoch=spec.batches.steps_per_epoch,
            epochs=spec.epochs,
            batch_size=spec.batches.batch_size,
            done=self.step,
            silent=not multihost.is_primary(),
        )
        for run in self._runs:
            name = run.job.folder.name if len(self._runs) > 1 else ""
            log = run.open_log(self._progress, name, self.step, self._clock)
            self._stack.enter_context(log)
        self._stack.enter_context(self._progress)

    def begin_epoch(self, epoch: int) -> None:
        """Says that pre-training has ended or that weights begin: losses are then others."""
        if epoch and any(epoch == run.spec.pretrain_epochs for run in self._runs):
            self._progress.note(f"pre-training has ended: epoch {epoch + 1} has another loss")
        if any(epoch == run.spec.rank_weight_epoch for run in self._runs):
            self._progress.note(
                f"from epoch {epoch + 1} on, losses are weighted by the rank of the teacher's "
                "confidence"
            )

    def run_steps(
        self, epoch: int, source: BatchSource, teacher: TeacherSource, count: int
    ) -> None:
        """Runs and records `count` steps of an epoch."""
        program = self._program(epoch)
        self._states, metrics = program(self._states, source, teacher, count)
        if not self._memory_shown:
            if size := program.memory(self._states, source, teacher, count):
                self._progress.note(f"a step takes {size / 2**20:,.0f} MiB of a device's memory")
            self._memory_shown = True
        self.step += count
        for run, values in zip(self._runs, metrics, strict=True):
            run.recorder.add(self.step, values)

    def _program(self, epoch: int) -> multi_student.Program:
        """Returns the program of an epoch, in which each network is in its own phase."""
        phases = tuple(phase(job.spec, epoch) for job in self._jobs)
        if phases not in self._programs:
            self._programs[phases] = multi_student.make_program(
                [
                    phase_spec(job.spec, job_phase)
                    for job, job_phase in zip(self._jobs, phases, strict=True)
                ]
            )
        return self._programs[phases]

    def end_epoch(self, epoch: int, examples: Examples, order: jax.Array, dev: Examples) -> bool:
        """Logs what is buffered; evaluates on dev and saves every network if it is time to.

        Returns:
            Whether the networks were saved, see `TrainSpec.is_evaluated`.
        """
        # Before the checkpoints, so that no network with a non-finite loss is saved; and before
        # the next epoch, which may log other terms of the loss.
        for run in self._runs:
            run.recorder.flush()
        if not self._jobs[0].spec.is_evaluated(epoch):
            return False
        self._states = tuple(
            run.update_average(state, examples, order)
            for run, state in zip(self._runs, self._states, strict=True)
        )
        for run, state in zip(self._runs, self._states, strict=True):
            run.evaluate_and_save(self.step, epoch, state, dev)
        return True

    def save(self) -> None:
        """Logs what is buffered and saves a checkpoint of every network, within an epoch."""
        for run, state in zip(self._runs, self._states, strict=True):
            run.recorder.flush()
            run.save(self.step, state)
