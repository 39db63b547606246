"""Runs commands in processes, and checks one-line errors."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def python(*arguments, cwd=ROOT, **variables):
    """Runs Python in a new process, with `variables` added to the environment."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        **{"cwd": cwd, "env": {**os.environ, "PYTHONPATH": str(ROOT), **variables}},
        **{"capture_output": True, "text": True, "timeout": 300},
    )


def command(name, *arguments, cwd=ROOT):
    """Runs a command of kdjax, such as `main`, in a new process."""
    return python("-m", f"kdjax.{name}", *arguments, cwd=cwd)


def assert_refused(done, *parts):
    """Asserts exit status 2 and a single error line that contains all parts."""
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("kdjax: error: "), line
    for part in parts:
        assert part in line, line
