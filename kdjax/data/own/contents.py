"""The contents of images: their hashes and modes, remembered between runs."""

import concurrent.futures
import dataclasses
import functools
import hashlib
import io
import os
import pathlib
import threading
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import PIL
import PIL.Image

from kdjax.data import image_files, progress
from kdjax.data.own.listing import Header, Images
from kdjax.errors import InputError
from kdjax.runtime import atomic_io

Index = dict[str, Any]
_BATCH = 256


@dataclasses.dataclass(frozen=True)
class Files:
    """Images in files; see `listing.Images`.

    Attributes:
        title: of the listing.
        paths: of the files.
        names: of the images in messages.
    """

    title: str
    paths: Sequence[pathlib.Path]
    names: Sequence[str]

    def stamp(self, number: int) -> str:
        """Returns a text that changes whenever the file is written; "" without a file."""
        return file_stamp(self.paths[number])

    def header(self, number: int) -> Header:
        """Returns the header of an image."""
        try:
            content = image_files.read_bytes(self.paths[number])
        except (OSError, InputError) as error:
            return Header("", "", reason(error))
        try:
            with PIL.Image.open(io.BytesIO(content)) as image:
                return Header(hashlib.sha256(content).hexdigest(), image.mode, "")
        except MemoryError:
            raise
        except Exception as error:  # the type depends on the decoder of a damaged file
            return Header("", "", reason(error))

    def open(self, number: int, digest: str) -> PIL.Image.Image:
        """Returns an image with this digest of `header`."""
        try:
            content = self.paths[number].read_bytes()
        except OSError as error:
            raise InputError(
                f"{self.title}: {self.names[number]!r} cannot be read any more: {reason(error)}"
            ) from error
        if hashlib.sha256(content).hexdigest() != digest:
            raise InputError(f"{self.title}: {self.names[number]!r} was changed during the run")
        return PIL.Image.open(io.BytesIO(content))


@dataclasses.dataclass(frozen=True)
class Rows:
    """Images in arrays of an npz file; see `listing.Images`.

    Attributes:
        path: of the file.
        sizes: number of images in each array, by name.
        mode: of the images, L or RGB.
        lock: taken while the arrays are read.
    """

    path: pathlib.Path
    sizes: dict[str, int]
    mode: str
    lock: Any = dataclasses.field(default_factory=threading.Lock, compare=False, repr=False)

    @functools.cached_property
    def _places(self) -> list[tuple[str, int]]:
        return [(name, row) for name, size in self.sizes.items() for row in range(size)]

    @functools.cached_property
    def _digest(self) -> str:
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @functools.cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        try:
            with np.load(self.path, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in self.sizes}
        except atomic_io.DAMAGED_NPZ as error:  # its arrays have not been read to their end before
            raise InputError(f"npz:{self.path}: damaged: {reason(error)}") from error

    @functools.cached_property
    def _stamp(self) -> str:
        return file_stamp(self.path)

    def stamp(self, number: int) -> str:
        """Returns a text that changes whenever the file is written."""
        name, row = self._places[number]
        return f"{self._stamp} {name}[{row}]"

    def header(self, number: int) -> Header:
        """Returns the header of an image."""
        name, row = self._places[number]
        return Header(f"{self._digest} {name}[{row}]", self.mode, "")

    def open(self, number: int, digest: str) -> PIL.Image.Image:
        """Returns an image."""
        name, row = self._places[number]
        with self.lock:
            pixels = self._arrays[name][row]
        squeezed = pixels[..., 0] if pixels.ndim == 3 and self.mode == "L" else pixels
        return PIL.Image.fromarray(squeezed)


def file_stamp(path: pathlib.Path) -> str:
    """Returns a text that changes whenever a file is written; "" if there is no file.

    It has the time of the last change of the inode, which programs cannot set.
    """
    try:
        stat = path.stat()
    except OSError:
        return ""
    return f"{path} {stat.st_ino} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"


def reason(error: BaseException) -> str:
    """Returns why an image cannot be read, in one line."""
    if isinstance(error, PIL.UnidentifiedImageError):  # its message has the address of an object
        return "not an image that Pillow can read"
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split()) or type(error).__name__


def read_index(path: pathlib.Path) -> Index:
    """Returns what is stored: headers by stamp, conversions and names of arrays by use.

    Headers of another version of Pillow, which may read other files, are not returned.
    """
    empty: Index = {"pillow": PIL.__version__, "headers": {}, "conversions": {}, "arrays": {}}
    try:
        index = atomic_io.read_json(path)
    except (OSError, InputError):
        return empty
    if not isinstance(index, dict) or index.keys() != empty.keys():
        return empty
    if not all(isinstance(index[name], type(value)) for name, value in empty.items()):
        return empty
    return index if index["pillow"] == PIL.__version__ else empty | {"arrays": index["arrays"]}


def headers(images: Images, count: int, index: Index) -> list[Header]:
    """Returns the headers of all images; only new and changed ones are read.

    Args:
        images: of a listing.
        count: their number.
        index: of `read_index`; its headers are replaced by these.
    """
    # Here and in what follows, threads open images. If a format is loaded by one of them, another
    # that needs the same format at that moment may fail to recognize its file.
    PIL.Image.init()
    stamps = [images.stamp(number) for number in range(count)]
    known = index["headers"]
    new = [number for number, stamp in enumerate(stamps) if stamp not in known]
    read: dict[int, Header] = {}
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool, quiet_pillow():
        for rows in progress.batches(len(new), _BATCH, "reading images"):
            numbers = new[rows.start : rows.stop]
            read.update(zip(numbers, pool.map(images.header, numbers), strict=True))
    result = [
        read[number] if number in read else Header(*known[stamp])
        for number, stamp in enumerate(stamps)
    ]
    index["headers"] = {
        stamp: list(entry) for stamp, entry in zip(stamps, result, strict=True) if stamp
    }
    return result


def quiet_pillow() -> warnings.catch_warnings:
    """Returns a context without the warnings of Pillow about files that it can read."""
    return warnings.catch_warnings(action="ignore")


def unique_digests(headers_of_images: Iterable[Header]) -> dict[str, int]:
    """Returns the number of the first image with each digest, sorted by digest."""
    first: dict[str, int] = {}
    for number, header in enumerate(headers_of_images):
        if not header.error:
            first.setdefault(header.digest, number)
    return dict(sorted(first.items()))
