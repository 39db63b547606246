"""Networks of the user: a Linen or NNX class in a module or in a file, found by its name."""

import functools
import hashlib
import importlib
import importlib.util
import inspect
import pathlib
import pkgutil
import sys
import traceback
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import flax.linen as nn
from flax import nnx

from kdjax import field_types
from kdjax.errors import InputError, nearest_name, suggestion
from kdjax.paths import user_path

MODULES = (nn.Module, nnx.Module)
MAX_REASON = 300  # characters of another library's error


def is_reference(name: str) -> bool:
    """Returns whether a model's name is `package.module:Class` or `file.py:Class`."""
    return ":" in name


def absolute(name: str) -> str:
    """Returns a model's name with the path of its file made absolute, if it names one."""
    location, colon, class_name = name.rpartition(":")
    if not location.endswith(".py"):
        return name
    return f"{user_path(location).absolute()}{colon}{class_name}"


def short_name(name: str) -> str:
    """Returns a model's name for tables: of the path of a file only the last component."""
    return name.rpartition("/")[-1] if is_reference(name) else name


def load_class(reference: str) -> type:
    """Returns the class of a network.

    Args:
        reference: `package.module:Class`, where the module is found as by `import` or in the
            working directory; or `path/to/file.py:Class`.

    Raises:
        InputError: if the module, the file or the class is missing or fails, or is no Flax module.
    """
    location, _, name = reference.rpartition(":")
    if not location or not name:
        raise InputError(
            f"model {reference!r}: must be package.module:Class or path/to/file.py:Class"
        )
    module = _load_module(reference, location)
    networks = [key for key, value in vars(module).items() if _is_network(value)]
    if not hasattr(module, name):
        raise InputError(
            f"model {reference!r}: {location} has no class {name!r}"
            f"{suggestion(name, networks or vars(module)) or _list('networks there', networks)}"
        )
    network = getattr(module, name)
    if not _is_network(network):
        raise InputError(
            f"model {reference!r}: {name} is {_describe(network)}, not a subclass of "
            f"flax.linen.Module or flax.nnx.Module{_list('networks there', networks)}"
        )
    return network


def parse_arguments(field: str, text: str) -> dict[str, Any]:
    """Returns the arguments of a class from their JSON text; an empty text gives none.

    Args:
        field: name of the config field, for messages.
        text: a JSON object.

    Raises:
        InputError: if the text is anything else.
    """
    try:
        arguments = field_types.parse_json(text or "{}", field)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(
            f'{field} {text!r} is not JSON, such as {{"depth": 3}}: {error}'
        ) from error
    if not isinstance(arguments, dict):
        raise InputError(f'{field} {text!r} is not a JSON object, such as {{"depth": 3}}')
    return arguments


def _is_network(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, MODULES) and value not in MODULES


def _describe(value: Any) -> str:
    if not inspect.isclass(value):
        return f"a {type(value).__name__}"
    bases = (f"{base.__module__}.{base.__name__}" for base in value.__bases__)
    return f"a subclass of {', '.join(bases)}"


def _list(title: str, names: Iterable[str]) -> str:
    return f"; {title}: {', '.join(sorted(names))}" if names else ""


def _load_module(reference: str, location: str) -> ModuleType:
    try:
        if location.endswith(".py"):
            path = user_path(location).absolute()
            if not path.is_file():
                raise _missing_file(reference, path)
            return _load_file(path, path.stat().st_mtime_ns)
        _append_to_path(pathlib.Path.cwd())
        return importlib.import_module(location)
    except InputError:
        raise
    except ModuleNotFoundError as error:
        if error.name and f"{location}.".startswith(f"{error.name}."):
            raise _missing_module(reference, error.name) from None
        raise failure(reference, error) from error
    except (Exception, SystemExit) as error:
        raise failure(reference, error) from error


@functools.cache
def _load_file(path: pathlib.Path, changed: int) -> ModuleType:
    """Returns the module of a file; `changed`, its time of change, makes an edit load it again."""
    _append_to_path(path.parent)
    name = f"_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # a file that ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look up annotations
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _append_to_path(folder: pathlib.Path) -> None:
    """Makes the modules of a folder importable, after all others."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _missing_file(reference: str, path: pathlib.Path) -> InputError:
    files = [file.name for file in path.parent.glob("*.py")] if path.parent.is_dir() else []
    hint = suggestion(path.name, files)
    return InputError(f"model {reference!r}: no file {str(path)!r}{hint}")


def _missing_module(reference: str, name: str) -> InputError:
    parent, _, last = name.rpartition(".")
    package = sys.modules.get(parent)
    path = list(getattr(package, "__path__", [])) if parent else None
    names = [module.name for module in pkgutil.iter_modules(path) if module.name != last]
    near = nearest_name(last, names)
    hint = f": did you mean {f'{parent}.{near}' if parent else near!r}?" if near else ""
    return InputError(
        f"model {reference!r}: no module {name!r} in the working directory or among the installed "
        f"packages{hint}"
    )


def failure(reference: str, error: BaseException) -> InputError:
    """Returns one line for an exception of the user's code, with its file and line."""
    reason = " ".join(str(error).split())[:MAX_REASON]
    line = _line(error)
    return InputError(
        f"model {reference!r}: {type(error).__name__}: {reason}{f' ({line})' if line else ''}"
    )


def _line(error: BaseException) -> str:
    """Returns file and line of the innermost frame that belongs neither to a library nor to us."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    libraries = (sys.prefix, sys.base_prefix, str(pathlib.Path(__file__).parents[1]), "<")
    frames = [
        f"{frame.filename}, line {frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(libraries)
    ]
    return frames[-1] if frames else ""
