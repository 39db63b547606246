"""Decoding of records: the same pixels as in prediction, and errors that name the record."""

import io
import pathlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

from kdjax import data, errors
from kdjax.predict import images as image_files

H, W = 12, 16
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (H, W, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (H, W), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (H, W)).astype(np.uint16)
INK = RNG.integers(0, 256, (H, W, 4), dtype=np.uint8)
PALETTE = RNG.integers(0, 256, (256, 3), dtype=np.uint8)
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
# EXIF orientation -> how the upright image is stored.
STORED = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, 1),
    7: lambda x: x.swapaxes(0, 1)[::-1, ::-1],
    8: lambda x: np.rot90(x, -1),
}


def encode(image: PIL.Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def image_of(pixels: np.ndarray, mode: str) -> PIL.Image.Image:
    pixels = np.ascontiguousarray(pixels)
    return PIL.Image.frombytes(mode, pixels.shape[1::-1], pixels.tobytes())


def oriented(orientation: int) -> bytes:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    return encode(image_of(STORED[orientation](RGB), "RGB"), exif=exif)


def palette() -> bytes:
    image = image_of(GREY, "P")
    image.putpalette(PALETTE.tobytes())
    return encode(image)


def grey3(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(pixels[..., None], 3, axis=-1)


# Form of a picture -> the encoded file, and the colours that it means.
FORMS = {
    "16-bit grey": (encode(image_of(DEEP, "I;16")), grey3(DEEP / 257)),
    "palette": (palette(), PALETTE[GREY]),
    "transparent": (
        encode(image_of(np.dstack([RGB, GREY]), "RGBA")),
        RGB * (GREY / 255.0)[..., None],
    ),
    "CMYK": (
        encode(image_of(INK, "CMYK"), "TIFF"),
        (255.0 - INK[..., :3]) * (255.0 - INK[..., 3:]) / 255,
    ),
    "grey": (encode(image_of(GREY, "L")), grey3(GREY)),
    **{f"EXIF {orientation}": (oriented(orientation), RGB) for orientation in STORED},
}


def by_label(dataset: data.Dataset) -> dict[int, np.ndarray]:
    splits = (dataset.train, dataset.dev, dataset.calibration)
    return {
        int(label): image
        for split in splits
        for image, label in zip(np.asarray(split.images), split.labels, strict=True)
    }


@pytest.mark.filterwarnings("ignore:.* has no training image:RuntimeWarning")  # one of each class
@pytest.mark.parametrize("channels", [1, 3])
def test_training_gets_the_pixels_that_prediction_gets(
    channels: int, encoded_set: Callable[..., pathlib.Path], tmp_path: pathlib.Path
) -> None:
    shape = (H, W, channels)
    records = [(content, label) for label, (content, _) in enumerate(FORMS.values())]
    root = encoded_set(records, shape=shape, classes=len(records))
    options = {"data_dir": root, "dev_fraction": 0.2, "calibration_fraction": 0.2}
    resident = by_label(data.load("encoded_set", **options))
    streamed = by_label(data.load("encoded_set", **options, stream=True))
    for label, (name, (content, colours)) in enumerate(FORMS.items()):
        path = tmp_path / f"{label}.png"
        path.write_bytes(content)
        ((_, _, predicted, _),) = image_files.read_images([str(path)], shape, pytest.fail)
        np.testing.assert_array_equal(resident[label], predicted, err_msg=name)
        np.testing.assert_array_equal(streamed[label], predicted, err_msg=name)
        meant = colours if channels == 3 else colours @ LUMA[:, None]
        # Pillow computes in bytes: transparency or CMYK rounds once, the conversion to grey again.
        np.testing.assert_allclose(predicted, meant, atol=1.5, err_msg=name)


def png_with_damaged_pixels() -> bytes:
    content = bytearray(encode(image_of(RGB, "RGB")))
    content[content.index(b"IDAT") + 4] ^= 0xFF  # the first byte of the compressed pixels
    return bytes(content)


RIGHT = encode(image_of(RGB, "RGB"))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("content", "label", "message"),
    [
        (
            encode(image_of(RGB.swapaxes(0, 1), "RGB")),
            0,
            "the image has 16 x 12 pixels .height x width, upright., but .* declares 12 x 16",
        ),
        (encode(image_of(RGB[:5], "RGB")), 0, "the image has 5 x 16 pixels"),
        (RIGHT[: len(RIGHT) // 2], 0, "the image cannot be decoded: .*truncated"),
        (png_with_damaged_pixels(), 0, "the image cannot be decoded"),
        (b"no image", 0, "the image cannot be decoded: cannot identify image file"),
        (b"", 0, "the image cannot be decoded"),
        (RIGHT, 3, r"label 3 is out of range: 3 classes allow 0\.\.2"),
        (RIGHT, -2, "label -2 is out of range"),
        (RIGHT, 2**32, "label 4294967296 is out of range"),
        (RIGHT, 2**31, "label 2147483648 is out of range"),
        (RIGHT, -1, r"has unlabelled examples, such as record \d+ .label -1."),
    ],
)
def test_invalid_record_raises_with_one_line_that_names_it(
    content: bytes,
    label: int,
    message: str,
    stream: bool,
    encoded_set: Callable[..., pathlib.Path],
) -> None:
    root = encoded_set(
        [(RIGHT, i % 3) for i in range(7)] + [(content, label)], shape=(H, W, 3), classes=3
    )
    with pytest.raises(errors.InputError, match=message) as raised:
        data.load("encoded_set", data_dir=root, stream=stream)
    line = str(raised.value)
    assert "encoded_set train" in line and "\n" not in line
    assert not (root / "kdjax_arrays").exists()
    # TFDS shuffles the records: the number is that of the wrong one.
    number = int(line.split("record ")[1].split()[0].rstrip(":"))
    assert raw_records(root)[number] == (content, label)


def raw_records(root: pathlib.Path) -> list[tuple[bytes, int]]:
    source = tfds.data_source(
        "encoded_set",
        split="train",
        data_dir=root,
        decoders={"image": tfds.decode.SkipDecoding()},
    )
    return [(bytes(record["image"]), int(record["label"])) for record in source]


@pytest.mark.parametrize(
    ("shape", "classes", "message"),
    [
        ((H, W, 4), 3, r"shape \(12, 16, 4\).*with 1 or 3 channels"),
        ((H, W, 2), 3, r"shape \(12, 16, 2\).*with 1 or 3 channels"),
        ((H, W, 3), 1, "has 1 as the number of classes: must be at least 2"),
    ],
)
def test_channels_and_classes_are_checked_before_decoding(
    shape: tuple[int, ...],
    classes: int,
    message: str,
    encoded_set: Callable[..., pathlib.Path],
) -> None:
    root = encoded_set([(b"no image", 0)] * 8, shape=shape, classes=classes)
    with pytest.raises(errors.InputError, match=message):
        data.load("encoded_set", data_dir=root)


def test_class_without_training_images_is_warned_about(
    encoded_set: Callable[..., pathlib.Path],
) -> None:
    root = encoded_set([(RIGHT, i % 2) for i in range(20)], shape=(H, W, 3), classes=4)
    with pytest.warns(RuntimeWarning, match="has no training image of class '2', '3'"):
        assert data.load("encoded_set", data_dir=root).num_classes == 4


def test_class_whose_images_are_all_cut_off_is_warned_about(
    encoded_set: Callable[..., pathlib.Path],
) -> None:
    root = encoded_set([(RIGHT, i % 2 if i else 2) for i in range(40)], shape=(H, W, 3), classes=3)
    lost = []
    for seed in range(12):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loaded = data.load("encoded_set", data_dir=root, split_seed=seed)
        lost.append(2 not in loaded.train.labels)
        assert lost[-1] == any("no training image of class '2'" in str(w.message) for w in caught)
    assert any(lost)
