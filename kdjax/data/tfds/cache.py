"""Cache of the decoded splits of prepared TFDS data sets."""

import dataclasses
import hashlib
import json
import pathlib

from kdjax.data import cache
from kdjax.data.arrays import Arrays

# Increased when the arrays of some data set change. 2: records are decoded as by prediction, and
# their labels are checked before conversion.
FORMAT = 2
_FIELDS = tuple(field.name for field in dataclasses.fields(Arrays))


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
    names = [name for name in _FIELDS if images or name != "images"]

    def decode_split() -> cache.Arrays:
        # Imported here because importing TFDS takes half a second, and a cached split avoids it.
        from kdjax.data.tfds import decode

        arrays = decode.split(directory, split, images)
        return {name: getattr(arrays, name) for name in names}

    source = cache.Source(FORMAT, _fingerprint(directory))
    arrays = dict(cache.load(folder, source, names, decode_split))
    return Arrays(arrays.pop("images", None), **arrays)


def _fingerprint(directory: pathlib.Path) -> str:
    """Returns a hash that changes if other data are prepared under the same name and version."""
    # Includes times, because array_record pads small files to the same size. Hashing the contents
    # would read all files on every start.
    stats = [(path.name, path.stat()) for path in sorted(directory.iterdir())]
    entries = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()
