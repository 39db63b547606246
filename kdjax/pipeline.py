"""The teacher stage, then the student stage, of one student or of several."""

import pathlib
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from ml_collections import ConfigDict

from kdjax.data import Dataset, dataset_metadata
from kdjax.data import own as own_images
from kdjax.evaluation import certification
from kdjax.models import user_network
from kdjax.models.features import check_features
from kdjax.objectives import METHODS
from kdjax.runs import initial_weights, restore, students, teacher_stage, teachers, workdir
from kdjax.runtime import atomic_io, compiler, multihost, sharding
from kdjax.selective import outliers
from kdjax.training import metric_writer, rank_weights, step, teacher_network
from kdjax.training.host_teacher import HostTeacher
from kdjax.training.initial import InitialWeights
from kdjax.training.loop import train_stage
from kdjax.training.spec import STUDENT, TEACHER, train_spec
from kdjax.training.teacher import Teacher
from kdjax.training.train_group import TrainJob

# Up to this ratio of the gradients of distillation and cross-entropy, dkd and rld need no warm-up:
# our choice. They diverged on digits at 16.
MAX_GRADIENT_RATIO = 10


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
    for stage in (TEACHER, STUDENT):
        sharding.check_batch_size(f"{stage}.batch_size", config[stage].batch_size)
    metric_writer.check_names(config.metric_writers)
    configs = student_workdirs(config, folder)
    if location := own_images.parse(config.data.name):
        own_images.check_outside(folder, "workdir", location)
    workdir.require_writable(folder)
    _check_same_run(config, folder)
    compiler.set_tuned(config.cpu_tuning)
    with multihost.primary_first("data prepared"):
        dataset = restore.load_data(config)
    needs_teacher = any(map(_needs_teacher, configs.values()))
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
        _warn_if_payoff_too_high(student, dataset.num_classes)
        _warn_if_soft_targets_collapse(student, dataset.num_classes)
        _warn_if_teacher_has_seen_the_images(student)
        _warn_if_distillation_starts_too_fast(student)
        _warn_if_calibration_is_too_small(student, len(dataset.calibration.labels))
        _warn_if_gate_stops_nothing(student, len(dataset.calibration.labels))
        _warn_if_training_ends_in_warm_up(student, STUDENT)
    if config is not None and not teachers.is_given(config):
        _warn_if_training_ends_in_warm_up(config, TEACHER)
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
        if student.selective.gate == outliers.MAHALANOBIS:
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


def _warn_if_payoff_too_high(config: ConfigDict, num_classes: int) -> None:
    fields = config.objective
    if "payoff" in METHODS[fields.method].fields and fields.payoff >= num_classes:
        warnings.warn(
            f"objective.payoff {fields.payoff} is not below the number of classes, {num_classes}: "
            f"abstaining never pays; choose a payoff between 1 and {num_classes}",
            RuntimeWarning,
            stacklevel=2,
        )


def _warn_if_calibration_is_too_small(config: ConfigDict, examples: int) -> None:
    """Warns if even without an error the calibration split cannot certify the requested risk."""
    risk, delta = config.selective.risk, config.selective.delta
    needed = certification.least_examples(risk, delta)
    if examples < needed and not config.smoke:
        warnings.warn(
            f"selective.risk {risk:g} cannot be certified with delta {delta:g} from {examples:,} "
            f"calibration images: {needed:,} are needed even without an error; choose a higher "
            "risk, or a larger data.calibration_fraction",
            RuntimeWarning,
            stacklevel=2,
        )


def _warn_if_training_ends_in_warm_up(config: ConfigDict, stage: str) -> None:
    fields = config[stage]
    if fields.warmup_epochs >= fields.epochs and not config.smoke:
        warnings.warn(
            f"{stage}.warmup_epochs {fields.warmup_epochs:g} is not below {stage}.epochs "
            f"{fields.epochs}: the learning rate does not fall after its warm-up",
            RuntimeWarning,
            stacklevel=2,
        )


def _warn_if_gate_stops_nothing(config: ConfigDict, examples: int) -> None:
    """Warns if the calibration split cannot certify the acceptance of any gate."""
    fields = config.selective
    needed = outliers.least_examples(fields.gate_acceptance, fields.delta)
    if fields.gate != outliers.NONE and examples < needed and not config.smoke:
        warnings.warn(
            f"selective.gate {fields.gate} will stop no image: {examples:,} calibration images "
            f"cannot certify that it passes {fields.gate_acceptance:g} of all images, {needed:,} "
            "are needed; choose a lower selective.gate_acceptance, or a larger "
            "data.calibration_fraction",
            RuntimeWarning,
            stacklevel=2,
        )


def _warn_if_soft_targets_collapse(config: ConfigDict, num_classes: int) -> None:
    """Warns of the setting in which `ka_gambler_soft` learns to abstain on every image."""
    fields = config.objective
    far_from_classes = fields.payoff < 0.9 * num_classes
    if fields.method == "ka_gambler_soft" and fields.temperature > 1 and far_from_classes:
        warnings.warn(
            f"objective.temperature {fields.temperature} with ka_gambler_soft: the student "
            "abstains where the teacher's largest probability is at most 1 / payoff = "
            f"{1 / fields.payoff:.2g}, possibly on every image; use "
            "--config.objective.temperature=1, or a payoff near the number of classes, "
            f"{num_classes}",
            RuntimeWarning,
            stacklevel=2,
        )


def _warn_if_teacher_has_seen_the_images(config: ConfigDict) -> None:
    """Warns of what depends on the teacher's errors, with one that hardly errs where it teaches."""
    fields = config.objective
    used = [f"objective.method {fields.method}"] * (fields.method == "reservation_distillation")
    if fields.rank_weight_start < 1:
        used.append(f"objective.rank_weight_start {fields.rank_weight_start:g}")
    if used and teachers.has_seen_train(config):
        warnings.warn(
            f"{' and '.join(used)} with a teacher that is trained on the same images: it "
            "hardly errs there, and the student does not learn where it errs on others; use "
            "--config.teacher.folds=5, or a teacher.workdir that was trained with it",
            RuntimeWarning,
            stacklevel=2,
        )


def _warn_if_distillation_starts_too_fast(config: ConfigDict) -> None:
    """Warns of `dkd` and `rld` at their full weight from the first step on."""
    fields = config.objective
    # The gradient of b T^2 KL is up to b T times that of cross-entropy.
    ratio = fields.distill_weight * fields.non_target_weight * fields.temperature
    decoupled = "non_target_weight" in METHODS[fields.method].fields
    if decoupled and ratio > MAX_GRADIENT_RATIO and not fields.distill_warmup_epochs:
        warnings.warn(
            f"objective.method {fields.method} without warm-up: the first gradients of distillation"
            f" are up to {ratio:g} times those of cross-entropy, with which training can diverge; "
            "use --config.objective.distill_warmup_epochs=20, or fewer in a short training",
            RuntimeWarning,
            stacklevel=2,
        )


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
