"""Pictures of all kinds against what their bytes mean."""

import io
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdjax.data.fit import fit
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


def of(mode: str, pixels: np.ndarray, **info: Any) -> PIL.Image.Image:
    picture = PIL.Image.frombytes(mode, pixels.shape[1::-1], pixels.tobytes())
    if mode == "P":
        picture.putpalette(PALETTE.tobytes())
    picture.info |= info
    return picture


def with_alpha(pixels: np.ndarray) -> np.ndarray:
    return np.dstack([pixels, ALPHA])


def on_black(pixels: np.ndarray, alpha: np.ndarray = ALPHA) -> np.ndarray:
    return pixels * (alpha / 255.0)[..., None]


def grey3(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(pixels[..., None], 3, axis=-1)


INK = RNG.integers(0, 256, (H, W, 4), dtype=np.uint8)
CLEAR = "transparency put on black"
# Picture, the colours that its bytes mean, the words.
KINDS = {
    "L": (of("L", GREY), grey3(GREY), ""),
    "RGB": (of("RGB", RGB), RGB, ""),
    "RGBA": (of("RGBA", with_alpha(RGB)), on_black(RGB), CLEAR),
    "opaque RGBA": (of("RGBA", np.dstack([RGB, np.full((H, W), 255, np.uint8)])), RGB, ""),
    "LA": (of("LA", with_alpha(GREY)), on_black(grey3(GREY)), CLEAR),
    "P": (of("P", PLACES), PALETTE[PLACES], ""),
    "P with a clear colour": (
        of("P", PLACES, transparency=int(PLACES[2, 3])),
        on_black(PALETTE[PLACES], 255 * (PLACES[2, 3] != PLACES)),
        CLEAR,
    ),
    "L with a clear grey": (
        of("L", GREY, transparency=int(GREY[2, 3])),
        on_black(grey3(GREY), 255 * (GREY[2, 3] != GREY)),
        CLEAR,
    ),
    "1": (PIL.Image.fromarray(GREY > 99), grey3(255 * (GREY > 99)), ""),
    "CMYK": (of("CMYK", INK), (255.0 - INK[..., :3]) * (255.0 - INK[..., 3:]) / 255, ""),
    "I;16": (of("I;16", DEEP), grey3(DEEP / 257), ""),
    "I;16B": (of("I;16B", DEEP.byteswap()), grey3(DEEP / 257), ""),
    "I": (of("I", DEEP.astype(np.int32)), grey3(DEEP / 257), ""),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_every_mode_keeps_what_it_shows(kind: str, channels: int) -> None:
    picture, colours, clear = KINDS[kind]
    found, words = fit(picture, (H, W, channels))
    expected = colours if channels == 3 else colours @ LUMA[:, None]
    assert found.dtype == np.uint8
    assert found.shape == (H, W, channels)
    # Pillow's own arithmetic is in bytes: a transparency or an ink rounds once, grey once more.
    np.testing.assert_allclose(found, expected, atol=1.5)
    converted = f"converted from {picture.mode}" * (picture.mode != {1: "L", 3: "RGB"}[channels])
    assert words == ", ".join(filter(None, [converted, clear]))


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    deep = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    found, _ = fit(of("I;16", deep), (1, 6, 1))
    assert found.ravel().tolist() == [0, 0, 1, 1, 128, 255]


def test_reducing_averages_what_a_pixel_covers() -> None:
    pixels = RNG.integers(0, 256, (24, 40, 3), dtype=np.uint8)
    found, words = fit(of("RGB", pixels), (6, 10, 3))
    blocks = pixels.reshape(6, 4, 10, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(found, blocks, atol=1)  # it rounds across, then down
    assert words == "resized from 40x24"


def test_a_pattern_too_fine_becomes_its_mean_and_not_another_pattern() -> None:
    lines = np.tile(np.array([0, 255], np.uint8), (90, 50))
    found, words = fit(of("L", lines), (28, 28, 1))
    assert np.ptp(found.astype(int)) <= 255 / 3  # three lines a pixel, or four
    assert found.mean() == pytest.approx(127.5, abs=3)
    assert words == "resized from 100x90, proportions changed"


def test_enlarging_goes_straight_from_pixel_to_pixel() -> None:
    found, words = fit(of("L", GREY), (2 * H, 2 * W, 1))
    rows, columns = ((np.arange(2 * size) + 0.5) / 2 - 0.5 for size in (H, W))
    down = np.stack([np.interp(rows, np.arange(H), line) for line in GREY.T.astype(float)], axis=1)
    across = np.stack([np.interp(columns, np.arange(W), line) for line in down])
    np.testing.assert_allclose(found[..., 0], across, atol=1)  # it rounds across, then down
    assert words == f"resized from {W}x{H}"


def test_what_cannot_be_seen_does_not_bleed_into_what_can() -> None:
    pixels = np.full((8, 8, 4), 255, np.uint8)
    pixels[:, :4, 3] = 0  # white, but clear
    found, words = fit(of("RGBA", pixels), (2, 2, 1))
    assert found[..., 0].tolist() == [[0, 255], [0, 255]]
    assert words == f"resized from 8x8, converted from RGBA, {CLEAR}"


@pytest.mark.parametrize(
    ("form", "options"),
    [("PNG", {}), ("TIFF", {}), ("JPEG", {"quality": 100, "subsampling": 0})],
)
def test_a_photograph_is_turned_upright_first(form: str, options: dict[str, int]) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the top is on the right
    halves = np.repeat(np.repeat(RGB[:1, :2], 8, 0), 8, 1)  # plain, so that JPEG keeps them
    file = io.BytesIO()
    of("RGB", halves).save(file, form, exif=exif, **options)
    found, words = fit(PIL.Image.open(file), (16, 8, 3))
    np.testing.assert_allclose(found, np.rot90(halves, k=-1).astype(float), atol=2)
    assert words == "turned upright"


def test_an_animation_is_known_by_its_first_frame() -> None:
    file = io.BytesIO()
    frames = [PIL.Image.fromarray(np.roll(GREY, turn)) for turn in range(3)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    found, words = fit(PIL.Image.open(file), (H, W, 1))
    np.testing.assert_array_equal(found[..., 0], GREY)
    assert words == "one of 3 frames, converted from P"


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3])),
)
def test_any_size_fits_any_shape_and_says_so(
    kind: str, size: tuple[int, int], shape: tuple[int, int, int]
) -> None:
    found, words = fit(KINDS[kind][0].resize(size, PIL.Image.Resampling.NEAREST), shape)
    assert (found.shape, found.dtype) == (shape, np.uint8)
    assert ("resized from" in words) == (size != shape[1::-1])
    assert ("proportions changed" in words) == (size[0] * shape[0] != size[1] * shape[1])


@pytest.mark.parametrize(
    ("picture", "shape", "message"),
    [
        (of("F", GREY.astype(np.float32)), (H, W, 1), "mode F"),
        (of("I", GREY - np.int32(1000)), (H, W, 1), r"greys from -\d+ to -\d+: must lie in 0"),
        (of("L", GREY).convert("LA").convert("La"), (H, W, 1), "mode La cannot become"),
        (of("L", GREY), (H, W, 2), r"shape \(9, 12, 2\): must be .* 1 or 3 channels"),
        (of("L", GREY), (0, W, 1), r"shape \(0, 12, 1\)"),
    ],
)
def test_what_has_no_meaning_is_refused(
    picture: PIL.Image.Image, shape: tuple[int, int, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        fit(picture, shape)


def test_a_file_that_is_cut_short_is_not_half_a_picture() -> None:
    file = io.BytesIO()
    of("RGB", RGB).save(file, "PNG")
    with pytest.raises(OSError, match="truncated"):
        fit(PIL.Image.open(io.BytesIO(file.getvalue()[:200])), (H, W, 3))
