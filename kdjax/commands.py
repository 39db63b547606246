"""The command `kdjax`: runs the module of a subcommand.

kdjax COMMAND [--FLAG=VALUE ...] [ARGUMENT ...]
"""

import os
import pathlib
import runpy
import shlex
import shutil
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
        "kdjax.monitor", "watch the predictions of a model in use: risk, coverage and drift"
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


def program() -> str:
    """Returns the words that start `kdjax` in this environment, for commands to be copied."""
    script = pathlib.Path(sys.executable).with_name("kdjax")
    if _is_on_path(script):
        return script.name
    if script.exists():
        return shlex.quote(_relative(script))
    python = pathlib.Path(sys.executable)
    return f"{python.name if _is_on_path(python) else shlex.quote(_relative(python))} -m kdjax"


def command_line(command: str, *arguments: str | os.PathLike[str]) -> str:
    """Returns a subcommand with its arguments, quoted for the shell."""
    return " ".join([program(), command, *(shlex.quote(str(argument)) for argument in arguments)])


def _run(name: str, arguments: Sequence[str]) -> None:
    if name not in COMMANDS:
        kind = "the command comes first" if name.startswith("-") else "--help lists the commands"
        _exit_with_error(InputError(f"{unknown_name_error('command', name, COMMANDS)}; {kind}"))
    sys.argv[1:] = arguments
    runpy.run_module(COMMANDS[name].module, run_name="__main__", alter_sys=True)


def _exit_with_error(error: InputError) -> NoReturn:
    print(f"kdjax: error: {error}", file=sys.stderr)
    sys.exit(USAGE)


def _is_on_path(file: pathlib.Path) -> bool:
    found = shutil.which(file.name)
    return found is not None and pathlib.Path(found).absolute() == file.absolute()


def _relative(file: pathlib.Path) -> str:
    """Returns a path relative to the working directory, if the file is in it."""
    folder = pathlib.Path.cwd()
    return str(file.relative_to(folder) if file.is_relative_to(folder) else file)
