"""Runs commands in processes, and checks one-line errors."""

import os
import pathlib
import subprocess
import sys

from support import forked

ROOT = pathlib.Path(__file__).parents[2]


def python(*arguments, cwd=ROOT, **variables):
    """Runs Python in a new process, with `variables` added to the environment."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        **{"cwd": cwd, "env": {**os.environ, "PYTHONPATH": str(ROOT), **variables}},
        **{"capture_output": True, "text": True, "timeout": 1200},
    )


def start(name, *arguments, cwd=ROOT, absent=(), **variables):
    """Starts a command of kdjax, such as `main`, in a process that need not import the libraries.

    `subprocess.Popen` starts it in a new process, as a user does; the arguments are those of
    `command`.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    words = list(map(str, arguments))
    return forked.Forked(f"kdjax.{name}", words, cwd, environment, absent)


def command(name, *arguments, cwd=ROOT, absent=(), **variables):
    """Runs a command of kdjax, such as `main`, in a process that need not import the libraries.

    `python("-m", ...)` runs it in a new process, as a user does.

    Args:
        name: of the module in `kdjax`.
        *arguments: of the command line.
        cwd: the working directory.
        absent: packages that cannot be imported.
        **variables: added to the environment.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    words = list(map(str, arguments))
    return forked.run(f"kdjax.{name}", words, cwd, environment, absent=absent)


def assert_refused(done, *parts):
    """Asserts exit status 2 and a single error line that contains all parts."""
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("kdjax: error: "), line
    for part in parts:
        assert part in line, line
