"""Reads image files, folders and arrays as inputs of a model."""

import pathlib
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from kdjax.data.fit import STRETCH, fit
from kdjax.data.image_files import count_files, list_folder, open_image
from kdjax.data.own.contents import reason
from kdjax.errors import InputError
from kdjax.predict.inputs import Shape, check


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
    *,
    resize: str = STRETCH,
) -> Iterator[LoadedImage]:
    """Yields the images of files, folders and arrays, one at a time.

    Args:
        paths: of image files; of folders, for the image files in them and their subfolders, sorted
            by path; of `.npz` files with an array `images`, uint8 [n, h, w, c], or [n, h, w] for
            one channel.
        shape: height, width and channels; arrays must have them, image files are converted.
        on_error: called with one line for each file that cannot be read; reading continues.
        on_skip: called with one line for each folder with files that are not images.
        resize: how images of other proportions are resized, see `kdjax.data.fit.fit`.
    """
    for name in paths:
        path = pathlib.Path(name)
        files = [path]
        if _test(path, pathlib.Path.is_dir):
            files, others = _list_folder(path, on_error)
            if files and others:
                on_skip(f"{path}: skipped {count_files(others)}, not images")
            elif not files:
                on_error(f"{path}: no image file in this folder ({count_files(others)})")
        for file in files:
            try:
                yield from _read_file(file, shape, resize)
            except Exception as error:  # the type depends on the decoder of a damaged file
                on_error(f"{file}: {reason(error)}")


def _list_folder(
    folder: pathlib.Path, on_error: Callable[[str], None]
) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """Returns the image files in a folder and its subfolders, and the other files, both sorted."""
    try:
        return list_folder(folder, lambda error: on_error(f"{error.filename}: {error.strerror}"))
    except InputError as error:  # a link that leads to a folder above
        on_error(str(error))
        return [], []


def _test(path: pathlib.Path, test: Callable[[pathlib.Path], bool]) -> bool:
    """Returns the result of a test of a path; false if it fails, as reading then reports why."""
    try:
        return test(path)
    except OSError:
        return False


def _read_file(path: pathlib.Path, shape: Shape, resize: str) -> Iterator[LoadedImage]:
    if not path.exists():
        raise InputError("no such file or folder")
    if path.suffix == ".npz":
        for index, pixels in enumerate(_read_array(path, shape)):
            yield LoadedImage(str(path), index, pixels, "")
    else:
        with open_image(path) as image:
            pixels, note = fit(image, shape, resize)
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
