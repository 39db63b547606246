"""Checks images, and converts files and Pillow images to the input of a model."""

import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import PIL.Image

from kdjax.data.fit import STRETCH, fit
from kdjax.data.image_files import open_image
from kdjax.data.own.contents import reason
from kdjax.errors import InputError
from kdjax.paths import user_path

Shape = tuple[int, int, int]


def check(images: np.ndarray, shape: Shape) -> None:
    """Checks that images have the dtype and shape of the input of a model.

    Args:
        images: uint8 [n, h, w, c], n >= 1.
        shape: h, w, c of the model.

    Raises:
        InputError: for another dtype or shape.
    """
    needed = f"this model needs uint8 [n, {', '.join(map(str, shape))}]"
    if images.shape == (0,):  # an empty list
        raise InputError(f"no image: {needed}, n at least 1")
    if images.dtype != np.uint8:
        raise InputError(f"images of dtype {images.dtype}: {needed}, values 0 to 255")
    if images.shape[1:] != shape or not len(images):
        raise InputError(f"images of shape {images.shape}: {needed}, n at least 1")


def to_pixels(images: Any, shape: Shape, resize: str = STRETCH) -> np.ndarray:
    """Returns images as input of a model.

    Args:
        images: uint8 [n, h, w, c]; or one or several paths of image files or Pillow images, of any
            size and mode.
        shape: h, w, c of the model.
        resize: how files and Pillow images of other sizes are resized, see `kdjax.data.fit.fit`.

    Raises:
        InputError: for an array of another dtype or shape, or an image that cannot be read.
    """
    converted = _converted(images, shape, resize)
    try:
        pixels = np.asarray(converted)
    except ValueError as error:
        needed = ", ".join(map(str, shape))
        raise InputError(
            f"images of different shapes: this model needs uint8 [n, {needed}]"
        ) from error
    check(pixels, shape)
    return pixels


def sources_of(images: Any, pixels: np.ndarray) -> list[Any]:
    """Returns where each image comes from: a path, a Pillow image, or its array.

    Args:
        images: as for `to_pixels`.
        pixels: what that returned for them, [n, h, w, c].
    """
    if _is_single_image(images):
        return [images]
    if isinstance(images, np.ndarray) or not isinstance(images, Iterable):
        return list(pixels)
    items = list(images)
    return [item if _is_single_image(item) else pixels[row] for row, item in enumerate(items)]


def _is_single_image(value: Any) -> bool:
    return isinstance(value, str | os.PathLike | PIL.Image.Image)


def _converted(images: Any, shape: Shape, resize: str) -> Any:
    """Returns images with each path and each Pillow image replaced by its pixels."""
    if _is_single_image(images):
        images = [images]
    if isinstance(images, np.ndarray) or not isinstance(images, Iterable):
        return images
    items = list(images)
    if not any(map(_is_single_image, items)):
        return items
    return [_convert(item, shape, resize) for item in items]


def _convert(item: Any, shape: Shape, resize: str) -> np.ndarray:
    if not _is_single_image(item):
        check(np.asarray(item)[None], shape)
        return np.asarray(item)
    path = None if isinstance(item, PIL.Image.Image) else user_path(item)
    try:
        return fit(item if path is None else open_image(path), shape, resize)[0]
    except Exception as error:  # the type depends on the decoder of a damaged file
        name = str(path) if path else getattr(item, "filename", "") or "Pillow image"
        raise InputError(f"{name}: {reason(error)}") from error
