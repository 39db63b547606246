"""Flags and positional arguments of the commands; exit statuses are in `test_commands.py`."""

import os
import subprocess
import sys

import pytest
from support.commands import command, python

COMMAND = """
from absl import flags
from kdjax import cli
JSON = flags.DEFINE_bool("json", False, "")
cli.run(lambda *arguments: print(*arguments, JSON.value), positional={positional!r})
"""


def run(positional, *arguments):
    done = python("-c", COMMAND.format(positional=positional), *arguments)
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
def test_flags_and_positional_arguments_may_be_mixed(arguments, received):
    assert run("IMAGE...", *arguments) == (0, received, "")


def test_command_without_positional_arguments_is_called_without_arguments():
    assert run("", "--json") == (0, "True\n", "")


@pytest.mark.parametrize(
    ("positional", "arguments", "line"),
    [
        ("IMAGE...", ["--json"], "no IMAGE... given: --help shows the usage"),
        ("", ["a.png"], "unexpected argument 'a.png': flags are written --name=value"),
    ],
)
def test_unexpected_and_missing_positional_arguments_are_errors(positional, arguments, line):
    assert run(positional, *arguments) == (2, "", f"kdjax: error: {line}\n")


@pytest.mark.parametrize("name", ["evaluate", "report", "export"])
def test_commands_on_a_finished_run_share_their_flags_and_list_them_in_help(name):
    done = command(name, "--help")
    for flag in ("--data_dir", "--risk", "--delta"):
        assert f"\n  {flag}: " in done.stdout


@pytest.mark.parametrize("name", ["predict", "check"])
def test_commands_with_a_second_model_share_their_flags_and_list_them_in_help(name):
    done = command(name, "--help")
    for flag in ("fallback", "threshold", "fallback_abstains", "fallback_batch_size"):
        assert f"\n  --{flag}: " in done.stdout
    assert "\n  --batch_size: images per batch [256]\n" in done.stdout


def test_help_ends_silently_if_its_reader_has_ended():
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "kdjax.main", "--help"], stdout=closed, stderr=subprocess.PIPE
        )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("name", ["main", "evaluate", "report.__main__", "export.__main__"])
def test_flags_are_parsed_before_jax_is_imported(name):
    done = python("-c", f"import sys, kdjax.{name}; print('jax' in sys.modules)")
    assert (done.stdout, done.stderr) == ("False\n", "")
