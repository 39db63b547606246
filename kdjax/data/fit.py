"""Any picture as an image of the size and channels that a network was trained on."""

import numpy as np
import PIL.Image
import PIL.ImageOps

from kdjax.errors import InputError

_MODES = {1: "L", 3: "RGB"}
_ORIENTATION = 0x0112  # the tag of EXIF; 1 is upright
# "I" has room for 32 bits, but what Pillow reads into it, as a PGM of 65,536 greys, has 16.
_SIXTEEN_BITS = ("I", "I;16", "I;16L", "I;16B", "I;16N")


def fit(image: PIL.Image.Image, shape: tuple[int, int, int]) -> tuple[np.ndarray, str]:
    """Returns a picture as a network's input, and in words what was done to it.

    It is turned as its EXIF orientation says, scaled from 16 bits to 8, put on black where it is
    transparent, converted to grey or RGB, and resized as a whole: nothing is cropped.

    Args:
        image: of any size and mode.
        shape: height and width in pixels, channels 1 or 3.

    Returns:
        uint8 [h, w, c], and what was done, such as "resized from 640x480, converted from RGBA";
        "" if nothing.

    Raises:
        InputError: for another shape, or a mode that does not say which value is white.
        OSError: if the image's file is cut short.
    """
    height, width, channels = shape
    if channels not in _MODES or min(height, width) < 1:
        raise InputError(f"shape {shape}: must be height, width >= 1 and 1 or 3 channels")
    # Before the pixels are read: reading a TIFF turns it, and forgets that it was to be turned.
    turned = image.getexif().get(_ORIENTATION, 1) != 1
    frames = getattr(image, "n_frames", 1)
    opaque, transparent = _on_black(_eight_bits(PIL.ImageOps.exif_transpose(image)))
    whole = _converted(opaque, _MODES[channels])
    done = {
        f"one of {frames} frames": frames > 1,
        "turned upright": turned,
        f"resized from {whole.width}x{whole.height}": whole.size != (width, height),
        "proportions changed": whole.width * height != whole.height * width,
        f"converted from {image.mode}": image.mode != whole.mode,
        "transparency put on black": transparent,
    }
    pixels = np.array(_resized(whole, (width, height))).reshape(shape)
    return pixels, ", ".join(words for words, holds in done.items() if holds)


def _eight_bits(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.mode not in _SIXTEEN_BITS:
        return image
    greys = np.asarray(image)
    if greys.min() < 0 or greys.max() > 65535:
        raise InputError(f"greys from {greys.min()} to {greys.max()}: must lie in 0..65535")
    return PIL.Image.fromarray(np.round(greys / 257).astype(np.uint8))  # 65535 = 257 * 255


def _on_black(image: PIL.Image.Image) -> tuple[PIL.Image.Image, bool]:
    """Returns the image without transparency, and whether any of it was transparent."""
    if not image.has_transparency_data:
        return image, False
    layers = _converted(image, "RGBA")
    black = PIL.Image.new("RGBA", image.size, "black")
    seen = PIL.Image.alpha_composite(black, layers).convert("RGB")
    return seen, bool((np.asarray(layers)[..., 3] < 255).any())


def _converted(image: PIL.Image.Image, mode: str) -> PIL.Image.Image:
    if image.mode == mode:
        return image
    if image.mode == "F":  # which Pillow would clip to 0..255
        raise InputError("pixels of mode F: a float does not say which value is white")
    try:
        return image.convert(mode)
    except ValueError as error:
        raise InputError(f"pixels of mode {image.mode} cannot become {mode}: {error}") from error


def _resized(image: PIL.Image.Image, size: tuple[int, int]) -> PIL.Image.Image:
    # Box averages what a pixel covers, bilinear goes between pixels: no aliasing, and unlike
    # Lanczos no ringing at sharp edges, which are most of a picture of a few pixels.
    reduced = image.width >= size[0] and image.height >= size[1]
    return image.resize(
        size, PIL.Image.Resampling.BOX if reduced else PIL.Image.Resampling.BILINEAR
    )
