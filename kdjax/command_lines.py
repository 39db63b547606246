"""Command lines of `kdjax` that can be copied into a shell."""

import os
import pathlib
import shlex
import shutil
import sys


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


def _is_on_path(file: pathlib.Path) -> bool:
    path = shutil.which(file.name)
    return path is not None and pathlib.Path(path).absolute() == file.absolute()


def _relative(file: pathlib.Path) -> str:
    """Returns a path relative to the working directory, if the file is in it."""
    folder = pathlib.Path.cwd()
    return str(file.relative_to(folder) if file.is_relative_to(folder) else file)
