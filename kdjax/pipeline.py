"""The teacher stage, then the student stage, of one student or of several."""

import pathlib
from collections.abc import Callable, Iterable
from typing import Any

from ml_collections import ConfigDict

from kdjax import config_warnings
from kdjax.data import Dataset, dataset_metadata
from kdjax.data import own as own_images
from kdjax.models import user_network
from kdjax.models.features import check_features
from kdjax.objectives import METHODS
from kdjax.runs import initial_weights, restore, students, teacher_stage, teachers, workdir
from kdjax.runtime import atomic_io, compiler, multihost, sharding
from kdjax.selective.outliers import MAHALANOBIS
from kdjax.training import metric_writer, rank_weights, step, teacher_network
from kdjax.training.host_teacher import HostTeacher
from kdjax.training.initial import InitialWeights
from kdjax.training.loop import train_stage
from kdjax.training.spec import STUDENT, TEACHER, train_spec
from kdjax.training.teacher import Teacher
from kdjax.training.train_group import TrainJob


def student_workdirs(config: ConfigDict, folder: pathlib.Path) -> dict[pathlib.Path, ConfigDict]:
    """Returns the workdir and resolved config of each student; a single one uses the run's."""
    if not students.has_several(config):
        return {folder: config}
    return {
        students.student_folder(folder, name): student_config
        for name, student_config in students.expand(config).items()
    }


def train(config: ConfigDict, folder: pathlib.Path) -> Dataset:
    """Trains the networks of a config, from the latest checkpoints in the workdir.

    Args:
        config: resolved.
        folder: the workdir.

    Returns:
        The data set, for the evaluation that follows.

    Raises:
        InputError: if the workdir, the teacher or the data do not fit the config.
        FloatingPointError: if a loss is not finite.
        Preempted: after SIGTERM, once the state is checkpointed.
        KeyboardInterrupt: after Ctrl-C; during training, once the state is checkpointed.
    """
    metric_writer.check_names(config.metric_writers)
    configs = student_workdirs(config, folder)
    needs_teacher = any(map(_needs_teacher, configs.values()))
    for stage in (TEACHER, STUDENT) if needs_teacher else (STUDENT,):
        sharding.check_batch_size(f"{stage}.batch_size", config[stage].batch_size)
    if location := own_images.parse(config.data.name):
        own_images.check_outside(folder, "workdir", location)
    workdir.require_writable(folder)
    _check_same_run(config, folder)
    compiler.set_tuned(config.cpu_tuning)
    with multihost.primary_first("data prepared"):
        dataset = restore.load_data(config)
    _check_stages(config if needs_teacher else None, configs.values(), dataset)
    train_students(config, folder, dataset)
    return dataset


def train_students(
    config: ConfigDict,
    folder: pathlib.Path,
    dataset: Dataset,
    *,
    run: tuple[ConfigDict, pathlib.Path] | None = None,
) -> None:
    """Trains or loads the teacher, if a student needs one, and trains the students of a config.

    Args:
        config: resolved, of the students.
        folder: the workdir of the students.
        dataset: of the run.
        run: config and workdir of the run whose teacher they have; None: their own.

    Raises:
        See `train`.
    """
    configs = student_workdirs(config, folder)
    initial = {
        path: initial_weights.loader(fields, path, dataset) for path, fields in configs.items()
    }
    teacher = None
    if any(map(_needs_teacher, configs.values())):
        teacher = _train_or_load_teacher(*(run or (config, folder)), dataset)
    jobs = [
        _student_job(student_config, student_folder, dataset, teacher, initial[student_folder])
        for student_folder, student_config in configs.items()
    ]
    with multihost.primary_first("workdir claimed"):
        _claim_workdirs(config, folder, configs, dataset, teacher)
    train_stage(
        jobs,
        dataset,
        placement=config.data.placement,
        teacher=teacher,
        teacher_cache=config.teacher.cache,
    )


def _needs_teacher(config: ConfigDict) -> bool:
    return METHODS[config.objective.method].needs_teacher


def _check_stages(
    config: ConfigDict | None, students: Iterable[ConfigDict], dataset: Dataset
) -> None:
    """Raises for all that config and data set do not allow in any stage, before the first step.

    Args:
        config: of the run; None if no student needs a teacher.
        students: their configs.
        dataset: of the run.
    """
    for student in students:
        config_warnings.warn_of_student(student, dataset)
    if config is not None and not teachers.is_given(config):
        config_warnings.warn_of_warm_up(config, TEACHER)
    metadata = dataset_metadata(dataset)
    specs = [train_spec(student, STUDENT, metadata) for student in students]
    if config is not None and not teachers.is_given(config):
        specs.append(teacher_stage.check(config, dataset))
    networks = {spec.model: spec for spec in specs}
    for spec in networks.values():
        user_network.check(
            spec.model, dataset.image_shape, dataset.num_classes + (spec.stage == STUDENT)
        )
        step.abstract_state(spec, dataset.image_shape)  # raises for images that are too small
    for student, spec in zip(students, specs, strict=False):
        if student.selective.gate == MAHALANOBIS:
            check_features(spec.model, dataset.image_shape)


def _student_job(
    config: ConfigDict,
    folder: pathlib.Path,
    dataset: Dataset,
    teacher: Teacher | HostTeacher | None,
    initial: Callable[[], InitialWeights] | None,
) -> TrainJob:
    teacher_model = teacher.model if teacher and _needs_teacher(config) else None
    spec = train_spec(config, STUDENT, dataset_metadata(dataset), teacher_model)
    if spec.rank_weight_epoch is not None and isinstance(teacher, HostTeacher):
        rank_weights.check_clean(teacher)
    return TrainJob(spec, folder, config.to_dict(), initial)


def _claim_workdirs(
    config: ConfigDict,
    folder: pathlib.Path,
    configs: dict[pathlib.Path, ConfigDict],
    dataset: Dataset,
    teacher: Teacher | HostTeacher | None,
) -> None:
    """Writes or checks `config.json` of the run and of each student, and links their teacher."""
    metadata = dataset_metadata(dataset)
    if students.has_several(config):
        workdir.claim(folder, workdir.run_metadata(config, workdir.STUDENTS, metadata))
    for student_folder, student_config in configs.items():
        workdir.claim(student_folder, workdir.run_metadata(student_config, STUDENT, metadata))
        if teacher and student_folder != folder and _needs_teacher(student_config):
            workdir.link_teacher(student_folder, teacher.folder)


def finished_results(config: ConfigDict, folder: pathlib.Path) -> dict[pathlib.Path, Any] | None:
    """Returns the results of each student of a finished run by workdir; None if it is not finished.

    Raises:
        InputError: if the workdir belongs to another run, or its results are damaged.
    """
    _check_same_run(config, folder)
    paths = [path / "results.json" for path in student_workdirs(config, folder)]
    if not all(path.exists() for path in paths):
        return None
    return {path.parent: atomic_io.read_json(path) for path in paths}


def _check_same_run(config: ConfigDict, folder: pathlib.Path) -> None:
    stage = workdir.STUDENTS if students.has_several(config) else STUDENT
    workdir.check_same_run(folder, {"stage": stage, "config": config.to_dict()})


def _train_or_load_teacher(
    config: ConfigDict, folder: pathlib.Path, dataset: Dataset
) -> Teacher | HostTeacher:
    """Returns the teacher that the config names; trains it in the workdir if it names none."""
    if teachers.is_given(config):
        teacher_folder = teachers.set_up(config, folder, dataset)
    else:
        teacher_folder = folder / "teacher"
        teacher_stage.train(config, teacher_folder, dataset)
    loaded = teachers.load(teacher_folder, dataset)
    if isinstance(loaded, HostTeacher):
        return loaded
    # Folding makes the teacher faster; its logits change by rounding only.
    return Teacher(*teacher_network.fold(*loaded), teacher_folder)
