"""Config files: found by name or path, and loaded with errors of one line."""

import ast
import itertools
import pathlib
import runpy
import traceback
from collections.abc import Sequence

from ml_collections import ConfigDict

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


def load(path: pathlib.Path) -> ConfigDict:
    """Returns what `get_config` of a config file returns.

    Raises:
        InputError: naming file, line and error, if the file fails or does not define a config.
    """
    try:
        get_config = runpy.run_path(str(path)).get("get_config")
        if not callable(get_config):
            raise InputError(f"config file {str(path)!r} does not define a function get_config()")
        config = get_config()
    except InputError:
        raise
    except Exception as error:
        raise InputError(_failure(path, error)) from error
    if not isinstance(config, ConfigDict):
        raise InputError(
            f"get_config() of {str(path)!r} returns {type(config).__name__}, not a ConfigDict: "
            "start from kdjax.config.base() and return it"
        )
    return config


def _failure(path: pathlib.Path, error: Exception) -> str:
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
