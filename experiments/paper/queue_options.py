"""The options of the queue, and the command that result files record."""

import argparse
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.paper import plan
from kdjax.errors import InputError
from kdjax.objectives import METHODS

RESULTS = pathlib.Path(__file__).parents[1] / "results" / "paper"
RUN = "python -m experiments.paper run "
SHOWN_DIFFERENCES = 4


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the options to a parser."""
    parser.add_argument("--budget", choices=plan.BUDGETS, default="laptop")
    parser.add_argument("--data", nargs="+", choices=plan.DATA, default=["cifar10"])
    parser.add_argument("--settings", nargs="+", choices=plan.SETTINGS, default=["structure"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
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
    """Returns the jobs of the queue."""
    return plan.jobs(
        options.data, options.settings, options.seeds, options.methods, options.payoffs
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
    different = [] if made is None else plan.differences(job, fields(made), fields(options))
    missing = [
        name for name in plan.methods(job, options.methods) if name not in record["students"]
    ]
    different += [f"no {', '.join(missing)}"] if missing else []
    if different:
        raise InputError(
            f"{job.name} is finished with other settings than yours: {in_words(different)}. Give "
            "those, or another --out and --runs"
        )


def in_words(different: Sequence[str]) -> str:
    """Returns some of the differences of `plan.differences`, and how many others there are."""
    shown = "; ".join(different[:SHOWN_DIFFERENCES])
    more = len(different) - SHOWN_DIFFERENCES
    return f"{shown}; and {more} more" if more > 0 else shown


def fields(options: argparse.Namespace) -> tuple[str, plan.Fields]:
    """Returns budget and changed fields, of which `plan.config` makes the config of a job."""
    return options.budget, plan.parse_changes(options.changes)


def parse(recorded: str) -> argparse.Namespace | None:
    """Returns the options of a recorded command; None of a training in another library."""
    if not recorded.startswith(RUN):
        return None
    parser = argparse.ArgumentParser()
    add(parser)
    return parser.parse_args(shlex.split(recorded.removeprefix(RUN)))
