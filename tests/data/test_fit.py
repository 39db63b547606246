"""Conversion of images of every mode, compared with the meaning of their bytes."""

import io
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdjax.data.fit import decode, fit, remark
from kdjax.errors import InputError

H, W = 9, 12
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (H, W), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (H, W)).astype(np.uint16)
RGB = RNG.integers(0, 256, (H, W, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (H, W), dtype=np.uint8)
PLACES = RNG.integers(0, 256, (H, W), dtype=np.uint8)
PALETTE = RNG.integers(0, 256, (256, 3), dtype=np.uint8)
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def image_of(mode: str, pixels: np.ndarray, **info: Any) -> PIL.Image.Image:
    image = PIL.Image.frombytes(mode, pixels.shape[1::-1], pixels.tobytes())
    if mode == "P":
        image.putpalette(PALETTE.tobytes())
    image.info |= info
    return image


def with_alpha(pixels: np.ndarray) -> np.ndarray:
    return np.dstack([pixels, ALPHA])


def on_black(pixels: np.ndarray, alpha: np.ndarray = ALPHA) -> np.ndarray:
    return pixels * (alpha / 255.0)[..., None]


def grey3(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(pixels[..., None], 3, axis=-1)


INK = RNG.integers(0, 256, (H, W, 4), dtype=np.uint8)
TRANSPARENT = "transparency put on black"
# Mode -> image, its colours as floats, and the note on transparency.
MODES = {
    "L": (image_of("L", GREY), grey3(GREY), ""),
    "RGB": (image_of("RGB", RGB), RGB, ""),
    "RGBA": (image_of("RGBA", with_alpha(RGB)), on_black(RGB), TRANSPARENT),
    "opaque RGBA": (image_of("RGBA", np.dstack([RGB, np.full((H, W), 255, np.uint8)])), RGB, ""),
    "LA": (image_of("LA", with_alpha(GREY)), on_black(grey3(GREY)), TRANSPARENT),
    "P": (image_of("P", PLACES), PALETTE[PLACES], ""),
    "P with a transparent colour": (
        image_of("P", PLACES, transparency=int(PLACES[2, 3])),
        on_black(PALETTE[PLACES], 255 * (PLACES[2, 3] != PLACES)),
        TRANSPARENT,
    ),
    "L with a transparent grey": (
        image_of("L", GREY, transparency=int(GREY[2, 3])),
        on_black(grey3(GREY), 255 * (GREY[2, 3] != GREY)),
        TRANSPARENT,
    ),
    "1": (PIL.Image.fromarray(GREY > 99), grey3(255 * (GREY > 99)), ""),
    "CMYK": (image_of("CMYK", INK), (255.0 - INK[..., :3]) * (255.0 - INK[..., 3:]) / 255, ""),
    "I;16": (image_of("I;16", DEEP), grey3(DEEP / 257), ""),
    "I;16B": (image_of("I;16B", DEEP.byteswap()), grey3(DEEP / 257), ""),
    "I": (image_of("I", DEEP.astype(np.int32)), grey3(DEEP / 257), ""),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_colours_of_every_mode_are_kept(mode: str, channels: int) -> None:
    image, colours, transparency = MODES[mode]
    result, note = fit(image, (H, W, channels))
    expected = colours if channels == 3 else colours @ LUMA[:, None]
    assert result.dtype == np.uint8
    assert result.shape == (H, W, channels)
    # Pillow computes in bytes: transparency or CMYK rounds once, the conversion to grey again.
    np.testing.assert_allclose(result, expected, atol=1.5)
    converted = f"converted from {image.mode}" * (image.mode != {1: "L", 3: "RGB"}[channels])
    assert note == ", ".join(filter(None, [converted, transparency]))


def test_sixteen_bits_are_scaled_to_eight() -> None:
    deep = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    result, _ = fit(image_of("I;16", deep), (1, 6, 1))
    assert result.ravel().tolist() == [0, 0, 1, 1, 128, 255]


def test_transparent_grey_of_sixteen_bits_becomes_black() -> None:
    file = io.BytesIO()
    deep = np.array([[257, 514], [65535, 257]], np.uint16)
    PIL.Image.fromarray(deep).save(file, "PNG", transparency=257)
    result, note = fit(PIL.Image.open(file), (2, 2, 1))
    assert result.ravel().tolist() == [0, 2, 255, 0]
    assert "transparency put on black" in note


def test_what_is_unexpected_about_pixels_is_said() -> None:
    file = io.BytesIO()
    frames = [PIL.Image.fromarray(np.full((2, 2), grey, np.uint8)) for grey in (0, 100, 200)]
    frames[0].save(file, "TIFF", save_all=True, append_images=frames[1:])
    assert remark(PIL.Image.open(file)) == "several frames, of which the first is used"
    dark = np.array([[0, 255]], np.uint16)
    assert remark(image_of("I;16", dark)).endswith("and no value above 255")
    assert remark(image_of("I;16", dark * 257)) == ""
    assert remark(frames[0]) == ""


def test_reduction_averages_the_area_of_a_pixel() -> None:
    pixels = RNG.integers(0, 256, (24, 40, 3), dtype=np.uint8)
    result, note = fit(image_of("RGB", pixels), (6, 10, 3))
    blocks = pixels.reshape(6, 4, 10, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(result, blocks, atol=1)  # Pillow rounds after each axis
    assert note == "resized from 40x24"


def test_reduction_of_a_fine_pattern_does_not_alias() -> None:
    lines = np.tile(np.array([0, 255], np.uint8), (90, 50))
    result, note = fit(image_of("L", lines), (28, 28, 1))
    assert np.ptp(result.astype(int)) <= 255 / 3  # three or four lines per pixel
    assert result.mean() == pytest.approx(127.5, abs=3)
    assert note == "resized from 100x90, proportions changed"


def test_enlargement_interpolates_linearly() -> None:
    result, note = fit(image_of("L", GREY), (2 * H, 2 * W, 1))
    rows, columns = ((np.arange(2 * size) + 0.5) / 2 - 0.5 for size in (H, W))
    tall = np.stack([np.interp(rows, np.arange(H), line) for line in GREY.T.astype(float)], axis=1)
    expected = np.stack([np.interp(columns, np.arange(W), line) for line in tall])
    np.testing.assert_allclose(result[..., 0], expected, atol=1)  # Pillow rounds after each axis
    assert note == f"resized from {W}x{H}"


WIDE = RNG.integers(0, 256, (32, 64, 3), dtype=np.uint8)


def halves(pixels: np.ndarray) -> np.ndarray:
    """Returns the means of blocks of 2 x 2 pixels."""
    height, width, channels = pixels.shape
    return pixels.reshape(height // 2, 2, width // 2, 2, channels).mean(axis=(1, 3))


@pytest.mark.parametrize("turned", [False, True])
def test_pad_shows_all_of_the_image_centred_on_black(turned: bool) -> None:
    pixels = WIDE.transpose(1, 0, 2).copy() if turned else WIDE
    result, note = fit(image_of("RGB", pixels), (32, 32, 3), "pad")
    result = result.transpose(1, 0, 2) if turned else result
    np.testing.assert_allclose(result[8:24], halves(WIDE), atol=1)  # Pillow rounds after each axis
    assert not result[:8].any() and not result[24:].any()
    assert note == f"resized from {'32x64' if turned else '64x32'}, padded"


@pytest.mark.parametrize("turned", [False, True])
def test_crop_cuts_both_ends_of_the_longer_side(turned: bool) -> None:
    pixels = WIDE.transpose(1, 0, 2).copy() if turned else WIDE
    result, note = fit(image_of("RGB", pixels), (16, 16, 3), "crop")
    result = result.transpose(1, 0, 2) if turned else result
    np.testing.assert_allclose(result, halves(WIDE[:, 16:48]), atol=1)
    assert note == f"resized from {'32x64' if turned else '64x32'}, cropped"
    same_height, _ = fit(image_of("RGB", pixels), (32, 32, 3), "crop")
    same_height = same_height.transpose(1, 0, 2) if turned else same_height
    np.testing.assert_array_equal(same_height, WIDE[:, 16:48])


@pytest.mark.parametrize("resize", ["pad", "crop"])
def test_image_of_the_same_proportions_is_neither_padded_nor_cropped(resize: str) -> None:
    for size in ((9, 12, 3), (3, 4, 1), (30, 40, 3)):
        result, note = fit(MODES["RGBA"][0], size, resize)
        expected, expected_note = fit(MODES["RGBA"][0], size)
        np.testing.assert_array_equal(result, expected)
        assert note == expected_note


@pytest.mark.parametrize("size", [(500, 1), (1, 500), (3, 2), (1, 1)])
@pytest.mark.parametrize("resize", ["pad", "crop"])
def test_image_of_any_proportions_is_padded_or_cropped(size: tuple[int, int], resize: str) -> None:
    white = PIL.Image.new("L", size, 255)
    result, _ = fit(white, (8, 6, 1), resize)
    assert result.shape == (8, 6, 1)
    if resize == "crop":
        assert (result == 255).all()
    else:
        assert result.max() == 255 and (result == 0).any() == (size[0] * 8 != size[1] * 6)


def test_unknown_way_of_resizing_raises() -> None:
    with pytest.raises(InputError, match="unknown resize 'padd': did you mean 'pad'"):
        fit(MODES["L"][0], (8, 8, 1), "padd")


def test_transparent_pixels_do_not_affect_visible_ones() -> None:
    pixels = np.full((8, 8, 4), 255, np.uint8)
    pixels[:, :4, 3] = 0  # white, but transparent
    result, note = fit(image_of("RGBA", pixels), (2, 2, 1))
    assert result[..., 0].tolist() == [[0, 255], [0, 255]]
    assert note == f"resized from 8x8, converted from RGBA, {TRANSPARENT}"


@pytest.mark.parametrize(
    ("form", "options"),
    [("PNG", {}), ("TIFF", {}), ("JPEG", {"quality": 100, "subsampling": 0})],
)
def test_exif_orientation_is_applied(form: str, options: dict[str, int]) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # the top of the scene is at the right edge
    halves = np.repeat(np.repeat(RGB[:1, :2], 8, 0), 8, 1)  # constant blocks, which JPEG preserves
    file = io.BytesIO()
    image_of("RGB", halves).save(file, form, exif=exif, **options)
    result, note = fit(PIL.Image.open(file), (16, 8, 3))
    np.testing.assert_allclose(result, np.rot90(halves, k=-1).astype(float), atol=2)
    assert note == "turned upright"


def test_first_frame_of_an_animation_is_used() -> None:
    file = io.BytesIO()
    frames = [PIL.Image.fromarray(np.roll(GREY, turn)) for turn in range(3)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    result, note = fit(PIL.Image.open(file), (H, W, 1))
    np.testing.assert_array_equal(result[..., 0], GREY)
    assert note == "one of 3 frames, converted from P"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_decoding_equals_conversion_without_resizing(mode: str, channels: int) -> None:
    image = MODES[mode][0]
    pixels = decode(image, channels)
    assert (pixels.dtype, pixels.shape) == (np.uint8, (H, W, channels))
    np.testing.assert_array_equal(pixels, fit(image, (H, W, channels))[0])


@settings(max_examples=30, deadline=None)
@given(
    mode=st.sampled_from(sorted(MODES)),
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3])),
)
def test_image_of_any_size_is_converted_to_any_shape_with_a_note(
    mode: str, size: tuple[int, int], shape: tuple[int, int, int]
) -> None:
    result, note = fit(MODES[mode][0].resize(size, PIL.Image.Resampling.NEAREST), shape)
    assert (result.shape, result.dtype) == (shape, np.uint8)
    assert ("resized from" in note) == (size != shape[1::-1])
    assert ("proportions changed" in note) == (size[0] * shape[0] != size[1] * shape[1])


@pytest.mark.parametrize(
    ("image", "shape", "message"),
    [
        (image_of("F", GREY.astype(np.float32)), (H, W, 1), "mode F"),
        (
            image_of("I", GREY - np.int32(1000)),
            (H, W, 1),
            r"greys from -\d+ to -\d+: must lie in 0",
        ),
        (image_of("L", GREY).convert("LA").convert("La"), (H, W, 1), "mode La cannot become"),
        (image_of("L", GREY), (H, W, 2), r"shape \(9, 12, 2\): must be .* 1 or 3 channels"),
        (image_of("L", GREY), (0, W, 1), r"shape \(0, 12, 1\)"),
    ],
)
def test_undefined_pixel_values_and_shapes_raise(
    image: PIL.Image.Image, shape: tuple[int, int, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        fit(image, shape)


def test_truncated_file_raises() -> None:
    file = io.BytesIO()
    image_of("RGB", RGB).save(file, "PNG")
    with pytest.raises(OSError, match="truncated"):
        fit(PIL.Image.open(io.BytesIO(file.getvalue()[:200])), (H, W, 3))
