"""The jobs of the comparison: data sets x settings x teachers x seeds, and the config of each.

A job trains one teacher, and all methods together as its students. Further jobs train the methods
that have a payoff with other payoffs, from the same in-sample teacher.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from kdjax import config as configs
from kdjax import config_fields, config_files, recipes
from kdjax.errors import InputError
from kdjax.objectives import METHODS
from kdjax.runs.workdir import FREE_FIELDS

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
# Fields that the jobs themselves set.
RESERVED = ("name", "setting", "seed", "students", "objective.method", "objective.pretrain_epochs")


@dataclasses.dataclass(frozen=True)
class Job:
    """One run: a teacher, and the methods as its students.

    Attributes:
        data: one of `DATA`.
        setting: one of `SETTINGS`.
        teacher: one of `TEACHERS`.
        seed: of all networks of the job.
        payoff: of all its methods; None: that of the config.
    """

    data: str
    setting: str
    teacher: str
    seed: int
    payoff: float | None = None

    @property
    def name(self) -> str:
        """The name of its workdir and of its result files."""
        payoff = "" if self.payoff is None else f"-payoff{self.payoff:g}"
        return f"{self.data}-{self.setting}-{self.teacher}-seed{self.seed}{payoff}"


def jobs(
    data: Sequence[str],
    settings: Sequence[str],
    seeds: Sequence[int],
    names: Iterable[str] = tuple(METHODS),
    payoffs: Sequence[float] = (),
) -> list[Job]:
    """Returns the jobs that train a method, those of the first seed first.

    Args:
        data: of `DATA`.
        settings: of `SETTINGS`.
        seeds: of the jobs.
        names: methods, keys of `objectives.METHODS`.
        payoffs: for each of these there are further jobs, with the in-sample teacher.
    """
    names = list(names)
    variants: list[tuple[str, float | None]] = [(teacher, None) for teacher in TEACHERS]
    variants += [(IN_SAMPLE, payoff) for payoff in payoffs]
    candidates = (
        Job(name, setting, teacher, seed, payoff)
        for seed, name, setting, (teacher, payoff) in itertools.product(
            seeds, data, settings, variants
        )
    )
    return [job for job in candidates if methods(job, names)]


def methods(job: Job, names: Iterable[str]) -> list[str]:
    """Returns the methods that a job trains.

    Those without a teacher are trained with the in-sample teacher only, and those without a payoff
    with that of the config only.
    """
    return [
        name
        for name in names
        if (METHODS[name].needs_teacher or job.teacher == IN_SAMPLE)
        and (job.payoff is None or has_payoff(name))
    ]


def has_payoff(name: str) -> bool:
    """Returns whether a method of `objectives.METHODS` has a payoff."""
    return "payoff" in METHODS[name].fields


def parse_changes(changes: Iterable[str]) -> dict[str, str]:
    """Returns the changed fields of `--set FIELD=VALUE`; the config converts the values.

    Raises:
        InputError: for another form, or a field that the jobs set.
    """
    fields = {}
    for text in changes:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--set {text!r}: must be FIELD=VALUE")
        if name in RESERVED:
            raise InputError(
                f"--set {text!r}: every job sets {name} itself, from --data, --settings, --seeds "
                "and --methods"
            )
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
    if job.payoff is not None:
        result.objective.payoff = job.payoff
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


def differences(job: Job, made: tuple[str, Fields], wanted: tuple[str, Fields]) -> list[str]:
    """Returns a line `field: made -> wanted` for each field in which two commands differ.

    Fields that may change in a workdir, such as `data.dir`, are left out.

    Args:
        job: for which the configs are compared.
        made: budget and changed fields of one command, see `config`.
        wanted: those of the other one.
    """
    configs_of = (config(job, budget, (), changes).to_dict() for budget, changes in (made, wanted))
    lines = config_fields.differences(*configs_of)
    return [line for line in lines if line.partition(":")[0] not in FREE_FIELDS]


def teacher_job(job: Job, names: Iterable[str], seeds: Sequence[int], *, share: bool) -> Job | None:
    """Returns the job whose teacher a job uses; None if it trains its own, or needs none.

    It is the job of the first seed if all seeds share a teacher, and that with the payoff of the
    config.

    Args:
        job: which one.
        names: methods to train, keys of `objectives.METHODS`.
        seeds: of all jobs.
        share: whether all seeds share the teacher of the first one.
    """
    if not any(METHODS[name].needs_teacher for name in methods(job, names)):
        return None
    source = dataclasses.replace(job, seed=seeds[0] if share else job.seed, payoff=None)
    return None if source == job else source


def folder(job: Job, runs: pathlib.Path) -> pathlib.Path:
    """Returns the workdir of a job."""
    return runs / job.name
