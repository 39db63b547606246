"""Decoding of own images to arrays of one shape, as prediction decodes them."""

import concurrent.futures
import hashlib
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import PIL.Image

from kdjax.data import arrays, fit, progress
from kdjax.data.own.contents import quiet_pillow, reason
from kdjax.data.own.listing import Header, Listing
from kdjax.errors import InputError

# Increased when the arrays of some images change.
FORMAT = 2
NAMES = ("images", "keys", "moments", "errors", "remarks")
_BATCH = 256
_EXAMPLE = "--config.data.image_size=32"
Shape = tuple[int, int, int]


class Conversion(NamedTuple):
    """How images become arrays.

    Attributes:
        shape: height, width, channels.
        resize: one of `fit.RESIZES`; "": no image is resized, all must have this size.
        example: name of an image of this size, for the message.
    """

    shape: Shape
    resize: str
    example: str = ""


def choose_conversion(
    listing: Listing, headers: Sequence[Header], image_size: int, resize: str
) -> Conversion:
    """Returns the conversion of the images of a listing.

    Args:
        listing: of the images.
        headers: of the images.
        image_size: height and width; 0: that of the images, which must be the same.
        resize: `pad` or `crop`.

    Returns:
        With 3 channels if an image that can be decoded has colours by its mode, else with 1.

    Raises:
        InputError: if no image can be decoded.
    """
    numbers = [number for number, header in enumerate(headers) if not header.error]
    coloured = [number for number in numbers if not fit.is_grey(headers[number].mode)]
    channels = 1 if _first_decoded(listing, headers, coloured, 3) is None else 3
    first = _first_decoded(listing, headers, numbers, channels)
    if first is None:
        example, why = listing.examples[0].name, headers[0].error or "damaged"
        raise InputError(
            f"{listing.title}: none of the {len(headers):,} images can be read, such as "
            f"{example!r}: {why}"
        )
    if image_size:
        return Conversion((image_size, image_size, channels), resize)
    number, pixels = first
    height, width = pixels.shape[:2]
    return Conversion((height, width, channels), "", listing.examples[number].name)


def decode(
    listing: Listing,
    digests: dict[str, int],
    conversion: Conversion,
    *,
    images: bool,
) -> dict[str, np.ndarray]:
    """Returns the arrays of images, in the order of their digests.

    Args:
        listing: of the images.
        digests: digest -> number in the listing.
        conversion: of the images.
        images: whether to return the images; if not, only some are in memory at once.

    Returns:
        `images` uint8 [n, h, w, c]; `keys` uint8 [n, 32], SHA-256 of the pixels; `moments` of
        `arrays.moments`; `errors` str [n], why an image cannot be decoded, else ""; `remarks` str
        [n], of `fit.remark`.

    Raises:
        InputError: if there is no resizing and the sizes differ.
    """
    count, shape = len(digests), conversion.shape
    if images:
        _require_memory(listing.title, count, shape)
    pixels = np.zeros((count if images else 0, *shape), np.uint8)
    keys, errors, remarks = np.zeros((count, 32), np.uint8), [""] * count, [""] * count
    moments = np.zeros((count, 2, shape[-1]), np.int64)

    def decode_one(item: tuple[str, int]) -> tuple[np.ndarray | str, str]:
        digest, number = item
        image = listing.images.open(number, digest)
        result = convert(image, listing, number, conversion)
        return result, "" if isinstance(result, str) else _remark(image)

    items = list(digests.items())
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool, quiet_pillow():
        for rows in progress.batches(count, _BATCH, f"decoding {listing.title}"):
            results = pool.map(decode_one, items[rows.start : rows.stop])
            for row, (result, remark) in zip(rows, results, strict=True):
                remarks[row] = remark
                if isinstance(result, str):
                    errors[row] = result
                    continue
                keys[row] = np.frombuffer(hashlib.sha256(result.tobytes()).digest(), np.uint8)
                moments[row] = arrays.moments(result[None])[0]
                if images:
                    pixels[row] = result
    decoded: dict[str, np.ndarray] = {
        "keys": keys,
        "moments": moments,
        "errors": np.array(errors, np.str_),
        "remarks": np.array(remarks, np.str_),
    }
    return {"images": pixels, **decoded} if images else decoded


def decode_image(
    listing: Listing, number: int, digest: str, conversion: Conversion
) -> np.ndarray | str:
    """Returns the pixels of an image, uint8 [h, w, c], or why it cannot be decoded.

    Raises:
        InputError: if the image was changed, or must be resized and `conversion` does not.
    """
    return convert(listing.images.open(number, digest), listing, number, conversion)


def convert(
    image: PIL.Image.Image, listing: Listing, number: int, conversion: Conversion
) -> np.ndarray | str:
    """Returns the pixels of an open image; see `decode_image`."""
    try:
        if conversion.resize:
            return fit.fit(image, conversion.shape, conversion.resize)[0]
        pixels = fit.decode(image, conversion.shape[-1])
    except MemoryError:
        raise
    except Exception as error:  # the type depends on the decoder of a damaged file
        return reason(error)
    if pixels.shape != conversion.shape:
        sizes = [f"{shape[1]}x{shape[0]}" for shape in (conversion.shape, pixels.shape)]
        raise InputError(
            f"{listing.title}: images of several sizes, such as {conversion.example!r} "
            f"({sizes[0]}) and {listing.examples[number].name!r} ({sizes[1]}): give the size to "
            f"which all are resized, such as {_EXAMPLE}"
        )
    return pixels


def _remark(image: PIL.Image.Image) -> str:
    """Returns what is unexpected about a decoded image; "" if nothing is."""
    try:
        return fit.remark(image)
    except MemoryError:
        raise
    except Exception:  # of a damaged further frame; as in `convert`
        return ""


def _first_decoded(
    listing: Listing, headers: Sequence[Header], numbers: Iterable[int], channels: int
) -> tuple[int, np.ndarray] | None:
    """Returns number and pixels of the first image that can be decoded."""
    for number in numbers:
        image = listing.images.open(number, headers[number].digest)
        try:
            with quiet_pillow():
                return number, fit.decode(image, channels)
        except MemoryError:
            raise
        except Exception:  # as in `convert`
            continue
    return None


def _require_memory(title: str, count: int, shape: Shape) -> None:
    needed = count * int(np.prod(shape, dtype=np.int64))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise InputError(
            f"{title}: {count:,} images of {shape[0]}x{shape[1]}x{shape[2]} need "
            f"{needed / 2**30:,.1f} GiB, more than the memory of this machine "
            f"({memory / 2**30:,.1f} GiB): use --config.data.pipeline=stream or a smaller "
            "data.image_size"
        )
