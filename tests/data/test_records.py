"""Images that stay on disk: the same ones, with their labels and statistics in the cache."""

import pathlib
import shutil
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kdjax import data, errors, step
from kdjax.data import batches, decode
from kdjax.data.records import Records

SPLITS = ("train", "dev", "calibration", "test")


def load(root: pathlib.Path, *, stream: bool, **changes: Any) -> data.Dataset:
    return data.load("small_set", data_dir=root, stream=stream, **changes)


def assert_same(one: data.Dataset, other: data.Dataset) -> None:
    for split in SPLITS:
        first, second = getattr(one, split), getattr(other, split)
        np.testing.assert_array_equal(np.asarray(first.images), np.asarray(second.images))
        np.testing.assert_array_equal(first.labels, second.labels)
    np.testing.assert_array_equal((one.mean, one.std), (other.mean, other.std))
    assert (one.class_names, one.image_shape) == (other.class_names, other.image_shape)


def kinds(dataset: data.Dataset) -> list[type]:
    found = [getattr(dataset, split).images for split in SPLITS]
    return [np.ndarray if isinstance(images, np.ndarray) else type(images) for images in found]


@pytest.fixture
def root(small_set: Callable[..., Any], tmp_path: pathlib.Path) -> pathlib.Path:
    small_set({"train": 20, "extra": 15, "test": 6})
    return tmp_path


def test_records_are_indexed_as_the_array_would_be() -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 3, 2, 1), dtype=np.uint8)
    records = Records(lambda places: images[places], np.arange(9), (3, 2, 1))
    assert (len(records), records.shape) == (9, images.shape)
    for rows in (slice(2, 7), np.array([5, 0, 5]), np.arange(9) % 2 == 0, slice(0, 0)):
        np.testing.assert_array_equal(np.asarray(records[rows]), images[rows])
        np.testing.assert_array_equal(np.asarray(records[rows][1:]), images[rows][1:])
        assert records[rows].shape == images[rows].shape
    assert np.asarray(records, np.float32).dtype == np.float32


@pytest.mark.parametrize("train_split", ["train", "train+extra", "extra+train"])
def test_what_is_streamed_is_what_would_be_in_memory(train_split: str, root: pathlib.Path) -> None:
    stream, resident = (
        load(root, stream=stream, train_split=train_split) for stream in (True, False)
    )
    assert_same(stream, resident)
    assert_same(data.head(stream, 5), data.head(resident, 5))
    assert kinds(stream) == [Records, Records, Records, np.ndarray]
    assert kinds(resident) == [np.ndarray] * 4


def test_labels_and_statistics_are_cached_without_the_images(root: pathlib.Path) -> None:
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
def test_nothing_is_decoded_twice_but_images_that_were_not_wanted_at_first(
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


def test_the_images_of_train_are_never_in_memory_together(
    small_set: Callable[..., Any], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_set({"train": 300, "test": 5}, shape=(64, 64, 3))
    monkeypatch.setattr(decode, "_BATCH", 16)
    monkeypatch.setattr(batches, "AHEAD", 1)

    def peak(stream: bool) -> int:
        shutil.rmtree(tmp_path / "kdjax_arrays", ignore_errors=True)
        tracemalloc.start()
        try:
            loaded = load(tmp_path, stream=stream)
            examples = step.to_device(loaded.train, loaded.mean, loaded.std)
            order = np.arange(len(loaded.train.labels), dtype=np.int32)
            with batches.feed(examples, order, 16) as fed:
                for _ in range(len(order) // 16):
                    next(fed)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(stream=True)  # modules that are imported on the way take memory once
    whole = 300 * 64 * 64 * 3
    assert peak(stream=True) < whole / 3 and peak(stream=False) > whole


@pytest.mark.parametrize("harm", [b"", b"damaged" * 20000, None])
def test_damage_that_comes_while_it_is_read_is_named(
    harm: bytes | None, root: pathlib.Path
) -> None:
    loaded = load(root, stream=True)
    (file,) = (root / "small_set/1.0.0").glob("*-train.array_record*")
    file.unlink() if harm is None else file.write_bytes(harm)
    examples = step.to_device(loaded.train, loaded.mean, loaded.std)
    message = r"small_set/1\.0\.0 is damaged: remove it to prepare it again"
    with (
        pytest.raises(errors.InputError, match=message),
        batches.feed(examples, np.arange(8), 4) as fed,
    ):
        next(fed)
