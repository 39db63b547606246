"""Arguments that are no flags; how commands end is in `test_commands.py`."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
COMMAND = """
from absl import flags
from kdjax import cli
JSON = flags.DEFINE_bool("json", False, "")
cli.run(lambda *given: print(*given, JSON.value), positional={positional!r})
"""


def run(positional, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", COMMAND.format(positional=positional), *arguments],
        **{"env": {**os.environ, "PYTHONPATH": str(ROOT)}, "capture_output": True, "text": True},
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("arguments", "received"),
    [
        (["a.png", "b.png"], "['a.png', 'b.png'] False\n"),
        (["--json", "a.png"], "['a.png'] True\n"),
        (["a.png", "--json", "b.png"], "['a.png', 'b.png'] True\n"),
        (["--", "--json"], "['--json'] False\n"),
    ],
)
def test_flags_may_stand_anywhere_among_the_arguments(arguments, received):
    assert run("IMAGE...", *arguments) == (0, received, "")


def test_a_command_that_takes_no_arguments_is_called_without_any():
    assert run("", "--json") == (0, "True\n", "")


@pytest.mark.parametrize(
    ("positional", "arguments", "line"),
    [
        ("IMAGE...", ["--json"], "no IMAGE... given: --help shows how the command is written"),
        ("", ["a.png"], "unexpected argument 'a.png': flags are written --name=value"),
    ],
)
def test_too_many_and_too_few_arguments_are_refused(positional, arguments, line):
    assert run(positional, *arguments) == (2, "", f"kdjax: error: {line}\n")
