"""Files that are written completely or not at all, and readers that detect damaged files."""

import hashlib
import io
import json
import math
import os
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from kdjax.errors import InputError

# What numpy and zipfile raise for a damaged .npz file, depending on which byte is wrong.
DAMAGED_NPZ = (OSError, ValueError, KeyError, EOFError, TypeError, RuntimeError, zipfile.BadZipFile)


def write_file(path: pathlib.Path, content: bytes | str) -> None:
    """Writes a file so that a reader sees the old content or the complete new content.

    Args:
        path: the file, in an existing folder.
        content: text is encoded as UTF-8.

    Raises:
        OSError: naming the file; no temporary file is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content if isinstance(content, bytes) else content.encode())
        temporary.replace(path)
    except OSError as error:
        if error.errno is None:
            raise
        # Python does not name the file when the disk is full.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a JSON file as `write_file` does; missing parent folders are created.

    Raises:
        ValueError: for a number that is not finite, which JSON cannot represent.
    """
    content = json.dumps(value, indent=2, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, content)


def finite_or_none(value: float) -> float | None:
    """Returns a number as JSON can represent it: None for an infinite one and for NaN."""
    return value if math.isfinite(value) else None


def link_to(link: pathlib.Path, target: str | pathlib.Path) -> None:
    """Makes a path a symlink to a folder; an existing symlink is replaced atomically.

    Args:
        link: in an existing folder.
        target: relative to the folder of `link`, or absolute.
    """
    if link.is_symlink() and link.readlink() == pathlib.Path(target):
        return
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target, target_is_directory=True)
    try:
        temporary.replace(link)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: pathlib.Path) -> Any:
    """Returns the value stored in a JSON file.

    Raises:
        InputError: if the file is damaged.
        OSError: if the file cannot be read.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{str(path)!r} is damaged: {error}") from error


def write_npz(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an .npz file as `write_file` does."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # the stub takes the names for options
    write_file(path, buffer.getvalue())


def read_npz(path: pathlib.Path, *names: str) -> tuple[np.ndarray, ...]:
    """Returns named arrays of an .npz file.

    Raises:
        FileNotFoundError: if there is no such file.
        InputError: if the file is damaged or lacks one of the arrays.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return tuple(np.asarray(arrays[name]) for name in names)
    except FileNotFoundError:
        raise
    except DAMAGED_NPZ as error:
        raise InputError(f"{str(path)!r} is damaged: {error}") from error


def npz_names(path: pathlib.Path) -> tuple[str, ...]:
    """Returns the names of the arrays of an .npz file.

    Raises:
        FileNotFoundError: if there is no such file.
        InputError: if the file is damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return tuple(arrays.files)
    except FileNotFoundError:
        raise
    except DAMAGED_NPZ as error:
        raise InputError(f"{str(path)!r} is damaged: {error}") from error


def file_hash(*paths: pathlib.Path) -> str:
    """Returns the SHA-256 of the content of files, one after the other, in hexadecimal."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()
