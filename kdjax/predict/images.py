"""Reads image files, folders and arrays as inputs of a model."""

import pathlib
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import PIL.Image

from kdjax.data.fit import fit
from kdjax.errors import InputError
from kdjax.predict import Shape, check

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


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
    paths: Iterable[str], shape: Shape, on_error: Callable[[str], None]
) -> Iterator[LoadedImage]:
    """Yields the images of files, folders and arrays, one at a time.

    Args:
        paths: of image files; of folders, for the image files in them and their subfolders, sorted
            by path; of `.npz` files with an array `images`, uint8 [n, h, w, c], or [n, h, w] for
            one channel.
        shape: height, width and channels; arrays must have them, image files are converted.
        on_error: called with one line for each file that cannot be read; reading continues.
    """
    for path in paths:
        for file in _files(pathlib.Path(path)):
            try:
                yield from _read_file(file, shape)
            except Exception as error:  # the type depends on the decoder of a damaged file
                on_error(f"{file}: {' '.join(str(error).split()) or type(error).__name__}")


def _files(path: pathlib.Path) -> list[pathlib.Path]:
    """Returns the image files in a folder; for any other path the path itself."""
    files = (file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
    return sorted(files) or [path]


def _read_file(path: pathlib.Path, shape: Shape) -> Iterator[LoadedImage]:
    if not path.exists():
        raise InputError("no such file or folder")
    if path.is_dir():
        raise InputError(f"no image file in this folder: must end in {', '.join(SUFFIXES)}")
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
