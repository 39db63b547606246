"""What the README says can be typed, works."""

import functools
import re
import shlex
import sys

import numpy as np
import pytest
import yaml
from absl import flags
from commands import ROOT, python
from ml_collections import config_flags

from kdjax import config, students

# ml_collections loads the config file in a way that Python has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


COMMANDS = re.findall(r"python (-m kdjax\.\w+[^&\n`']*)", README)
# Flags that the text names on their own.
NAMED = re.findall(r"`(--config\.[^`]+=[^`]+)`", README)


def check(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["main", *arguments])  # where config_flags finds the fields
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    assert values(["main", *arguments])[1:] == []
    config.resolve(values.config)


def test_the_python_of_the_readme_runs() -> None:
    code, changes = blocks("python")
    names: dict = {}
    exec(code, names)
    exec(changes, {"config": (several := config.base())})
    assert len(students.expand(config.resolve(several))) == 3
    assert np.isfinite(names["value"])
    assert names["gradient"].shape == (2, 4) and np.isfinite(names["gradient"]).all()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_is_accepted(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, *arguments = shlex.split(command.removeprefix("-m "))
    if module == "kdjax.main":
        check(arguments, monkeypatch)
    else:
        given = {argument.partition("=")[0] for argument in arguments if argument[:2] == "--"}
        assert given <= flags_of(module)


@functools.cache
def flags_of(module: str) -> set[str]:
    """The flags that a command has, as its --help tells them."""
    told = python("-m", module, "--help").stdout
    return set(re.findall(r"^\s+(--\w+):", told, flags=re.MULTILINE))


@pytest.mark.parametrize("flag", NAMED)
def test_a_flag_of_the_readme_exists(flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(["--config=configs/cifar10.py", flag.replace("NAME", "digits")], monkeypatch)


def test_the_job_set_starts_the_main_job_with_flags_that_exist(monkeypatch) -> None:
    (text,) = blocks("yaml")
    (workers,) = yaml.safe_load(text)["spec"]["replicatedJobs"]
    (container,) = workers["template"]["spec"]["template"]["spec"]["containers"]
    assert container["command"][:3] == ["python", "-m", "kdjax.main"]
    check(container["command"][3:], monkeypatch)


def test_ci_runs_the_first_three_blocks_word_for_word() -> None:
    quickstart, tests, use = blocks("sh")[:3]
    assert "kdjax.main --config=configs/digits.py" in quickstart and "pytest" in tests
    script = (ROOT / ".ci" / "run").read_text()
    assert "kdjax.export --workdir=runs/digits" in use
    assert all(f"block {number}" in script for number in (1, 2, 3))
