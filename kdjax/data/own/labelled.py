"""Labelled own images as a trained model reads them, without splits."""

from typing import NamedTuple

import numpy as np

from kdjax.data.own import contents
from kdjax.data.own.decoding import Conversion, decode_image
from kdjax.data.own.load import read_listing
from kdjax.data.own.names import Location
from kdjax.data.own.notes import say, show_broken
from kdjax.data.records import Records
from kdjax.errors import InputError


class LabelledImages(NamedTuple):
    """Labelled images that can be read.

    Attributes:
        names: of the images in messages, such as paths relative to the folder.
        labels: names of their classes.
        splits: of each image: train, dev, calibration or test; train if none is given.
        images: decoded on access, uint8 [n, h, w, c].
    """

    names: tuple[str, ...]
    labels: tuple[str, ...]
    splits: tuple[str, ...]
    images: Records


def read_labelled(
    location: Location, shape: tuple[int, int, int], resize: str, *, strict: bool = False
) -> LabelledImages:
    """Reads labelled images for a model; those that cannot be decoded are listed and left out.

    Every image is decoded twice: first to know whether that is possible, then on access.

    Args:
        location: of the images, of `names.parse`.
        shape: height, width and channels of the model's images.
        resize: how images of other sizes are resized, one of `kdjax.data.fit.RESIZES`.
        strict: whether to refuse images that cannot be decoded.

    Raises:
        InputError: if there are none, or they are invalid.
    """
    listing, conversion = read_listing(location), Conversion(shape, resize)
    index: contents.Index = {"headers": {}}
    headers = contents.headers(listing.images, len(listing.examples), index)

    def decode(number: int) -> np.ndarray | str:
        header = headers[number]
        return header.error or decode_image(listing, number, header.digest, conversion)

    def reason(number: int) -> str:
        result = decode(number)
        return result if isinstance(result, str) else ""

    with contents.quiet_pillow():
        reasons = [reason(number) for number in range(len(headers))]
    broken = [(number, why) for number, why in enumerate(reasons) if why]
    say(listing, listing.ignored)
    show_broken(listing, broken, strict=strict)
    numbers = np.array([number for number, why in enumerate(reasons) if not why], np.int64)
    if not len(numbers):
        raise InputError(f"{listing.title}: no image can be read")
    examples = [listing.examples[number] for number in numbers.tolist()]

    def read(rows: np.ndarray) -> np.ndarray:
        return np.stack([_pixels(decode(number)) for number in rows.tolist()])

    return LabelledImages(
        tuple(example.name for example in examples),
        tuple(example.label for example in examples),
        tuple(example.split for example in examples),
        Records(read, numbers, shape),
    )


def _pixels(result: np.ndarray | str) -> np.ndarray:
    if isinstance(result, str):  # it could be decoded before
        raise InputError(result)
    return result
