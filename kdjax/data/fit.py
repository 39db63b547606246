"""Decoding of any image for training and prediction, and conversion to a network's input."""

import numpy as np
import PIL.Image
import PIL.ImageOps

from kdjax.errors import InputError, unknown_name_error

# How an image of other proportions is resized; the last changes the proportions.
RESIZES = ("pad", "crop", "stretch")
STRETCH = "stretch"
FORMAT = 1  # increased when the pixels of some image change
_MODES = {1: "L", 3: "RGB"}
_ORIENTATION = 0x0112  # the EXIF tag; 1 is upright
# "I" has 32 bits, but the files that Pillow reads in this mode, such as PGM, have 16.
_SIXTEEN_BITS = ("I", "I;16", "I;16L", "I;16B", "I;16N")
_DARK = 4096  # a 16-bit image without a value from this on is nearly black, or uses fewer bits


def decode(image: PIL.Image.Image, channels: int) -> np.ndarray:
    """Returns the pixels of an image: the same for training and for prediction.

    The image is rotated according to its EXIF orientation, scaled from 16 to 8 bits, composited
    on black if it is transparent, and converted to grey or RGB.

    Args:
        image: of any size and mode.
        channels: 1 or 3.

    Returns:
        uint8 [h, w, channels], height and width of the upright image.

    Raises:
        InputError: for a mode without a defined white value.
        OSError: for a truncated image file.
    """
    converted, _ = _convert(image, channels)
    return np.array(converted).reshape(converted.height, converted.width, channels)


def remark(image: PIL.Image.Image) -> str:
    """Returns what is unexpected about the pixels that `decode` returns; "" for most images.

    Raises:
        OSError: for a truncated image file.
    """
    if getattr(image, "n_frames", 1) > 1:
        return "several frames, of which the first is used"
    if image.mode in _SIXTEEN_BITS and (largest := int(np.asarray(image).max())) < _DARK:
        return f"16 bits, where 65,535 is white, and no value above {largest:,}"
    return ""


def is_grey(mode: str) -> bool:
    """Returns whether images of a mode of Pillow are grey, with transparency or not."""
    return mode in ("1", "L", "LA", "La", "F", *_SIXTEEN_BITS)


def fit(
    image: PIL.Image.Image, shape: tuple[int, int, int], resize: str = STRETCH
) -> tuple[np.ndarray, str]:
    """Converts an image to a network's input, and describes the conversion.

    The image is decoded as by `decode`, and resized with the area of a pixel averaged.

    Args:
        image: of any size and mode.
        shape: height and width in pixels, channels 1 or 3.
        resize: `pad` shows all of the image, with black borders; `crop` cuts its longer side off on
            both ends; `stretch` changes its proportions.

    Returns:
        uint8 [h, w, c], and a description such as "resized from 640x480, converted from RGBA"; ""
        if nothing was changed.

    Raises:
        InputError: for another shape, or a mode without a defined white value.
        OSError: for a truncated image file.
    """
    height, width, channels = shape
    if channels not in _MODES or min(height, width) < 1:
        raise InputError(f"shape {shape}: must be height, width >= 1 and 1 or 3 channels")
    if resize not in RESIZES:
        raise unknown_name_error("resize", resize, RESIZES)
    # Before the pixels are read: Pillow rotates a TIFF on reading and drops the tag.
    rotated = image.getexif().get(_ORIENTATION, 1) != 1
    frames = getattr(image, "n_frames", 1)
    converted, transparent = _convert(image, channels)
    changes = {
        f"one of {frames} frames": frames > 1,
        "turned upright": rotated,
        f"resized from {converted.width}x{converted.height}": converted.size != (width, height),
        _CHANGES[resize]: converted.width * height != converted.height * width,
        f"converted from {image.mode}": image.mode != converted.mode,
        "transparency put on black": transparent,
    }
    pixels = np.array(_RESIZERS[resize](converted, (width, height))).reshape(shape)
    return pixels, ", ".join(change for change, applies in changes.items() if applies)


def _convert(image: PIL.Image.Image, channels: int) -> tuple[PIL.Image.Image, bool]:
    """Returns the upright image in grey or RGB, and whether any pixel was transparent."""
    opaque, transparent = _on_black(_eight_bits(PIL.ImageOps.exif_transpose(image)))
    return _converted(opaque, _MODES[channels]), transparent


def _eight_bits(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.mode not in _SIXTEEN_BITS:
        return image
    greys = np.asarray(image)
    if greys.min() < 0 or greys.max() > 65535:
        raise InputError(f"greys from {greys.min()} to {greys.max()}: must lie in 0..65535")
    eight = PIL.Image.fromarray(np.round(greys / 257).astype(np.uint8))  # 65535 = 257 * 255
    if not isinstance(key := image.info.get("transparency"), int):
        return eight
    eight.putalpha(PIL.Image.fromarray(np.where(greys == key, 0, 255).astype(np.uint8)))
    return eight


def _on_black(image: PIL.Image.Image) -> tuple[PIL.Image.Image, bool]:
    """Returns the image composited on black, and whether any pixel was transparent."""
    if not image.has_transparency_data:
        return image, False
    layers = _converted(image, "RGBA")
    black = PIL.Image.new("RGBA", image.size, "black")
    composite = PIL.Image.alpha_composite(black, layers).convert("RGB")
    return composite, bool((np.asarray(layers)[..., 3] < 255).any())


def _converted(image: PIL.Image.Image, mode: str) -> PIL.Image.Image:
    if image.mode == mode:
        return image
    if image.mode == "F":  # Pillow would clip the values to 0..255
        raise InputError("pixels of mode F: the white value of floats is not defined")
    try:
        return image.convert(mode)
    except ValueError as error:
        raise InputError(f"pixels of mode {image.mode} cannot become {mode}: {error}") from error


def _stretched(image: PIL.Image.Image, size: tuple[int, int]) -> PIL.Image.Image:
    return _resized(image, size, (0, 0, *image.size))


def _padded(image: PIL.Image.Image, size: tuple[int, int]) -> PIL.Image.Image:
    """Returns the image as large as it fits into the size, centred on black."""
    scale = min(size[0] / image.width, size[1] / image.height)
    inner = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    resized = _stretched(image, inner)
    if inner == size:
        return resized
    canvas = PIL.Image.new(image.mode, size)  # black
    canvas.paste(resized, ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2))
    return canvas


def _cropped(image: PIL.Image.Image, size: tuple[int, int]) -> PIL.Image.Image:
    """Returns the largest part around the centre that has the proportions of the size, resized."""
    width = min(image.width, image.height * size[0] / size[1])
    height = min(image.height, image.width * size[1] / size[0])
    left, top = (image.width - width) / 2, (image.height - height) / 2
    return _resized(image, size, (left, top, left + width, top + height))


def _resized(
    image: PIL.Image.Image, size: tuple[int, int], box: tuple[float, float, float, float]
) -> PIL.Image.Image:
    # Box averages the area of a pixel when reducing, bilinear interpolates when enlarging: no
    # aliasing, and unlike Lanczos no ringing at sharp edges, which dominate small images.
    reduced = box[2] - box[0] >= size[0] and box[3] - box[1] >= size[1]
    return image.resize(
        size, PIL.Image.Resampling.BOX if reduced else PIL.Image.Resampling.BILINEAR, box
    )


_RESIZERS = {"pad": _padded, "crop": _cropped, STRETCH: _stretched}
_CHANGES = {"pad": "padded", "crop": "cropped", STRETCH: "proportions changed"}
