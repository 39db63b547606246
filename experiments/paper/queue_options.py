"""The options of the queue, and the command that result files record."""

import argparse
import itertools
import math
import pathlib
import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NoReturn

from experiments.paper import plan
from kdjax.errors import InputError, unknown_name_error
from kdjax.objectives import METHODS

RESULTS = pathlib.Path(__file__).parents[1] / "results" / "paper"
RUN = "python -m experiments.paper run "
SHOWN_DIFFERENCES = 4
# Option -> what its values name, and the valid names.
NAMES: Mapping[str, tuple[str, Collection[str]]] = {
    "data": ("data set", plan.DATA),
    "settings": ("setting", plan.SETTINGS),
    "methods": ("method", METHODS),
}


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the options to a parser."""
    parser.add_argument("--budget", choices=plan.BUDGETS, default="laptop")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    defaults = {"data": ["cifar10"], "settings": ["structure"], "methods": list(METHODS)}
    for name, (_, allowed) in NAMES.items():
        parser.add_argument(
            f"--{name}",
            nargs="+",
            metavar="NAME",
            default=defaults[name],
            help=f"of {', '.join(allowed)}",
        )
    parser.add_argument(
        "--payoffs",
        nargs="+",
        type=float,
        default=[],
        help="train the methods that have a payoff with these too; table chooses one on dev",
    )
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", dest="changes")
    parser.add_argument(
        "--share-teacher", action="store_true", help="all seeds have the teacher of the first one"
    )
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/paper"))
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS, help="of the result files")


def arguments(options: argparse.Namespace) -> list[str]:
    """Returns the arguments that determine the jobs and their configs."""
    words = [f"--budget={options.budget}", "--data", *options.data]
    words += ["--settings", *options.settings, "--seeds", *map(str, options.seeds)]
    words += ["--methods", *options.methods]
    if options.payoffs:
        words += ["--payoffs", *(f"{payoff:g}" for payoff in options.payoffs)]
    words += ["--share-teacher"] if options.share_teacher else []
    return words + (["--set", *options.changes] if options.changes else [])


def jobs(options: argparse.Namespace) -> list[plan.Job]:
    """Returns the jobs of the queue.

    Raises:
        InputError: for an unknown name, a value that is given twice, or a payoff that would give no
            job of its own.
    """
    _check_names(options)
    _check_payoffs(options)
    for name in (*NAMES, "seeds", "payoffs"):
        values = getattr(options, name)
        if repeated := [value for value in values if values.count(value) > 1]:
            raise InputError(f"--{name} {repeated[0]}: is given more than once")
    return plan.jobs(
        options.data, options.settings, options.seeds, options.methods, options.payoffs
    )


def _check_names(options: argparse.Namespace) -> None:
    for option, (kind, allowed) in NAMES.items():
        for name in getattr(options, option):
            if name not in allowed:
                raise unknown_name_error(kind, name, allowed)


def _check_payoffs(options: argparse.Namespace) -> None:
    """Refuses payoffs that the name of a job cannot tell apart, and that of a config."""
    for payoff in options.payoffs:
        if math.isfinite(payoff) and float(f"{payoff:g}") != payoff:
            raise InputError(f"--payoffs {payoff!r}: must have at most six significant digits")
    if not options.payoffs:
        return
    for data, setting in itertools.product(options.data, options.settings):
        job = plan.Job(data, setting, plan.IN_SAMPLE, options.seeds[0])
        budget, changes = fields(options)
        own = plan.config(job, budget, (), changes).objective.payoff
        if own in options.payoffs:
            raise InputError(
                f"--payoffs {own:g}: is the payoff of the config of {data}, with which its methods "
                "are trained anyway; give other ones"
            )


def teacher_job(options: argparse.Namespace, job: plan.Job) -> plan.Job | None:
    """Returns the job whose teacher a job uses; None if it trains its own, or needs none."""
    return plan.teacher_job(job, options.methods, options.seeds, share=options.share_teacher)


def command(options: argparse.Namespace) -> str:
    """Returns the command that result files record."""
    return RUN + shlex.join(arguments(options))


def check_recorded(options: argparse.Namespace, job: plan.Job, record: Mapping[str, Any]) -> None:
    """Checks that a finished job was trained as the options say, with all methods.

    Args:
        options: of the queue.
        job: the finished one.
        record: its JSON file.

    Raises:
        InputError: with the differences.
    """
    made = parse(record["command"])
    different = [] if made is None else _differences(job, made, options)
    missing = [
        name for name in plan.methods(job, options.methods) if name not in record["students"]
    ]
    different += [f"no {', '.join(missing)}"] if missing else []
    if different:
        raise InputError(
            f"{job.name} is finished with other settings than yours: {in_words(different)}. Give "
            "those, or another --out and --runs"
        )


def _differences(job: plan.Job, made: argparse.Namespace, options: argparse.Namespace) -> list[str]:
    """Returns the lines of `plan.differences`, and one if the job would use another teacher."""
    lines = plan.differences(job, fields(made), fields(options))
    teachers = [
        plan.teacher_job(job, options.methods, each.seeds, share=each.share_teacher) or job
        for each in (made, options)
    ]
    if teachers[0] != teachers[1]:
        lines.append(f"teacher: of {' -> of '.join(teacher.name for teacher in teachers)}")
    return lines


def in_words(different: Sequence[str]) -> str:
    """Returns some of the differences of `plan.differences`, and how many others there are."""
    shown = "; ".join(different[:SHOWN_DIFFERENCES])
    more = len(different) - SHOWN_DIFFERENCES
    return f"{shown}; and {more} more" if more > 0 else shown


def fields(options: argparse.Namespace) -> tuple[str, plan.Fields]:
    """Returns budget and changed fields, of which `plan.config` makes the config of a job."""
    return options.budget, plan.parse_changes(options.changes)


def parse(recorded: str) -> argparse.Namespace | None:
    """Returns the options of a recorded command; None of a training in another library.

    Raises:
        ValueError: for a command that `run` does not accept.
    """
    if not recorded.startswith(RUN):
        return None
    parser = _Parser(add_help=False)
    add(parser)
    options = parser.parse_args(shlex.split(recorded.removeprefix(RUN)))
    _check_names(options)
    return options


class _Parser(argparse.ArgumentParser):
    """A parser of recorded commands, which does not end the process if one is wrong."""

    def error(self, message: str) -> NoReturn:
        raise InputError(message)
