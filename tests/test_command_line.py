"""The command `kdjax`: its subcommands, names of configs, help, lists and what follows a run."""

import ast
import importlib.util
import json
import os
import pathlib
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import zipfile

import pytest
from support import forked
from support.commands import ROOT, assert_refused, python

from kdjax import __version__ as package_version
from kdjax import command_lines, commands, config, config_files, config_help
from kdjax import list as lists
from kdjax.config_fields import field_names
from kdjax.data.own import names
from kdjax.errors import InputError
from kdjax.models import MODELS
from kdjax.objectives import METHODS
from kdjax.selective import SCORES


def kdjax(*arguments, cwd=ROOT, **variables):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return forked.run("kdjax", list(arguments), cwd, environment)


def run_main(monkeypatch, *arguments):
    """Runs `kdjax` in this process, without its subcommands."""
    ran = []
    monkeypatch.setattr(sys, "argv", ["kdjax", *arguments])
    monkeypatch.setattr(runpy, "run_module", lambda module, **_: ran.append((module, sys.argv[1:])))
    commands.main()
    return ran


# Subcommands


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_every_subcommand_runs_a_module_that_exists(name, monkeypatch):
    module = commands.COMMANDS[name].module
    assert run_main(monkeypatch, name, "--flag", "x") == [(module, ["--flag", "x"])]
    assert importlib.util.find_spec(module) is not None


def test_help_lists_every_subcommand_at_once(monkeypatch, capsys):
    for arguments in (["--help"], ["-h"], ["help"]):
        assert run_main(monkeypatch, *arguments) == []
        shown = capsys.readouterr().out
        lines = [line.split("  ")[1] for line in shown.splitlines() if line.startswith("  ")]
        assert lines == list(commands.COMMANDS)
    assert run_main(monkeypatch, "help", "train") == [("kdjax.main", ["--help"])]


def test_help_and_version_load_no_library():
    code = "import sys; sys.argv[1:] = ['--help']; from kdjax import commands; commands.main()"
    done = python("-c", f"{code}; print({{'jax', 'absl', 'numpy'}} & set(sys.modules))")
    assert done.stdout.endswith("\nset()\n")
    done = python("-m", "kdjax", "--version")
    assert done.stdout == f"kdjax {package_version}\n"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["trian"], ["'trian'", "did you mean 'train'"]),
        (["exprot", "--workdir=x"], ["'exprot'", "did you mean 'export'"]),
        (["--config=digits", "train"], ["the command comes first"]),
        (["train", "--config=digit"], ["unknown config 'digit'", "did you mean 'digits'"]),
        (["train", "--config=digits.yaml"], ["unknown config 'digits.yaml'", "path of a .py file"]),
        (["train", "--config="], ["unknown config ''"]),
        (["list", "model"], ["unknown kind 'model'", "did you mean 'models'"]),
        (["list", "--josn"], ["'josn'", "json"]),
    ],
)
def test_bad_input_is_one_line(arguments, parts, tmp_path):
    assert_refused(kdjax(*arguments, cwd=tmp_path), *parts)
    assert [path.name for path in tmp_path.iterdir() if path.name != "runs"] == []


def test_no_command_prints_the_help_to_stderr():
    done = kdjax()
    assert (done.returncode, done.stdout) == (2, "") and "usage: kdjax COMMAND" in done.stderr


# Configs by name


def test_shipped_configs_are_those_of_the_repository():
    paths = sorted((ROOT / "configs").glob("*.py"))
    assert list(config_files.shipped()) == [path.stem for path in paths]
    assert [path.resolve() for path in config_files.shipped().values()] == paths
    assert all(config_files.summary(path).endswith(".") for path in paths)


def test_config_is_found_by_name_and_by_path(tmp_path, monkeypatch):
    assert config_files.find("svhn") == config_files.FOLDER / "svhn.py"
    monkeypatch.chdir(ROOT)
    assert config_files.find("configs/svhn.py") == pathlib.Path("configs/svhn.py")
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "svhn"):  # a file of this name is meant, even if it does not end in .py
        (tmp_path / name).write_text("")
        assert config_files.find(name) == pathlib.Path(name)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("configs/svhm.py", "did you mean 'configs/svhn.py'"),
        ("elsewhere/svhn.py", "the config of the package is --config=svhn"),
        ("elsewhere/mine.py", "^no config file 'elsewhere/mine.py'$"),
        ("svhn:depth", "must not contain ':'"),
    ],
)
def test_missing_config_file_names_what_is_near(value, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(InputError, match=message):
        config_files.find(value)


def test_name_in_the_arguments_is_replaced_by_the_path():
    path = str(config_files.FOLDER / "digits.py")
    rest = ["--config.seed=1", "--workdir", "x"]
    assert config_files.with_path(["main", "--config=digits", *rest])[0] == [
        *("main", f"--config={path}"),
        *rest,
    ]
    assert config_files.with_path(["main", "--config", "digits", *rest])[0] == [
        *("main", "--config", path),
        *rest,
    ]
    assert config_files.with_path(rest) == (rest, None)


# Help


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_docstring_of_a_subcommand_which_help_prints_shows_how_to_call_it(name):
    path = pathlib.Path(importlib.util.find_spec(commands.COMMANDS[name].module).origin)
    path = path.with_name("__main__.py") if path.name == "__init__.py" else path
    assert f"\nkdjax {name} " in ast.get_docstring(ast.parse(path.read_text()))


def test_help_shows_flags_and_no_fields_where_there_is_no_config():
    done = kdjax("evaluate", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        done.stdout.startswith("Evaluates a finished run again") and "--helpfull" not in done.stdout
    )
    assert "\nFlags [default]:\n  --data_dir: " in done.stdout and "config.seed" not in done.stdout


def test_help_shows_every_field_with_its_comment_and_value(monkeypatch):
    monkeypatch.setenv("COLUMNS", "72")
    values = config.base()
    values.student.epochs = 7
    text = config_help.help_text(values)
    shown = re.findall(r"^  --config\.(\S+)$", text, flags=re.MULTILINE)
    expanded = {
        name.replace("{teacher,student}", stage) for name in shown for stage in config_help.STAGES
    }
    assert expanded == set(field_names(values))
    assert max(map(len, text.splitlines())) <= 72
    joined = " ".join(text.split())
    assert (
        "--config.size paper | laptop: full-size or small networks, see PAIRS ['paper']" in joined
    )
    assert "[teacher 200, student 7]" in joined


@pytest.mark.slow
def test_help_with_a_config_shows_its_values():
    done = kdjax("train", "--config=digits", "--help")
    assert "Fields of the config [value in " in done.stdout
    assert "only for certificates; in (0, 1)." in " ".join(done.stdout.split())
    assert "paper | laptop: full-size or small networks, see PAIRS ['laptop']" in done.stdout


# Lists


def test_list_has_every_registered_name_with_a_description():
    listed = {kind: list_names() for kind, list_names in lists.KINDS.items()}
    assert list(listed) == ["configs", "methods", "models", "datasets", "scores"]
    assert list(listed["configs"]) == list(config_files.shipped())
    registries = {"methods": METHODS, "models": MODELS, "scores": SCORES}
    for kind, registry in registries.items():
        assert list(listed[kind]) == list(registry)
    assert {"digits", "cifar10", "svhn_cropped", "fashion_mnist"} <= listed["datasets"].keys()
    own = {f"{kind}:{path}" for kind, path in names.KINDS.items()}
    assert own == set(lists.OWN_DATA) - {"NAME"}
    assert all(text for names in listed.values() for text in names.values())


@pytest.mark.slow
def test_list_of_some_kinds_fits_the_terminal_or_is_json():
    done = kdjax("list", "scores", "models", COLUMNS="60")
    assert done.stderr == "" and done.stdout.startswith("scores:\n  reservation ")
    assert "\nmodels:\n" in done.stdout and "configs:" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 60
    done = kdjax("list", "configs", "--json")
    assert json.loads(done.stdout) == {"configs": lists.configs()}


# What follows a run


def test_next_commands_are_quoted_for_the_shell(monkeypatch):
    monkeypatch.setattr(command_lines, "program", lambda: "kdjax")
    line = command_lines.command_line("report", pathlib.Path("my runs/it's"))
    assert shlex.split(line) == ["kdjax", "report", "my runs/it's"]


def test_program_is_what_this_environment_can_start(tmp_path, monkeypatch):
    folder = tmp_path / "an environment" / "bin"
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setenv("PATH", "/usr/bin")
    assert command_lines.program() == "'an environment/bin/python' -m kdjax"
    for name in ("python", "kdjax"):
        (folder / name).touch()
        (folder / name).chmod(0o755)
    assert command_lines.program() == "'an environment/bin/kdjax'"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert command_lines.program() == f"'{folder}/kdjax'"
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin")
    assert command_lines.program() == "kdjax"
    (folder / "kdjax").unlink()
    assert command_lines.program() == "python -m kdjax"


def test_run_ends_with_the_commands_that_follow(finished_run):
    lines = finished_run.stdout.splitlines()
    following = lines[lines.index("next:") + 1 :]
    folder = finished_run.folder
    model = f"{folder}_model"
    program = shlex.split(command_lines.program())
    assert [shlex.split(line)[len(program) :] for line in following] == [
        ["report", str(folder)],
        ["export", f"--workdir={folder}", f"--out={model}", "--coverage=0.9"],
        ["predict", f"--model={model}", "IMAGE..."],
    ]


@pytest.mark.slow
def test_wheel_contains_the_package_with_its_configs_and_the_command(tmp_path):
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns("__pycache__")
    source.mkdir()
    for name in ("kdjax", "configs"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    code = "from setuptools.build_meta import build_wheel; print(build_wheel('..'))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=True
    )
    with zipfile.ZipFile(tmp_path / done.stdout.split()[-1]) as wheel:
        files = set(wheel.namelist())
        (entry_points,) = (name for name in files if name.endswith("entry_points.txt"))
        assert "kdjax = kdjax.commands:main" in wheel.read(entry_points).decode()
        shipped = wheel.read("kdjax/configs/digits.py")
    assert shipped == (ROOT / "configs" / "digits.py").read_bytes()
    package = ROOT / "kdjax"
    tracked = {
        str(path.relative_to(ROOT))
        for folder in (package, package / "configs")
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in files if ".dist-info" not in name} == tracked
