"""Writes the splits of a job, and its teacher's logits, for training with other libraries.

python -m experiments.paper.baselines.export_split cifar10-structure-in_sample-seed0 \\
    --file=split.npz [--teacher=WORKDIR] [--budget=laptop] [--set FIELD=VALUE ...]

With --teacher, the .npz file has the class logits of the teacher for the fixed views of the
training images (`teacher.views`), those that teach the job's own students. The other options are
those with which the job was run.
"""

import argparse
import dataclasses
import json
import pathlib
import shlex
import sys
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.paper import plan
from experiments.paper.baselines.exported import EVALUATED, TRAIN, Settings
from kdjax.data import Dataset
from kdjax.data.augment import sample_augmentation
from kdjax.data.batches import BatchSpec, load_split
from kdjax.errors import InputError, unknown_name_error
from kdjax.runs import restore, teachers
from kdjax.runtime import atomic_io
from kdjax.training import teacher_network
from kdjax.training.host_teacher import HostTeacher
from kdjax.training.spec import STUDENT, batch_spec
from kdjax.training.teacher import CachedViews, Teacher, prepare_teacher

METHOD = "kd"  # whose config is exported; the fields of all methods but the loss are the same


def main(arguments: Sequence[str]) -> None:
    """Writes the file."""
    options = _parser().parse_args(arguments)
    command = f"python -m experiments.paper.baselines.export_split {shlex.join(arguments)}"
    try:
        job = _find_job(options.job)
        changes = plan.parse_changes(options.changes)
        config = plan.config(job, options.budget, [METHOD], changes)
        dataset = restore.load_data(config)
        arrays = export(config, dataset, settings(job, config, dataset, command), options.teacher)
        options.file.parent.mkdir(parents=True, exist_ok=True)
        atomic_io.write_npz(options.file, arrays)
    except (InputError, OSError) as error:
        sys.exit(f"export_split: error: {error}")
    shapes = {name: array.shape for name, array in arrays.items() if array.ndim > 1}
    print(f"{options.file}: {', '.join(f'{name} {list(size)}' for name, size in shapes.items())}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.paper.baselines.export_split",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("job", help="its name, as `python -m experiments.paper status` prints it")
    parser.add_argument("--file", type=pathlib.Path, required=True, help="that is written")
    parser.add_argument("--teacher", type=pathlib.Path, help="workdir of a trained teacher")
    parser.add_argument("--budget", choices=plan.BUDGETS, default="laptop")
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", dest="changes")
    return parser


def _find_job(name: str) -> plan.Job:
    seed = name.rpartition("seed")[2]
    jobs = plan.jobs(plan.DATA, plan.SETTINGS, [int(seed)] if seed.isdecimal() else [0])
    by_name = {job.name: job for job in jobs}
    if name not in by_name:
        raise unknown_name_error("job", name, by_name)
    return by_name[name]


def settings(job: plan.Job, config: ConfigDict, dataset: Dataset, command: str) -> Settings:
    """Returns how the students of a job are trained.

    Args:
        job: which one.
        config: of the job, resolved.
        dataset: of the job.
        command: with which the split is exported.

    Raises:
        InputError: for a student of another width or with another optimizer than the baselines.
    """
    student, objective = config.student, config.objective
    for name, allowed in {"width": 0, "optimizer": "sgd", "average": "none"}.items():
        if student[name] != allowed:
            raise InputError(
                f"student.{name} {student[name]!r}: baselines can be trained with {allowed!r} only"
            )
    return Settings(
        job=dataclasses.asdict(job),
        command=command,
        model=student.model,
        mean=[float(value) for value in dataset.mean],
        std=[float(value) for value in dataset.std],
        pad=config.data.pad,
        flip=config.data.flip,
        epochs=student.epochs,
        batch_size=student.batch_size,
        learning_rate=student.learning_rate,
        momentum=student.momentum,
        nesterov=student.nesterov,
        weight_decay=student.weight_decay,
        warmup_epochs=student.warmup_epochs,
        pretrain_epochs=round(plan.PRETRAIN_FRACTION * student.epochs),
        payoff=objective.payoff,
        distill_weight=objective.distill_weight,
        temperature=objective.temperature,
        dtype=student.compute_dtype,
        eval_every=config.eval_every,
        seed=config.seed,
    )


def export(
    config: ConfigDict, dataset: Dataset, values: Settings, teacher: pathlib.Path | None
) -> Mapping[str, np.ndarray]:
    """Returns the arrays of the file, see `exported.Exported`.

    Args:
        config: of the job, resolved.
        dataset: of the job.
        values: of the job.
        teacher: workdir of its teacher, or None.

    Raises:
        InputError: if the teacher has no fixed views, or is not trained.
    """
    batches = batch_spec(config, STUDENT, len(dataset.train.labels))
    arrays = {
        "settings": np.array(json.dumps(dataclasses.asdict(values))),
        "classes": np.array(dataset.num_classes),
        "views": _views(batches, config.student.epochs, len(dataset.train.labels)),
    }
    for name in (TRAIN, *EVALUATED):
        split = getattr(dataset, name)
        arrays[f"{name}_images"] = np.asarray(split.images[np.arange(len(split.labels))])
        arrays[f"{name}_labels"] = np.asarray(split.labels, np.int64)
    if teacher is not None:
        arrays["teacher"] = _teacher_logits(teacher, config, dataset, batches)
    return arrays


def _views(batches: BatchSpec, epochs: int, examples: int) -> np.ndarray:
    """Returns the number of the augmentation of each image in each fixed view, int32 [V, n]."""
    indices = jnp.arange(examples, dtype=jnp.int32)
    views = [
        sample_augmentation(
            indices, seed=batches.order_seed, epoch=view, augmentation=batches.augmentation
        )
        for view in range(min(batches.views, epochs))
    ]
    return np.stack(views) if views else np.zeros((0, examples), np.int32)


def _teacher_logits(
    folder: pathlib.Path, config: ConfigDict, dataset: Dataset, batches: BatchSpec
) -> np.ndarray:
    """Returns the class logits of a teacher for all fixed views, float32 [V, n, m]."""
    if not batches.views:
        raise InputError("teacher.views is 0: a stored teacher needs fixed views of the images")
    loaded = teachers.load(folder, dataset)
    if isinstance(loaded, HostTeacher):
        teacher: Teacher | HostTeacher = loaded
    else:
        teacher = Teacher(*teacher_network.fold(*loaded), folder)
    source = prepare_teacher(
        teacher,
        dataset,
        load_split(dataset, TRAIN, config.data.placement),
        batches,
        epochs=config.student.epochs,
        cache="auto",
    )
    if not isinstance(source, CachedViews):
        raise InputError(
            "the teacher's logits of all views do not fit in memory: lower teacher.views"
        )
    return np.asarray(source.logits)[np.asarray(source.rows)]


if __name__ == "__main__":
    main(sys.argv[1:])
