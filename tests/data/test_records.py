"""Images on disk, compared with the same images in memory."""

import pathlib
import shutil
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kdjax import data, errors
from kdjax.data import batches
from kdjax.data.records import Records
from kdjax.data.tfds import decode

SPLITS = ("train", "dev", "calibration", "test")


def load(root: pathlib.Path, *, stream: bool, **changes: Any) -> data.Dataset:
    return data.load("small_set", data_dir=root, stream=stream, **changes)


def assert_same(actual: data.Dataset, expected: data.Dataset) -> None:
    for name in SPLITS:
        split, expected_split = getattr(actual, name), getattr(expected, name)
        np.testing.assert_array_equal(np.asarray(split.images), np.asarray(expected_split.images))
        np.testing.assert_array_equal(split.labels, expected_split.labels)
    np.testing.assert_array_equal((actual.mean, actual.std), (expected.mean, expected.std))
    assert actual.class_names == expected.class_names
    assert actual.image_shape == expected.image_shape


def image_types(dataset: data.Dataset) -> list[type]:
    splits = [getattr(dataset, split).images for split in SPLITS]
    return [np.ndarray if isinstance(images, np.ndarray) else type(images) for images in splits]


@pytest.fixture
def root(small_set: Callable[..., Any], tmp_path: pathlib.Path) -> pathlib.Path:
    small_set({"train": 20, "extra": 15, "test": 6})
    return tmp_path


def test_records_are_indexed_like_an_array() -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 3, 2, 1), dtype=np.uint8)
    records = Records(lambda numbers: images[numbers], np.arange(9), (3, 2, 1))
    assert (len(records), records.shape) == (9, images.shape)
    for rows in (slice(2, 7), np.array([5, 0, 5]), np.arange(9) % 2 == 0, slice(0, 0)):
        np.testing.assert_array_equal(np.asarray(records[rows]), images[rows])
        np.testing.assert_array_equal(np.asarray(records[rows][1:]), images[rows][1:])
        assert records[rows].shape == images[rows].shape
    assert np.asarray(records, np.float32).dtype == np.float32


@pytest.mark.parametrize("train_split", ["train", "train+extra", "extra+train"])
def test_streamed_data_set_equals_the_one_in_memory(train_split: str, root: pathlib.Path) -> None:
    stream, resident = (
        load(root, stream=stream, train_split=train_split) for stream in (True, False)
    )
    assert_same(stream, resident)
    assert_same(data.limit_examples(stream, 5, 3), data.limit_examples(resident, 5, 3))
    assert image_types(stream) == [Records, Records, Records, np.ndarray]
    assert image_types(resident) == [np.ndarray] * 4


def test_streaming_caches_labels_and_statistics_without_images(root: pathlib.Path) -> None:
    load(root, stream=True)
    cached = {path.name for path in (root / "kdjax_arrays/small_set/1.0.0/train").iterdir()}
    assert cached == {"labels.npy", "moments.npy", "class_names.npy", "meta.json"}


@pytest.mark.parametrize(
    ("streams", "expected"),
    [
        ((True, True, False, True, False), [("train", False), ("test", True), ("train", True)]),
        ((False, True, False), [("train", True), ("test", True)]),
    ],
)
def test_splits_are_decoded_again_only_if_images_are_missing_in_the_cache(
    streams: tuple[bool, ...],
    expected: list[tuple[str, bool]],
    root: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoded, split = [], decode.split

    def recorded(directory: pathlib.Path, name: str, images: bool) -> Any:
        decoded.append((name, images))
        return split(directory, name, images)

    monkeypatch.setattr(decode, "split", recorded)
    first, *others = (load(root, stream=stream) for stream in streams)
    for other in others:
        assert_same(first, other)
    assert decoded == expected


@pytest.mark.slow
def test_streaming_does_not_hold_all_images_in_memory(
    small_set: Callable[..., Any], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_set({"train": 300, "test": 5}, shape=(64, 64, 3))
    monkeypatch.setattr(decode, "BATCH_SIZE", 16)
    monkeypatch.setattr(batches, "PREFETCH_BATCHES", 1)

    def peak(stream: bool) -> int:
        shutil.rmtree(tmp_path / "kdjax_arrays", ignore_errors=True)
        tracemalloc.start()
        try:
            loaded = load(tmp_path, stream=stream)
            examples = batches.put_split(loaded.train, loaded.mean, loaded.std)
            order = np.arange(len(loaded.train.labels), dtype=np.int32)
            with batches.iterate_batches(examples, order, 16) as fed:
                for _ in range(len(order) // 16):
                    next(fed)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(stream=True)  # the first call imports modules, which take memory too
    size = 300 * 64 * 64 * 3
    assert peak(stream=True) < size / 3 and peak(stream=False) > size


@pytest.mark.parametrize("content", [b"", b"damaged" * 20000, None])
def test_damage_after_loading_raises_with_the_directory(
    content: bytes | None, root: pathlib.Path
) -> None:
    loaded = load(root, stream=True)
    (file,) = (root / "small_set/1.0.0").glob("*-train.array_record*")
    file.unlink() if content is None else file.write_bytes(content)
    examples = batches.put_split(loaded.train, loaded.mean, loaded.std)
    message = r"small_set/1\.0\.0 is damaged: remove it to prepare it again"
    with (
        pytest.raises(errors.InputError, match=message),
        batches.iterate_batches(examples, np.arange(8), 4) as fed,
    ):
        next(fed)
