"""Batches of an epoch, taken from memory or streamed from disk."""

import sys
import threading
import time
from collections.abc import Iterator

import jax
import numpy as np
import pytest

from kdjax.data import Split, batches
from kdjax.data.records import Records
from kdjax.errors import InputError

COUNT, SHAPE, SIZE = 50, (4, 3, 2), 8
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (COUNT, *SHAPE), dtype=np.uint8)
LABELS = RNG.integers(0, 7, COUNT, dtype=np.int32)
ORDER = RNG.permutation(COUNT).astype(np.int32)


class Disk:
    """Images that are read as records, and the record numbers of every read."""

    def __init__(self) -> None:
        self.reads: list[np.ndarray] = []
        self.records = Records(self.read, np.arange(COUNT), SHAPE)

    def read(self, numbers: np.ndarray) -> np.ndarray:
        self.reads.append(numbers)
        return IMAGES[numbers]


def examples(images: np.ndarray | Records) -> batches.Examples:
    return batches.put_split(Split(images, LABELS), np.full(2, 0.5), np.full(2, 0.2))


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def streamed(disk: Disk) -> batches.Examples:
    return examples(disk.records)


@jax.jit
def take_batch(source: batches.BatchSource, position: int) -> batches.RawBatch:
    return batches.take_batch(source, position, SIZE)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    deadline = time.monotonic() + 10
    while [thread for thread in threading.enumerate() if "grain" in thread.name]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("label", [-1, 2**31, 2**32])
def test_label_that_would_wrap_on_the_devices_raises(label: int) -> None:
    labels = LABELS.astype(np.int64)
    labels[7] = label
    with pytest.raises(InputError, match=f"labels from .*{label}.*: must lie in 0..2147483647"):
        batches.put_split(Split(IMAGES, labels), np.full(2, 0.5), np.full(2, 0.2))


@pytest.mark.parametrize("start", [0, 1, 5])
@pytest.mark.parametrize("shuffled", [ORDER, np.zeros(16 * SIZE, np.int32)])
def test_streamed_batches_equal_those_taken_from_memory(
    start: int, shuffled: np.ndarray, streamed: batches.Examples
) -> None:
    with (
        batches.iterate_batches(examples(IMAGES), shuffled, SIZE, start) as resident,
        batches.iterate_batches(streamed, shuffled, SIZE, start) as stream,
    ):
        for position in range(start, len(shuffled) // SIZE):
            expected, batch = (take_batch(next(source), position) for source in (resident, stream))
            jax.tree.map(np.testing.assert_array_equal, batch, expected)
            numbers = shuffled[position * SIZE :][:SIZE]
            np.testing.assert_array_equal(batch.indices, numbers)
            np.testing.assert_array_equal(batch.images, IMAGES[numbers])
            np.testing.assert_array_equal(batch.labels, LABELS[numbers])
            assert batch.images.sharding == expected.images.sharding
        assert list(stream) == []  # the incomplete last batch is left out


def test_batches_do_not_depend_on_the_number_of_threads(
    streamed: batches.Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    for ahead in (1, 2, 16):
        monkeypatch.setattr(batches, "PREFETCH_BATCHES", ahead)
        with batches.iterate_batches(streamed, ORDER, SIZE) as stream:
            found = np.concatenate([batch.images for batch in stream])
        np.testing.assert_array_equal(found, IMAGES[ORDER[: len(found)]])


def test_only_the_rows_of_each_device_are_read(disk: Disk, streamed: batches.Examples) -> None:
    with batches.iterate_batches(streamed, ORDER, SIZE, start=5) as stream:
        (batch,) = stream
    expected = [ORDER[5 * SIZE :][i : i + 2].tolist() for i in range(0, SIZE, 2)]  # of 4 devices
    assert sorted(numbers.tolist() for numbers in disk.reads) == sorted(expected)
    assert {shard.data.shape for shard in batch.images.addressable_shards} == {(2, *SHAPE)}


def test_a_limited_number_of_batches_is_read_ahead(
    disk: Disk, streamed: batches.Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "PREFETCH_BATCHES", 2)
    with batches.iterate_batches(streamed, ORDER, SIZE) as stream:
        next(stream)
        deadline = time.monotonic() + 10
        while sum(map(len, disk.reads)) < 3 * SIZE:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.1)
        assert sum(map(len, disk.reads)) == 3 * SIZE < len(ORDER) - SIZE


def test_error_while_reading_is_raised_by_the_iterator() -> None:
    def damaged(numbers: np.ndarray) -> np.ndarray:
        if ORDER[3 * SIZE] in numbers:
            raise ValueError("record 24 is damaged")
        return IMAGES[numbers]

    seen = []
    with (
        pytest.raises(ValueError) as raised,
        batches.iterate_batches(
            examples(Records(damaged, np.arange(COUNT), SHAPE)), ORDER, SIZE
        ) as stream,
    ):
        for batch in stream:
            seen.append(batch)
    assert str(raised.value) == "record 24 is damaged" and len(seen) == 3


def test_leaving_the_loop_stops_the_threads(streamed: batches.Examples) -> None:
    def source() -> Iterator[batches.BatchSource]:
        with batches.iterate_batches(streamed, ORDER, SIZE) as stream:
            yield from stream

    with pytest.raises(KeyboardInterrupt):
        for _ in source():
            raise KeyboardInterrupt


def test_grain_is_imported_only_for_streaming(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grain", None)
    with batches.iterate_batches(examples(IMAGES), ORDER, SIZE) as resident:
        np.testing.assert_array_equal(take_batch(next(resident), 2).labels, LABELS[ORDER[16:24]])
    with (
        pytest.raises(ImportError),
        batches.iterate_batches(examples(Disk().records), ORDER, SIZE),
    ):
        raise AssertionError
