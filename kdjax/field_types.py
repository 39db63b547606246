"""Types of config fields: values from files and command lines, converted to the field's type."""

import json
import math
import numbers
import operator
import os
from collections.abc import Callable, Mapping
from typing import Any

from kdjax.errors import InputError

_TRUE = frozenset(("true", "t", "yes", "y", "on", "1"))
_FALSE = frozenset(("false", "f", "no", "n", "off", "0"))


def integer(value: Any) -> int | None:
    """Returns a whole number as an int; `1e3`, `2.0` and their text are whole. None for others."""
    if isinstance(value, str):
        text = value.strip().lower()
        try:
            return int(text, 16 if text.lstrip("+-").startswith("0x") else 10)
        except ValueError:
            value = real(text)
    if value is None or _is_boolean(value):
        return None
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral):
        number = float(value)
        return int(number) if number.is_integer() else None
    try:
        return operator.index(value)
    except TypeError:
        return None


def real(value: Any) -> float | None:
    """Returns a number or its text as a float; None for others."""
    if _is_boolean(value) or not isinstance(value, (str, numbers.Real)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def boolean(value: Any) -> bool | None:
    """Returns a boolean, 0, 1, or a word such as `true` or `no` as a bool; None for others."""
    if isinstance(value, str):
        word = value.strip().lower()
        return True if word in _TRUE else False if word in _FALSE else None
    number = int(value) if _is_boolean(value) else integer(value)
    return bool(number) if number in (0, 1) else None


def text(value: Any) -> str | None:
    """Returns a string or a path as a str; None for others."""
    return str(os.fspath(value)) if isinstance(value, (str, os.PathLike)) else None


def records(value: Any) -> tuple[dict[str, Any], ...] | None:
    """Returns a tuple or list of mappings from names to values as a tuple of dicts; else None."""
    if not isinstance(value, (tuple, list)):
        return None
    entries = [entry for entry in value if isinstance(entry, Mapping) and all(map(_is_text, entry))]
    return tuple(map(dict, entries)) if len(entries) == len(value) else None


def names(value: Any) -> tuple[str, ...] | None:
    """Returns a text with commas, or a tuple or list of texts, as a tuple of names; None else."""
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, (tuple, list)) or not all(map(_is_text, texts)):
        return None
    stripped = (name.strip() for text in texts for name in text.split(","))
    return tuple(name for name in stripped if name)


def json_object(value: Any) -> Any:
    """Returns a dict as its JSON text; "" for an empty one, and other values unchanged."""
    if not isinstance(value, Mapping):
        return value
    try:
        return json.dumps(value, sort_keys=True) if value else ""
    except TypeError as error:
        raise InputError(f"{value!r} cannot be stored as JSON: {error}") from error


def parse_json(text: str, where: str, hint: str = "") -> Any:
    """Returns the value of a JSON text in which no object has a name twice.

    Args:
        text: the text.
        where: name of the field, for messages.
        hint: what to write instead of a name twice; empty: nothing is suggested.

    Raises:
        InputError: for a name that an object has twice, of which `json` would use the last.
        ValueError: if the text is not JSON.
    """

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        given = [name for name, _ in pairs]
        for name in given:
            if given.count(name) > 1:
                raise InputError(f"{where}: {name} is given twice{hint and f': {hint}'}")
        return dict(pairs)

    return json.loads(text, object_pairs_hook=mapping)


def comma_separated(value: Any) -> Any:
    """Returns a number, or a tuple, list or array of texts or numbers, as one text.

    Texts that contain a comma give a JSON list. Other values are returned unchanged.
    """
    if hasattr(value, "tolist"):  # of NumPy or JAX
        value = value.tolist()
    if isinstance(value, numbers.Real) and not _is_boolean(value):
        return str(value)
    if not isinstance(value, (tuple, list)) or not value:
        return value
    parts = [str(part) for part in value if isinstance(part, (str, os.PathLike, numbers.Real))]
    if len(parts) < len(value):
        return value
    return json.dumps(parts) if any("," in part for part in parts) else ",".join(parts)


def convert(name: str, value: Any, default: Any) -> Any:
    """Returns the value of a field as the type of its default.

    Args:
        name: of the field, for the message.
        value: from a config file, a command line or a stored config.
        default: of the field.

    Raises:
        InputError: if the value cannot be converted without loss, or is not finite.
    """
    converter, description = _NAMES if _is_names(default) else TYPES[type(default)]
    converted = converter(value)
    if converted is None:
        raise InputError(f"{name} {value!r} is not {description}")
    if isinstance(converted, float) and not math.isfinite(converted):
        raise InputError(f"{name} {converted} is not a finite number")
    return converted


def _is_boolean(value: Any) -> bool:
    return isinstance(value, bool) or type(value).__name__ in ("bool", "bool_")  # NumPy's


def _is_names(default: Any) -> bool:
    return isinstance(default, tuple) and any(map(_is_text, default))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


# Type of the default -> (conversion, description of the valid values).
TYPES: Mapping[type, tuple[Callable[[Any], Any], str]] = {
    int: (integer, "an integer"),
    float: (real, "a number"),
    bool: (boolean, "true or false"),
    str: (text, "a string"),
    tuple: (records, 'a tuple of dicts of fields, such as ({"objective.method": "kd"},)'),
}
# The same of a field whose default is a tuple of names.
_NAMES = (names, 'names separated by commas, or a tuple of names, such as ("tensorboard",)')
