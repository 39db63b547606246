"""Cache of decoded arrays as .npy files: written atomically, checked on reading."""

import contextlib
import json
import pathlib
import tempfile
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

Arrays = Mapping[str, np.ndarray]


class Source(NamedTuple):
    """What the arrays were decoded from; a cache of another source is replaced.

    Attributes:
        format: increased when the arrays change for the same data.
        fingerprint: changes if the data change.
    """

    format: int
    fingerprint: str


class _Stale(Exception):
    """The cache does not exist, or was written from other data."""


def load(
    folder: pathlib.Path, source: Source, names: Sequence[str], decode: Callable[[], Arrays]
) -> Arrays:
    """Returns arrays from the cache in a folder if it is valid, else decodes and caches them.

    A damaged cache is rebuilt with a RuntimeWarning, an outdated one without. If the folder cannot
    be written, the arrays are returned with a RuntimeWarning.

    Args:
        folder: of the cache.
        source: what the arrays are decoded from.
        names: of the arrays that are needed; others are not read.
        decode: returns the arrays, at least those that are needed.
    """
    try:
        return _read(folder, source, names)
    except _Stale:
        pass
    except (OSError, ValueError, KeyError, TypeError) as damage:
        warnings.warn(f"rebuilding the damaged cache {folder}: {damage}", RuntimeWarning, 2)
    arrays = decode()
    try:
        _write(folder, source, arrays)
    except OSError as reason:
        warnings.warn(f"cannot cache arrays in {folder}: {reason}", RuntimeWarning, 2)
    return arrays


def _checksum(path: pathlib.Path) -> int:
    # Faster than a cryptographic hash, and sufficient to detect damage.
    return zlib.crc32(np.memmap(path, np.uint8, mode="r").data)


def _read(folder: pathlib.Path, source: Source, names: Sequence[str]) -> Arrays:
    if not folder.exists():
        raise _Stale
    meta = json.loads((folder / "meta.json").read_text())
    if (meta["format"], meta["source"]) != source:
        raise _Stale
    if "images" in names and "images" not in meta["crc32"]:  # left out by an earlier call
        raise _Stale
    for name in names:
        if _checksum(folder / f"{name}.npy") != meta["crc32"][name]:
            raise ValueError(f"{name}.npy has changed since it was written")
    # Memory-mapped, so that arrays that are unused or only copied to a device take no memory.
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names}


def _write(folder: pathlib.Path, source: Source, arrays: Arrays) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".writing-") as scratch:
        new, old = pathlib.Path(scratch, "new"), pathlib.Path(scratch, "old")
        new.mkdir()
        for name, values in arrays.items():
            np.save(new / f"{name}.npy", values)
        crc32 = {name: _checksum(new / f"{name}.npy") for name in arrays}
        meta = {"format": source.format, "source": source.fingerprint, "crc32": crc32}
        (new / "meta.json").write_text(json.dumps(meta))
        _swap(folder, new, old)


def _swap(folder: pathlib.Path, new: pathlib.Path, old: pathlib.Path) -> None:
    # If another process has written the same arrays in between, its files are kept.
    with contextlib.suppress(FileNotFoundError):
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        if not folder.exists():
            raise
