"""From what a user names, image files, folders and arrays, to images that a model takes."""

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


class Picture(NamedTuple):
    """One image, ready for the model.

    Attributes:
        path: of its file.
        place: its index in an array; None for an image file.
        image: uint8 [h, w, c].
        note: what was done to it, "" if nothing.
    """

    path: str
    place: int | None
    image: np.ndarray
    note: str


def read(names: Iterable[str], shape: Shape, report: Callable[[str], None]) -> Iterator[Picture]:
    """Yields the pictures of files, folders and arrays, one at a time.

    Args:
        names: paths of image files; of folders, for the image files in them and below, in the
            order of their paths; of `.npz` files with an array `images`, uint8 [n, h, w, c], or
            [n, h, w] for one channel.
        shape: height, width and channels, which an array has to have and a picture is fitted to.
        report: called with a line for whatever cannot be read; the others still go through.
    """
    for name in names:
        for path in _paths(pathlib.Path(name)):
            try:
                yield from _pictures(path, shape)
            except Exception as error:  # a damaged file raises whatever its decoder meets
                report(f"{path}: {' '.join(str(error).split()) or type(error).__name__}")


def _paths(path: pathlib.Path) -> list[pathlib.Path]:
    found = (below for below in path.rglob("*") if below.suffix.lower() in SUFFIXES)
    return sorted(found) or [path]


def _pictures(path: pathlib.Path, shape: Shape) -> Iterator[Picture]:
    if not path.exists():
        raise InputError("there is no such file or folder")
    if path.is_dir():
        raise InputError(f"no image file in this folder: none ends in {', '.join(SUFFIXES)}")
    if path.suffix == ".npz":
        for place, image in enumerate(_array(path, shape)):
            yield Picture(str(path), place, image, "")
    else:
        with PIL.Image.open(path) as opened:
            image, note = fit(opened, shape)
        yield Picture(str(path), None, image, note)


def _array(path: pathlib.Path, shape: Shape) -> np.ndarray:
    if not zipfile.is_zipfile(path):
        raise InputError("damaged, or not an npz file")
    with np.load(path, allow_pickle=False) as arrays:
        if "images" not in arrays:
            raise InputError(f"no array 'images' in it, only {', '.join(arrays) or 'nothing'}")
        images = arrays["images"]
    images = images[..., None] if images.ndim == 3 else images
    check(images, shape)
    return images
