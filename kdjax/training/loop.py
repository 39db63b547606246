"""The training loop of one stage."""

from collections.abc import Iterator, Sequence

import jax

from kdjax.data import Dataset
from kdjax.data.augment import order_program
from kdjax.data.batches import BatchSource, BatchSpec, Examples, iterate_batches, load_split
from kdjax.runtime import multihost, sharding
from kdjax.training import multi_student, rank_weights
from kdjax.training.host_teacher import HostTeacher
from kdjax.training.preemption import Preemption
from kdjax.training.spec import TrainSpec
from kdjax.training.teacher import Teacher, TeacherSource, prepare_teacher
from kdjax.training.train_group import TrainGroup, TrainJob


def train_stage(
    jobs: Sequence[TrainJob],
    dataset: Dataset,
    *,
    placement: str = "auto",
    teacher: Teacher | HostTeacher | None = None,
    teacher_cache: str = "auto",
) -> None:
    """Trains one stage from its latest checkpoint, or from the start, to the last epoch.

    Args:
        jobs: the network to train, or several that see the same batches for the same epochs.
        dataset: to train on.
        placement: of the training images, see `sharding.put_images`.
        teacher: of the networks whose spec has one.
        teacher_cache: `auto` or `off`, see `prepare_teacher`.

    Raises:
        FloatingPointError: if a loss is not finite.
        Preempted: after SIGTERM, once the state is checkpointed.
        KeyboardInterrupt: after Ctrl-C, once the state is checkpointed.
    """
    spec = jobs[0].spec
    # The group is closed first: it waits for the last checkpoint, which a signal must not prevent.
    with Preemption() as preemption, TrainGroup(jobs, dataset) as group:
        if group.step >= spec.total_steps:
            for job in jobs if multihost.is_primary() else ():
                print(f"{spec.stage} in {job.folder} is finished: {group.step} steps")
            return
        train_split, dev = (load_split(dataset, name, placement) for name in ("train", "dev"))
        source = _teacher_source(jobs, dataset, train_split, teacher, teacher_cache)
        train_split = _with_weights(jobs, dataset, train_split, teacher)
        group.open_logs()
        preemption.listen()
        _run_epochs(group, spec, train_split, dev, source, preemption)
    if preemption.recorded:  # while the last checkpoint was saved
        raise preemption.stopped(spec.stage, group.step)


def _run_epochs(
    group: TrainGroup,
    spec: TrainSpec,
    train_split: Examples,
    dev: Examples,
    teacher: TeacherSource,
    preemption: Preemption,
) -> None:
    """Runs the remaining epochs.

    Non-finite losses are detected before a checkpoint is saved, so that all checkpoints are finite.
    """
    steps_per_epoch = spec.batches.steps_per_epoch
    for epoch in range(group.step // steps_per_epoch, spec.epochs):
        # Placed before the epoch begins, so that no step waits for a transfer.
        order = order_program(len(train_split.labels))(spec.batches.order_seed, epoch)
        group.begin_epoch(epoch)
        start = group.step % steps_per_epoch
        for batch_source, count in iterate_calls(spec.batches, train_split, order, start, teacher):
            group.run_steps(epoch, batch_source, teacher, count)
            if preemption.requested() and group.step % steps_per_epoch:
                group.save()
                raise preemption.stopped(spec.stage, group.step)
        saved = group.end_epoch(epoch, train_split, order, dev)
        if preemption.requested():
            if not saved:
                group.save()
            raise preemption.stopped(spec.stage, group.step)


def _teacher_source(
    jobs: Sequence[TrainJob],
    dataset: Dataset,
    examples: Examples,
    teacher: Teacher | HostTeacher | None,
    cache: str,
) -> TeacherSource:
    specs = [job.spec for job in jobs if job.spec.teacher is not None]
    if teacher is None or not specs:
        return None
    first_epoch = min(spec.pretrain_epochs for spec in specs)
    return prepare_teacher(
        teacher,
        dataset,
        examples,
        specs[0].batches,
        epochs=specs[0].epochs - first_epoch,
        cache=cache,
        first_epoch=first_epoch,
    )


def _with_weights(
    jobs: Sequence[TrainJob],
    dataset: Dataset,
    examples: Examples,
    teacher: Teacher | HostTeacher | None,
) -> Examples:
    """Returns the train split with the weights of its examples, if a network needs them."""
    if teacher is None or all(job.spec.rank_weight_epoch is None for job in jobs):
        return examples
    size = jobs[0].spec.batches.batch_size
    weights = rank_weights.teacher_weights(teacher, dataset, examples, size)
    return examples._replace(weights=sharding.replicate(weights))


def iterate_calls(
    spec: BatchSpec,
    examples: Examples,
    order: jax.Array,
    position: int,
    teacher: TeacherSource = None,
) -> Iterator[tuple[BatchSource, int]]:
    """Yields the batch source and the number of steps of each call of an epoch.

    Args:
        spec: how batches are formed.
        examples: the train split.
        order: int32 [n], of the epoch.
        position: steps of the epoch that are done already.
        teacher: of the networks.
    """
    most_steps = multi_student.steps_per_call(examples, teacher)
    with iterate_batches(examples, order, spec.batch_size, position) as sources:
        while position < spec.steps_per_epoch:
            count = min(most_steps, spec.steps_per_epoch - position)
            yield next(sources), count
            position += count
