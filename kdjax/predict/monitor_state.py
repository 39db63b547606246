"""The file in which `kdjax monitor` keeps what it has seen, and the lines that it has read."""

import contextlib
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import filelock

import kdjax
from kdjax.errors import InputError
from kdjax.export import card
from kdjax.paths import require_creatable
from kdjax.runtime.atomic_io import read_json, write_json

FORMAT = 1  # of the file
_HEADER = ("format", "kdjax", "model", "sha256")


@contextlib.contextmanager
def lock(path: pathlib.Path) -> Iterator[None]:
    """Holds the lock of a state: of two commands at once, one would lose what the other has read.

    Raises:
        InputError: if another process holds it, for a folder, or if it cannot be created.
    """
    if path.is_dir():
        raise InputError(f"{str(path)!r} is a folder, and not a state of kdjax monitor")
    require_creatable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    held = filelock.FileLock(path.with_name(f"{path.name}.lock"), timeout=0)
    try:
        held.acquire()
    except filelock.Timeout:
        raise InputError(
            f"the state {str(path)!r} is in use by another process: wait until it ends"
        ) from None
    try:
        yield
    finally:
        held.release()


def identity(model_card: Mapping[str, Any]) -> str:
    """Returns a checksum of the model: of its files, classes, threshold and figures to watch."""
    fields = ("files", "classes", "threshold", "class_thresholds", "monitoring", "certificate")
    values = {name: model_card.get(name) for name in fields}
    sums = {name: file["sha256"] for name, file in model_card["files"].items()}
    return card.sha256_json({**values, "files": sums})


def load(path: pathlib.Path, model: str) -> dict[str, Any] | None:
    """Returns the content of a state; None if there is none yet.

    Args:
        path: of the file.
        model: of `identity`.

    Raises:
        InputError: for another model, a damaged file, or one of another format.
    """
    if not path.exists():
        return None
    content = read_json(path)
    if not isinstance(content, dict) or not set(_HEADER) <= content.keys():
        raise InputError(f"{str(path)!r} is not a state of kdjax monitor")
    if content["format"] != FORMAT:
        raise InputError(
            f"{str(path)!r} has format {content['format']!r}, written by kdjax "
            f"{content.get('kdjax')}: kdjax {kdjax.__version__} reads format {FORMAT}"
        )
    if content["sha256"] != _checksum(content):
        raise InputError(
            f"{str(path)!r} is damaged (checksum mismatch): restore a copy of it, or choose "
            "another --state, which starts from nothing"
        )
    if content["model"] != model:
        raise InputError(
            f"{str(path)!r} is the state of another model, or of another export of it: choose "
            "another --state"
        )
    return content


def save(path: pathlib.Path, model: str, content: Mapping[str, Any]) -> None:
    """Writes a state completely or not at all.

    Args:
        path: of the file.
        model: of `identity`.
        content: for JSON.
    """
    header = {"format": FORMAT, "kdjax": kdjax.__version__, "model": model}
    write_json(path, {**header, "sha256": _checksum(content), **content})


def _checksum(content: Mapping[str, Any]) -> str:
    stored = json.loads(json.dumps(content))  # as it is read again
    return card.sha256_json({name: stored[name] for name in stored.keys() - set(_HEADER)})
