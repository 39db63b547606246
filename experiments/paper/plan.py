"""The jobs of the comparison: data sets x settings x teachers x seeds, and the config of each.

A job trains one teacher, and all methods together as its students.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from kdjax import config as configs
from kdjax import config_files, recipes
from kdjax.errors import InputError
from kdjax.objectives import METHODS

DATA = ("fashion_mnist", "cifar10", "cifar100", "svhn")
SETTINGS = ("structure", "depth")
IN_SAMPLE, OUT_OF_FOLD = "in_sample", "out_of_fold"
TEACHERS = (IN_SAMPLE, OUT_OF_FOLD)
FOLDS = 5

Fields = Mapping[str, Any]
# Recipe and fields of every job of a budget. `laptop` has networks that a CPU can train, `full` the
# pairs of the paper, for a GPU.
BUDGETS: Mapping[str, tuple[str, Fields]] = {
    "laptop": ("fast", {"size": "laptop", "eval_every": 5}),
    "full": (
        "standard",
        {"size": "paper", "student.epochs": 200, "teacher.views": 200, "eval_every": 10},
    ),
    "smoke": ("standard", {"size": "laptop", "smoke": True}),
}
# Methods and their fields. Each abstaining method that needs it starts with cross-entropy for a
# third of the epochs, as the public code of arXiv 1907.00208 does on CIFAR-10.
PRETRAIN_FRACTION = 1 / 3
PRETRAINED = ("gambler", "kd_gambler", "ka_gambler_sum", "ka_gambler_soft", "self_adaptive")
FIELDS: Mapping[str, Fields] = {
    "ka_gambler_soft": {"objective.temperature": 1.0},
    "self_adaptive": {"objective.target_momentum": 0.9},
    "dkd": {"objective.distill_warmup_epochs": 20.0},
    "rld": {"objective.distill_warmup_epochs": 20.0},
}


@dataclasses.dataclass(frozen=True)
class Job:
    """One run: a teacher, and the methods as its students.

    Attributes:
        data: one of `DATA`.
        setting: one of `SETTINGS`.
        teacher: one of `TEACHERS`.
        seed: of all networks of the job.
    """

    data: str
    setting: str
    teacher: str
    seed: int

    @property
    def name(self) -> str:
        """The name of its workdir and of its result files."""
        return f"{self.data}-{self.setting}-{self.teacher}-seed{self.seed}"


def jobs(data: Sequence[str], settings: Sequence[str], seeds: Sequence[int]) -> list[Job]:
    """Returns the jobs, those of the first seed first."""
    return [
        Job(name, setting, teacher, seed)
        for seed, name, setting, teacher in itertools.product(seeds, data, settings, TEACHERS)
    ]


def methods(job: Job, names: Iterable[str]) -> list[str]:
    """Returns the methods that a job trains: those without a teacher only with the first one."""
    return [name for name in names if METHODS[name].needs_teacher or job.teacher == IN_SAMPLE]


def parse_changes(changes: Iterable[str]) -> dict[str, str]:
    """Returns the changed fields of `--set FIELD=VALUE`; the config converts the values.

    Raises:
        InputError: for another form.
    """
    fields = {}
    for text in changes:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--set {text!r}: must be FIELD=VALUE")
        fields[name] = value
    return fields


def config(
    job: Job,
    budget: str,
    names: Iterable[str],
    changes: Fields,
    teacher: pathlib.Path | None = None,
) -> ConfigDict:
    """Returns the config of a job, resolved but for what depends on the device.

    The queue must not use the device, whose memory its jobs need.

    Args:
        job: which one.
        budget: a key of `BUDGETS`.
        names: methods to train, keys of `objectives.METHODS`.
        changes: further fields, which replace those of the budget.
        teacher: workdir of a job whose teacher is used; None: the job trains its own.

    Raises:
        InputError: for an unknown field, or a value out of range.
    """
    result = config_files.load(config_files.find(job.data))
    result.name, result.setting, result.seed = job.name, job.setting, job.seed
    recipe, fields = BUDGETS[budget]
    folds = FOLDS if job.teacher == OUT_OF_FOLD else 0
    fields = {"student.schedule": "cosine", "teacher.folds": folds, **fields, **changes}
    recipes.apply(result, recipe)
    result.update_from_flattened_dict(dict(fields))
    result = configs.convert_types(result)
    result.objective.pretrain_epochs = 0
    if teacher is not None:
        result.teacher.workdir, result.teacher.folds = str(teacher), 0
    pretraining = round(PRETRAIN_FRACTION * result.student.epochs)
    result.students = tuple(
        {
            "objective.method": name,
            **FIELDS.get(name, {}),
            **({"objective.pretrain_epochs": pretraining} if name in PRETRAINED else {}),
        }
        for name in methods(job, names)
    )
    return configs.resolve(result, devices=False)


def teacher_workdir(
    job: Job, seeds: Sequence[int], runs: pathlib.Path, *, share: bool
) -> pathlib.Path | None:
    """Returns the workdir of the job of the first seed if its teacher is used, or None."""
    if not share or job.seed == seeds[0]:
        return None
    return folder(dataclasses.replace(job, seed=seeds[0]), runs)


def folder(job: Job, runs: pathlib.Path) -> pathlib.Path:
    """Returns the workdir of a job."""
    return runs / job.name
