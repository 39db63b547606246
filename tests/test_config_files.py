"""Config files are found by name or path, and fail with one line."""

import pathlib

import pytest
from ml_collections import ConfigDict

from kdjax import config_files, recipes
from kdjax.errors import InputError

WORKING = """
from kdjax.config import base
def get_config():
    config = base()
    config.name = "mine"
    return config
"""
WITH_SIZE = WORKING.replace("get_config()", 'get_config(size="paper")').replace('"mine"', "size")


@pytest.fixture
def file(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "mine.py"
    path.write_text(WORKING)
    return path


def test_every_config_of_the_package_has_a_name_and_a_summary():
    shipped = config_files.shipped()
    assert {"digits", "cifar10", "quickstart", "own_images"} <= shipped.keys()
    for name, path in shipped.items():
        assert config_files.find(name) == path
        assert config_files.summary(path), name


def test_path_of_a_file_counts_before_a_name_of_the_package(file, monkeypatch):
    assert config_files.find(str(file)) == file
    monkeypatch.chdir(file.parent)
    file.rename("digits")
    assert config_files.find("digits") == pathlib.Path("digits")


def test_summary_does_not_execute_the_file(tmp_path):
    path = tmp_path / "fails.py"
    path.write_text('"""What it is.\n\nMore."""\nraise SystemExit\n')
    assert config_files.summary(path) == "What it is."
    path.write_text("x = 1\n")
    assert config_files.summary(path) == ""


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("digit", "unknown config 'digit': did you mean 'digits'.* or give the path of a .py file"),
        ("a:b.py", "config file 'a:b.py': the path must not contain ':'"),
        ("{tmp}/mime.py", "unknown config file '.*mime.py': did you mean '.*mine.py'"),
        ("nowhere/digits.py", "no config file 'nowhere/digits.py'; the config of the package is "
                              "--config=digits"),
        ("nowhere/other.py", "no config file 'nowhere/other.py'$"),
    ],
)  # fmt: skip
def test_missing_file_is_one_line_with_the_nearest_name(value, message, file):
    with pytest.raises(InputError, match=message) as raised:
        config_files.find(value.format(tmp=file.parent))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("flag", ["--config", "-config"])
@pytest.mark.parametrize("joined", [True, False])
def test_name_is_replaced_by_the_path(flag, joined):
    digits = str(config_files.shipped()["digits"])
    given = [f"{flag}=digits"] if joined else [flag, "digits"]
    expected = [f"{flag}={digits}"] if joined else [flag, digits]
    argv, path = config_files.with_path(["kdjax", *given, "--config.seed=1"])
    assert argv == ["kdjax", *expected, "--config.seed=1"] and str(path) == digits


def test_last_config_counts_and_without_one_there_is_no_path():
    _, path = config_files.with_path(["--config=digits", "--config=cifar10"])
    assert path == config_files.shipped()["cifar10"]
    assert config_files.with_path(["--workdir=x"]) == (["--workdir=x"], None)


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        (["--a=1"], "1"), (["-a=1"], "1"), (["--a", "1"], "1"), (["--a=1", "--a=2"], "2"),
        (["--b=1"], ""), ([], ""), (["--a="], ""), (["--a.b=3"], ""), (["--a"], ""),
    ],
)  # fmt: skip
def test_value_of_a_flag(argv, value):
    assert config_files.flag_value(argv, "a") == value


def test_size_is_passed_to_a_file_that_takes_it(tmp_path, file):
    sized = tmp_path / "sized.py"
    sized.write_text(WITH_SIZE)
    assert config_files.takes_size(sized) and not config_files.takes_size(file)
    assert config_files.load(sized, "laptop").name == "laptop"
    assert config_files.load(sized).name == "paper"
    assert config_files.load(file, "laptop").name == "mine"
    argv = [f"--config={sized}", "--config.size=laptop"]
    assert config_files.expand(argv, sized) == [f"--config={sized}:laptop", "--config.size=laptop"]
    argv = [f"--config={file}", "--config.size=laptop"]
    assert config_files.expand(argv, file) == argv


def test_recipe_adds_its_fields_in_front_of_those_that_are_given(file):
    name, fields = next((name, each) for name, each in recipes.RECIPES.items() if each)
    given = next(iter(fields))
    argv = [f"--config={file}", f"--config.recipe={name}", f"--config.{given}=7"]
    expanded = config_files.expand(argv, file)
    assert expanded[0] == argv[0] and expanded[-2:] == argv[1:]
    added = [word.removeprefix("--config.").partition("=")[0] for word in expanded[1:-2]]
    assert added == [field for field in fields if field != given]


def test_recipe_chooses_the_size_itself():
    assert config_files.size_argument(["--config.size=laptop"]) == "laptop"
    assert config_files.size_argument(["--config.size=laptop", "--config.recipe=fast"]) == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "does not define a function get_config()"),
        ("get_config = 3", "does not define a function get_config()"),
        ("def get_config():\n    return {}", "returns dict, not a ConfigDict"),
        ("def get_config():\n    return 1 / 0", "line 2: ZeroDivisionError: division by zero"),
        ("\n\nimport nowhere", "line 3: ModuleNotFoundError: No module named 'nowhere'"),
        ("def get_config(:", "line 1: SyntaxError: "),
        ("raise ValueError('a\\nb')", "line 1: ValueError: a"),
        ("def get_config():\n    raise SystemExit(0)", "line 2: SystemExit: 0"),
    ],
)
def test_file_that_fails_is_one_line_with_its_place(tmp_path, text, message):
    path = tmp_path / "fails.py"
    path.write_text(text)
    with pytest.raises(InputError) as raised:
        config_files.load(path)
    line = str(raised.value)
    assert message in line and str(path) in line and "\n" not in line


def test_error_of_the_library_in_a_file_is_shown_as_it_is(tmp_path):
    path = tmp_path / "wrong.py"
    path.write_text(
        "from kdjax.errors import InputError\ndef get_config():\n    raise InputError('own text')\n"
    )
    with pytest.raises(InputError, match=r"^own text$"):
        config_files.load(path)


def test_loaded_config_is_what_the_function_returns(file):
    config = config_files.load(file)
    assert isinstance(config, ConfigDict) and config.name == "mine"
