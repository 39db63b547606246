"""The teacher stage, then the student stage, of one student or of many."""

import pathlib
import warnings
from typing import Any

from ml_collections import ConfigDict

from kdjax import compiler, data, models, objectives, parallel, stage, students, workdir
from kdjax.loop import Job, train
from kdjax.stage import STUDENT, TEACHER
from kdjax.teaching import Master


def folders(config: ConfigDict, folder: pathlib.Path) -> dict[pathlib.Path, ConfigDict]:
    """Returns the workdir of each student, with its resolved config: the run's own if it is one."""
    if not config.students:
        return {folder: config}
    expanded = students.expand(config)
    return {students.folder_of(folder, name): own for name, own in expanded.items()}


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
    for name in (TEACHER, STUDENT):
        parallel.check_batch(f"{name}.batch_size", config[name].batch_size)
    own = folders(config, folder)
    workdir.require_writable(folder)
    _check_same(config, folder)
    compiler.tune(config.tuned)
    with parallel.primary_first("the data are prepared"):
        dataset = stage.load_data(config)
    teacher = _teacher(config, folder, dataset) if any(map(_asks, own.values())) else None
    jobs = [_job(one, where, dataset, teacher) for where, one in own.items()]
    with parallel.primary_first("the workdir is claimed"):
        about = workdir.describe(dataset)
        if config.students:
            workdir.claim(folder, stage.identity(config, stage.STUDENTS, about))
        for job in jobs:
            workdir.claim(job.folder, stage.identity(job.config, STUDENT, about))
            if teacher and job.folder != folder and _asks(job.config):
                workdir.link_teacher(job.folder, teacher.folder)
    train(jobs, dataset, teacher)
    return dataset


def _asks(config: ConfigDict) -> bool:
    return config.objective.method in objectives.WITH_TEACHER


def _job(
    config: ConfigDict, folder: pathlib.Path, dataset: data.Dataset, teacher: Master | None
) -> Job:
    _warn_of_idle_payoff(config, dataset.num_classes)
    model = teacher.model if teacher and _asks(config) else None
    recipe = stage.recipe(config, STUDENT, workdir.describe(dataset), model)
    return Job(STUDENT, folder, config, recipe, config.objective.pretrain_epochs)


def _warn_of_idle_payoff(config: ConfigDict, classes: int) -> None:
    fields = config.objective
    if fields.method in objectives.WITH_ABSTENTION and fields.payoff >= classes:
        warnings.warn(
            f"objective.payoff {fields.payoff} is not below the number of classes, {classes}: "
            "abstaining never pays",
            RuntimeWarning,
            stacklevel=2,
        )


def finished(config: ConfigDict, folder: pathlib.Path) -> dict[pathlib.Path, Any] | None:
    """Returns each student's results of a run that came to its end, by workdir, or None.

    Raises:
        InputError: if the workdir is another run's, or its results are damaged.
    """
    _check_same(config, folder)
    paths = [where / "results.json" for where in folders(config, folder)]
    if not all(path.exists() for path in paths):
        return None
    return {path.parent: workdir.read_json(path) for path in paths}


def _check_same(config: ConfigDict, folder: pathlib.Path) -> None:
    kind = stage.STUDENTS if config.students else STUDENT
    workdir.check_same(folder, {"stage": kind, "config": config.to_dict()})


def _teacher(config: ConfigDict, folder: pathlib.Path, dataset: data.Dataset) -> Master:
    """Returns the teacher of a workdir, trained here first if the config names none."""
    home = folder / "teacher"
    if config.teacher.workdir:
        home = workdir.teacher_folder(config.teacher.workdir)
        workdir.check_teacher(home, dataset, config.data)
        with parallel.primary_first("the teacher is linked"):
            workdir.link_teacher(folder, home)
    else:
        about = workdir.describe(dataset)
        recipe = stage.recipe(config, TEACHER, about, None)
        with parallel.primary_first("the teacher's folder is claimed"):
            workdir.claim(home, stage.identity(config, TEACHER, about))
        train([Job(TEACHER, home, config, recipe, 0)], dataset, None)
    # Cheaper, and the same but for rounding.
    return Master(*models.fold(*stage.restore(home)), home)
