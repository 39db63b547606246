"""README.md and the pages of docs/: their code blocks and commands."""

import functools
import os
import pathlib
import re
import shlex
import sys

import pytest
from absl import flags
from ml_collections import config_flags

from kdjax import config, config_files
from kdjax.commands import COMMANDS
from support import forked
from support.commands import ROOT

README = ROOT / "README.md"
PAGES = (README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))

# `python -m package.module ...`, `python experiments/script.py ...` or `kdjax COMMAND --flag ...`,
# up to the end of the line or of the code span.
COMMAND = re.compile(
    r"(?:python (?=-m (?:kdjax|experiments)\.\w|experiments/\w+\.py)"
    rf"|(?<![\w/.-])(?:\.venv/bin/)?kdjax (?=(?:{'|'.join(COMMANDS)}) .*-))"
    r"([^&\n`']*)"
)


def code_blocks(text: str, language: str) -> list[str]:
    """Returns the content of the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


WITH_SUBCOMMANDS = ("experiments.benchmark", "experiments.paper")


def commands(path: pathlib.Path) -> list[str]:
    """Returns the commands on a page: `-m module`, a script or a subcommand, with arguments."""
    text = re.sub("<!--.*?-->", "", path.read_text())
    return [command.strip() for command in COMMAND.findall(text)]


def check_command(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks that a command accepts the given flags, and `kdjax.main` the given config."""
    words = shlex.split(command)
    if words[0] in COMMANDS:
        words[:1] = ["-m", COMMANDS[words[0]].module]
    program = words[: 2 if words[0] == "-m" else 1]
    arguments = [word for word in words[len(program) :] if word != "--help"]
    if program == ["-m", "kdjax.main"] and arguments:
        check_config(arguments, monkeypatch)
        return
    fields = [word for word in arguments if word.startswith("--config.")]
    if fields:  # of a command that takes a config besides other flags
        check_config([word for word in arguments if word.startswith("--config")], monkeypatch)
    subcommand = arguments[:1] if program[-1] in WITH_SUBCOMMANDS else []
    used = {word.partition("=")[0] for word in arguments if word.startswith("--")} - {
        word.partition("=")[0] for word in fields
    }
    assert used <= flags_of(*program, *subcommand), command


def check_config(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks that the flags of `kdjax.main` parse, and that the config resolves.

    A network in a file of the user is not there, so that its config cannot be resolved.
    """
    monkeypatch.chdir(ROOT)
    arguments, path = config_files.with_path(arguments)
    arguments = config_files.expand(arguments, path) if path else arguments
    monkeypatch.setattr(sys, "argv", ["main", *arguments])  # where config_flags looks for fields
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values)
    for name in ("workdir", "coordinator", "num_processes", "process_id"):
        flags.DEFINE_string(name, None, "", flag_values=values)
    assert values(["main", *arguments])[1:] == []
    if not any(".py:" in argument for argument in arguments):
        config.resolve(values.config)


@functools.cache
def flags_of(*program: str) -> set[str]:
    """Returns the flags that `--help` of a program lists."""
    name, *words = program[1:] if program[0] == "-m" else program
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = forked.run(name, [*words, "--help"], ROOT, environment)
    text = done.stdout
    if re.search("No module named '(torch|keras)'", done.stderr):  # run with another Python
        text = (ROOT / f"{name.replace('.', '/')}.py").read_text()
        text += (ROOT / "experiments/paper/baselines/exported.py").read_text()
    else:
        assert text, done.stderr
    return set(re.findall(r"--[\w-]+", text))
