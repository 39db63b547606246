"""Reads image files, folders and arrays as inputs of a model."""

import collections
import os
import pathlib
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import PIL.Image
import PIL.ImageFile

from kdjax.data.fit import fit
from kdjax.errors import InputError
from kdjax.predict import Shape, check


class LoadedImage(NamedTuple):
    """An image as input of a model.

    Attributes:
        path: of the file.
        position: index in an array; None for an image file.
        pixels: uint8 [h, w, c].
        note: the conversion, see `kdjax.data.fit.fit`; "" if there was none.
    """

    path: str
    position: int | None
    pixels: np.ndarray
    note: str


def read_images(
    paths: Iterable[str],
    shape: Shape,
    on_error: Callable[[str], None],
    on_skip: Callable[[str], None] = lambda _: None,
) -> Iterator[LoadedImage]:
    """Yields the images of files, folders and arrays, one at a time.

    Args:
        paths: of image files; of folders, for the image files in them and their subfolders, sorted
            by path; of `.npz` files with an array `images`, uint8 [n, h, w, c], or [n, h, w] for
            one channel.
        shape: height, width and channels; arrays must have them, image files are converted.
        on_error: called with one line for each file that cannot be read; reading continues.
        on_skip: called with one line for each folder with files that are not images.
    """
    for name in paths:
        path = pathlib.Path(name)
        files = [path]
        if _test(path, pathlib.Path.is_dir):
            files, others = _list_folder(path, on_error)
            if files and others:
                on_skip(f"{path}: skipped {_count(others)}, not images")
            elif not files:
                on_error(f"{path}: no image file in this folder ({_count(others)})")
        for file in files:
            try:
                yield from _read_file(file, shape)
            except Exception as error:  # the type depends on the decoder of a damaged file
                on_error(f"{file}: {' '.join(str(error).split()) or type(error).__name__}")


def _list_folder(
    folder: pathlib.Path, on_error: Callable[[str], None]
) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """Returns the image files in a folder and its subfolders, and the other files, both sorted."""

    def on_unreadable(error: OSError) -> None:
        on_error(f"{error.filename}: {error.strerror}")

    files = [
        pathlib.Path(parent, name)
        for parent, _, names in os.walk(folder, onerror=on_unreadable)
        for name in names
    ]
    suffixes = image_suffixes()
    images = {
        file for file in files if file.suffix.lower() in suffixes and not _test(file, _is_special)
    }
    return sorted(images), sorted(set(files) - images)


def _is_special(path: pathlib.Path) -> bool:
    """Returns whether a path is a pipe or a socket, from which reading could wait forever."""
    return path.exists() and not path.is_file()


def _test(path: pathlib.Path, test: Callable[[pathlib.Path], bool]) -> bool:
    """Returns the result of a test of a path; false if it fails, as reading then reports why."""
    try:
        return test(path)
    except OSError:
        return False


def image_suffixes() -> set[str]:
    """Returns the suffixes, in lower case, of the files that Pillow can open and decode."""
    return {
        suffix
        for suffix, name in PIL.Image.registered_extensions().items()
        if name in PIL.Image.OPEN and name != "MPEG" and not _is_stub(PIL.Image.OPEN[name][0])
    }


def _is_stub(opener: object) -> bool:
    """Returns whether Pillow only recognizes a format, and leaves decoding to other packages."""
    return isinstance(opener, type) and issubclass(opener, PIL.ImageFile.StubImageFile)


def _count(files: list[pathlib.Path]) -> str:
    """Returns such as "3 files (.txt 2, .csv 1)"."""
    counts = collections.Counter(file.suffix.lower() or "no suffix" for file in files)
    kinds = [f"{suffix} {count}" for suffix, count in counts.most_common(5)]
    kinds += ["..."] if len(counts) > 5 else []
    number = "1 file" if len(files) == 1 else f"{len(files)} files"
    return f"{number} ({', '.join(kinds)})" if files else "it is empty"


def _read_file(path: pathlib.Path, shape: Shape) -> Iterator[LoadedImage]:
    if not path.exists():
        raise InputError("no such file or folder")
    if path.suffix == ".npz":
        for index, pixels in enumerate(_read_array(path, shape)):
            yield LoadedImage(str(path), index, pixels, "")
    else:
        with PIL.Image.open(path) as image:
            pixels, note = fit(image, shape)
        yield LoadedImage(str(path), None, pixels, note)


def _read_array(path: pathlib.Path, shape: Shape) -> np.ndarray:
    """Returns the array `images` of an `.npz` file, checked, as uint8 [n, h, w, c]."""
    if not zipfile.is_zipfile(path):
        raise InputError("damaged, or not an npz file")
    with np.load(path, allow_pickle=False) as arrays:
        if "images" not in arrays:
            raise InputError(f"no array 'images': it has {', '.join(arrays) or 'no arrays'}")
        images = arrays["images"]
    images = images[..., None] if images.ndim == 3 else images
    check(images, shape)
    return images
