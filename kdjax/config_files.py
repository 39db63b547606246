"""Config files: found by name or path, and loaded with errors of one line."""

import ast
import itertools
import pathlib
import runpy
import traceback
from collections.abc import Sequence

from ml_collections import ConfigDict

from kdjax import recipes
from kdjax.errors import InputError, unknown_name_error

# The configs of the package: in a clone a link to the folder `configs` of the repository.
FOLDER = pathlib.Path(__file__).parent / "configs"


def shipped() -> dict[str, pathlib.Path]:
    """Returns the config files of the package by name, such as `digits`."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.py"))}


def summary(path: pathlib.Path) -> str:
    """Returns the first line of the docstring of a config file, which is not executed."""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


def find(value: str) -> pathlib.Path:
    """Returns the config file for the value of `--config`.

    Args:
        value: the name of a config of the package, or the path of a file.

    Raises:
        InputError: if there is none, with the nearest name or file.
    """
    path = pathlib.Path(value)
    if ":" in value:  # ml_collections would pass what follows to get_config
        raise InputError(f"config file {value!r}: the path must not contain ':'")
    if path.is_file():
        return path
    if path.suffix == ".py" or path.name != value:
        raise _missing_file_error(path)
    names = shipped()
    if value not in names:
        raise InputError(
            f"{unknown_name_error('config', value, names)}; or give the path of a .py file"
        )
    return names[value]


def with_path(argv: Sequence[str]) -> tuple[list[str], pathlib.Path | None]:
    """Returns the arguments with the path of the config file in place of its name, and the path.

    Args:
        argv: of a command; the last `--config` counts.

    Raises:
        InputError: if there is no such file.
    """
    replaced, path = list(argv), None
    for index, (flag, following) in enumerate(itertools.pairwise([*argv, ""])):
        name, equals, value = flag.partition("=")
        if name in ("--config", "-config"):
            path = find(value if equals else following)
            replaced[index : index + 2 - bool(equals)] = (
                [f"{name}={path}"] if equals else [flag, str(path)]
            )
    return replaced, path


def flag_value(argv: Sequence[str], name: str) -> str:
    """Returns the last value of a flag, `--name=value` or `--name value`; empty if not given."""
    result = ""
    for flag, following in itertools.pairwise([*argv, ""]):
        given, equals, value = flag.partition("=")
        if given in (f"--{name}", f"-{name}"):
            result = value if equals else following
    return result


def takes_size(path: pathlib.Path) -> bool:
    """Returns whether the first argument of `get_config` is called `size`.

    The file is not executed.
    """
    functions = (
        node
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name == "get_config"
    )
    return any(node.args.args and node.args.args[0].arg == "size" for node in functions)


def size_argument(argv: Sequence[str]) -> str:
    """Returns the size to pass to `get_config`: none beside a recipe, which it would choose."""
    return "" if flag_value(argv, "config.recipe") else flag_value(argv, "config.size")


def expand(argv: Sequence[str], path: pathlib.Path) -> list[str]:
    """Returns the arguments with what `--config.recipe` and `--config.size` stand for.

    Args:
        argv: of a command, of `with_path`.
        path: the config file in it.
    """
    # In this order: behind a size, the argument is no longer the path.
    return _with_size(_with_recipe(argv, path), path)


def _with_size(argv: Sequence[str], path: pathlib.Path) -> list[str]:
    """Returns the arguments with `--config.size` as the argument of `get_config`, if it has one."""
    size = size_argument(argv)
    if not size or not takes_size(path):
        return list(argv)
    # ml_collections passes what follows the colon to get_config.
    return [f"{word}:{size}" if _names_file(word, path) else word for word in argv]


def _with_recipe(argv: Sequence[str], path: pathlib.Path) -> list[str]:
    """Returns the arguments with the fields of `--config.recipe` that are not given themselves."""
    given = {word.lstrip("-").partition("=")[0] for word in argv}
    fields = recipes.RECIPES.get(flag_value(argv, "config.recipe"), {})
    added = [
        f"--config.{field}={value}"
        for field, value in fields.items()
        if f"config.{field}" not in given
    ]
    at = next(i for i, word in enumerate(argv) if _names_file(word, path))
    return [*argv[: at + 1], *added, *argv[at + 1 :]]


def _names_file(word: str, path: pathlib.Path) -> bool:
    """Returns whether an argument of `with_path` names the config file."""
    return word in (str(path), f"--config={path}", f"-config={path}")


def load(path: pathlib.Path, size: str = "") -> ConfigDict:
    """Returns what `get_config` of a config file returns.

    Args:
        path: the file.
        size: of `size_argument`, for a `get_config` with an argument; empty: its default.

    Raises:
        InputError: naming file, line and error, if the file fails or does not define a config.
    """
    try:
        get_config = runpy.run_path(str(path)).get("get_config")
        if not callable(get_config):
            raise InputError(f"config file {str(path)!r} does not define a function get_config()")
        config = get_config(size) if size and takes_size(path) else get_config()
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(_failure(path, error)) from error
    if not isinstance(config, ConfigDict):
        raise InputError(
            f"get_config() of {str(path)!r} returns {type(config).__name__}, not a ConfigDict: "
            "start from kdjax.config.base() and return it"
        )
    return config


def _failure(path: pathlib.Path, error: Exception | SystemExit) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    reason = (str(error).splitlines() or [""])[0]
    where = f"config file {str(path)!r}" + (f", line {line}" if line else "")
    return f"{where}: {type(error).__name__}: {reason}"


def _missing_file_error(path: pathlib.Path) -> InputError:
    candidates = [str(file) for file in path.parent.glob("*.py")]
    if candidates:
        return unknown_name_error("config file", str(path), candidates)
    if path.stem in shipped():
        return InputError(
            f"no config file {str(path)!r}; the config of the package is --config={path.stem}"
        )
    return InputError(f"no config file {str(path)!r}")
