"""Decoded splits as .npy files beside the TFDS sets: written atomically, checked on reading.

A split whose images stay on disk has the same files without `images.npy`.
"""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import tempfile
import warnings
import zlib

import numpy as np

from kdjax.data.arrays import Arrays

_FORMAT = 1
_FILES = tuple(field.name for field in dataclasses.fields(Arrays))


class _Stale(Exception):
    """The cache is not there, or was made from other data."""


def load(root: pathlib.Path, directory: pathlib.Path, split: str, *, images: bool = True) -> Arrays:
    """Returns one split of a prepared TFDS set, from the cache if it is there and whole.

    Args:
        root: the TFDS directory; the cache is `root / "kdjax_arrays"`.
        directory: the prepared set, `root / name / version`.
        split: one split that it has.
        images: whether they are wanted; without, they are neither read nor kept.

    Returns:
        The split's arrays. A damaged cache is rebuilt with a RuntimeWarning; a stale one silently.
    """
    folder = root / "kdjax_arrays" / directory.relative_to(root) / split
    source = _fingerprint(directory)
    try:
        return _read(folder, source, images)
    except _Stale:
        pass
    except (OSError, ValueError, KeyError, TypeError) as damage:
        warnings.warn(f"rebuilding the damaged cache {folder}: {damage}", RuntimeWarning, 2)
    decoded = _decode(directory, split, images)
    try:
        _write(folder, source, decoded)
    except OSError as reason:
        warnings.warn(f"cannot cache arrays in {folder}: {reason}", RuntimeWarning, 2)
    return decoded


def _decode(directory: pathlib.Path, split: str, images: bool) -> Arrays:
    # A set that is cached is spared the half second that importing TFDS takes.
    from kdjax.data import decode

    return decode.split(directory, split, images)


def _fingerprint(directory: pathlib.Path) -> str:
    """Changes when other data are prepared under the same name and version."""
    # Times, because array_record pads small files to one size; contents would be read every time.
    stats = [(path.name, path.stat()) for path in sorted(directory.iterdir())]
    facts = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _checksum(path: pathlib.Path) -> int:
    # Faster than the cryptographic ones; it guards against damage, not against an attacker.
    return zlib.crc32(np.memmap(path, np.uint8, mode="r").data)


def _read(folder: pathlib.Path, source: str, images: bool) -> Arrays:
    if not folder.exists():
        raise _Stale
    meta = json.loads((folder / "meta.json").read_text())
    if (meta["format"], meta["source"]) != (_FORMAT, source):
        raise _Stale
    if images and "images" not in meta["crc32"]:
        raise _Stale
    wanted = [name for name in _FILES if images or name != "images"]
    for name in wanted:
        if _checksum(folder / f"{name}.npy") != meta["crc32"][name]:
            raise ValueError(f"{name}.npy has changed since it was written")
    # Mapped: what is not used, or is but copied to a device, is never a second time in memory.
    found = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in wanted}
    return Arrays(**{"images": None} | found)


def _write(folder: pathlib.Path, source: str, decoded: Arrays) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".writing-") as scratch:
        new, old = pathlib.Path(scratch, "new"), pathlib.Path(scratch, "old")
        new.mkdir()
        found = {name: getattr(decoded, name) for name in _FILES}
        names = [name for name, values in found.items() if values is not None]
        for name in names:
            np.save(new / f"{name}.npy", found[name])
        crc32 = {name: _checksum(new / f"{name}.npy") for name in names}
        meta = {"format": _FORMAT, "source": source, "crc32": crc32}
        (new / "meta.json").write_text(json.dumps(meta))
        _swap(folder, new, old)


def _swap(folder: pathlib.Path, new: pathlib.Path, old: pathlib.Path) -> None:
    # Another process may be writing the same arrays: whoever comes last leaves them as they are.
    with contextlib.suppress(FileNotFoundError):
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        if not folder.exists():
            raise
