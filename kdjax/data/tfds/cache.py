"""Cache of decoded splits as .npy files: written atomically, checked on reading.

A split whose images are left on disk has the same files without `images.npy`.
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

# Increased when the arrays of some data set change. 2: records are decoded as by prediction, and
# their labels are checked before conversion.
FORMAT = 2
_FILES = tuple(field.name for field in dataclasses.fields(Arrays))


class _Stale(Exception):
    """The cache does not exist, or was written from other data."""


def load(root: pathlib.Path, directory: pathlib.Path, split: str, *, images: bool = True) -> Arrays:
    """Returns a split of a prepared TFDS data set, from the cache if it is valid.

    Args:
        root: the TFDS directory; the cache is `root / "kdjax_arrays"`.
        directory: the prepared data set, `root / name / version`.
        split: name of a split in it.
        images: whether to load the images; if not, they are neither read nor cached.

    Returns:
        The arrays of the split. A damaged cache is rebuilt with a RuntimeWarning, an outdated one
        without.
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
    # Imported here because importing TFDS takes half a second, and a cached split avoids it.
    from kdjax.data.tfds import decode

    return decode.split(directory, split, images)


def _fingerprint(directory: pathlib.Path) -> str:
    """Returns a hash that changes if other data are prepared under the same name and version."""
    # Includes times, because array_record pads small files to the same size. Hashing the contents
    # would read all files on every start.
    stats = [(path.name, path.stat()) for path in sorted(directory.iterdir())]
    entries = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


def _checksum(path: pathlib.Path) -> int:
    # Faster than a cryptographic hash, and sufficient to detect damage.
    return zlib.crc32(np.memmap(path, np.uint8, mode="r").data)


def _read(folder: pathlib.Path, source: str, images: bool) -> Arrays:
    if not folder.exists():
        raise _Stale
    meta = json.loads((folder / "meta.json").read_text())
    if (meta["format"], meta["source"]) != (FORMAT, source):
        raise _Stale
    if images and "images" not in meta["crc32"]:
        raise _Stale
    names = [name for name in _FILES if images or name != "images"]
    for name in names:
        if _checksum(folder / f"{name}.npy") != meta["crc32"][name]:
            raise ValueError(f"{name}.npy has changed since it was written")
    # Memory-mapped, so that arrays that are unused or only copied to a device take no memory.
    loaded = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names}
    return Arrays(**{"images": None} | loaded)


def _write(folder: pathlib.Path, source: str, decoded: Arrays) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".writing-") as scratch:
        new, old = pathlib.Path(scratch, "new"), pathlib.Path(scratch, "old")
        new.mkdir()
        fields = {name: getattr(decoded, name) for name in _FILES}
        present = {name: values for name, values in fields.items() if values is not None}
        for name, values in present.items():
            np.save(new / f"{name}.npy", values)
        crc32 = {name: _checksum(new / f"{name}.npy") for name in present}
        meta = {"format": FORMAT, "source": source, "crc32": crc32}
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
