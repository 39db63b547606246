"""The card of a model that was taken away: what it is, what it promises, and its files."""

import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import kdjax
from kdjax.errors import InputError

NAME = "card.json"
FORMAT = 1  # of what follows; another one means that fields have changed their meaning
FIELDS: Mapping[str, str] = {
    "format": "FORMAT",
    "kdjax": "the version that wrote the model",
    "jax": "the version that wrote the model",
    "name": "of the run",
    "data": "name and version of the data set",
    "classes": "their names, by label",
    "input": "shape [h, w, c] and dtype of an image, and the preprocessing that is inside",
    "outputs": "by name, in their order",
    "score": "name of the confidence, and the p of max_logit_pnorm",
    "threshold": "the least confidence that is accepted; null: nothing is",
    "certificate": "what the threshold is certified for; null: none could be",
    "test": "metrics of the run's network on the test split",
    "config_sha256": "of the run's config.json",
    "checked": "what the files' outputs were compared with, and how far off they were",
    "files": "sha256 and origin of each",
    "notes": "for whoever uses the model",
}


def _any(value: Any) -> bool:
    return True


def _is_input(value: Any) -> bool:
    shape = value.get("shape") if isinstance(value, dict) else None
    if not isinstance(shape, list) or len(shape) != 3:
        return False
    return all(isinstance(size, int) and size > 0 for size in shape)


def _are_names(value: Any) -> bool:
    if not isinstance(value, list) or len(value) < 2:
        return False
    return all(isinstance(name, str) for name in value)


def _are_files(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(file, dict) and "sha256" in file for file in value.values()
    )


# Of the fields that programs read.
_FORMS: Mapping[str, Callable[[Any], bool]] = {
    "classes": _are_names,
    "input": _is_input,
    "threshold": lambda value: value is None or isinstance(value, float),
    "files": _are_files,
}


def sha256(content: bytes) -> str:
    """Returns the checksum by which a card knows its files."""
    return hashlib.sha256(content).hexdigest()


def of_json(value: Any) -> str:
    """Returns the checksum of a JSON value, whatever the order and layout of its file."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return sha256(text.encode())


def read(folder: pathlib.Path) -> dict[str, Any]:
    """Returns the card in a model's folder; `FIELDS` says what it holds.

    Raises:
        InputError: if it is missing, damaged, or of another format.
    """
    path = folder / NAME
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{str(folder)!r} holds no model: {NAME} cannot be read") from error
    except ValueError as error:
        raise InputError(f"{str(path)!r} is damaged: {error}") from error
    if not isinstance(found, dict) or "format" not in found:
        raise InputError(f"{str(path)!r} is no card of kdjax")
    if found["format"] != FORMAT:
        raise InputError(
            f"{str(path)!r} is of format {found['format']!r}, written by kdjax "
            f"{found.get('kdjax')}: kdjax {kdjax.__version__} reads format {FORMAT}"
        )
    for field in FIELDS:
        if field not in found or not _FORMS.get(field, _any)(found[field]):
            raise InputError(f"{str(path)!r} is damaged: {field!r} is missing or wrong")
    return found


def read_file(folder: pathlib.Path, card: Mapping[str, Any], name: str) -> bytes:
    """Returns the content of one of a model's files.

    Raises:
        InputError: if the card does not name it, it is missing, or it is not what was written.
    """
    path = folder / name
    if name not in card["files"]:
        raise InputError(f"the model in {str(folder)!r} has no {name}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror}") from error
    if sha256(content) != card["files"][name]["sha256"]:
        raise InputError(f"{str(path)!r} is damaged: it is not the file that its card describes")
    return content
