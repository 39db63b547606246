"""The command `kdjax`: runs the module of a subcommand.

kdjax COMMAND [--FLAG=VALUE ...] [ARGUMENT ...]
"""

import runpy
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple, NoReturn

import kdjax
from kdjax.errors import InputError, unknown_name_error

USAGE = 2  # exit status, as in kdjax.cli, which is not imported here: it needs more time


class Command(NamedTuple):
    """A subcommand.

    Attributes:
        module: runs it, also as `python -m MODULE`.
        summary: what it does, for `kdjax --help`.
    """

    module: str
    summary: str


COMMANDS: Mapping[str, Command] = {
    "train": Command("kdjax.main", "train a teacher and a student, evaluate, write the report"),
    "evaluate": Command(
        "kdjax.evaluate", "evaluate a run again: another risk, shifted images, other data sets"
    ),
    "report": Command("kdjax.report", "write the report of a run, or compare several runs"),
    "export": Command(
        "kdjax.export", "export a student or a teacher as a model that runs without kdjax"
    ),
    "predict": Command("kdjax.predict", "predict the labels of images, or abstain"),
    "check": Command(
        "kdjax.check", "test on newly labelled images whether a model keeps its promise"
    ),
    "monitor": Command(
        "kdjax.monitor", "monitor the predictions of a deployed model: risk, coverage and drift"
    ),
    "logits": Command("kdjax.logits", "list the images for which your own teacher gives logits"),
    "list": Command("kdjax.list", "list configs, methods, models, data sets and scores"),
}


def main() -> None:
    """Runs the subcommand that the first argument names."""
    name, *arguments = sys.argv[1:] or [""]
    if name == "help":  # kdjax help, kdjax help COMMAND
        name, arguments = (arguments[0], ["--help"]) if arguments else ("--help", [])
    if name in ("--help", "-h"):
        print(help_text())
    elif name == "--version":
        print(f"kdjax {kdjax.__version__}")
    elif not name:
        print(help_text(), file=sys.stderr)
        sys.exit(USAGE)
    else:
        _run(name, arguments)


def help_text() -> str:
    """Returns the list of the subcommands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            f"{kdjax.__doc__}",
            "",
            "usage: kdjax COMMAND [--FLAG=VALUE ...] [ARGUMENT ...]",
            "",
            *lines,
            "",
            "`kdjax COMMAND --help` lists the flags of a command, `kdjax --version` the version.",
        ]
    )


def _run(name: str, arguments: Sequence[str]) -> None:
    if name not in COMMANDS:
        kind = "the command comes first" if name.startswith("-") else "--help lists the commands"
        _exit_with_error(InputError(f"{unknown_name_error('command', name, COMMANDS)}; {kind}"))
    sys.argv[1:] = arguments
    runpy.run_module(COMMANDS[name].module, run_name="__main__", alter_sys=True)


def _exit_with_error(error: InputError) -> NoReturn:
    print(f"kdjax: error: {error}", file=sys.stderr)
    sys.exit(USAGE)
