"""Commands as a user types them: real processes, and what a refusal looks like."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


def python(*arguments, cwd=ROOT, **variables):
    """Runs Python in a process of its own, with more variables in its environment."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        **{"cwd": cwd, "env": {**os.environ, "PYTHONPATH": str(ROOT), **variables}},
        **{"capture_output": True, "text": True, "timeout": 300},
    )


def command(name, *arguments, cwd=ROOT):
    return python("-m", f"kdjax.{name}", *arguments, cwd=cwd)


def assert_refused(done, *parts):
    """Status 2, and one clear line."""
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("kdjax: error: "), line
    for part in parts:
        assert part in line, line
