"""The batches of an epoch: gathered from memory or streamed from disk, in the same order."""

import sys
import threading
import time
from collections.abc import Iterator

import jax
import numpy as np
import pytest

from kdjax import step
from kdjax.data import Split, batches
from kdjax.data.records import Records

COUNT, SHAPE, SIZE = 50, (4, 3, 2), 8
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (COUNT, *SHAPE), dtype=np.uint8)
LABELS = RNG.integers(0, 7, COUNT, dtype=np.int32)
ORDER = RNG.permutation(COUNT).astype(np.int32)


class Disk:
    """Images that are read as records, and a list of what was read."""

    def __init__(self) -> None:
        self.reads: list[np.ndarray] = []
        self.records = Records(self.read, np.arange(COUNT), SHAPE)

    def read(self, places: np.ndarray) -> np.ndarray:
        self.reads.append(places)
        return IMAGES[places]


def examples(images: np.ndarray | Records) -> batches.Examples:
    return step.to_device(Split(images, LABELS), np.full(2, 0.5), np.full(2, 0.2))


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def streamed(disk: Disk) -> batches.Examples:
    return examples(disk.records)


@jax.jit
def gathered(fed: batches.Fed, position: int) -> batches.Batch:
    return batches.gathered(fed, position, SIZE)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    deadline = time.monotonic() + 10
    while [thread for thread in threading.enumerate() if "grain" in thread.name]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("start", [0, 1, 5])
@pytest.mark.parametrize("shuffled", [ORDER, np.zeros(16 * SIZE, np.int32)])
def test_a_stream_yields_what_is_gathered_in_memory(
    start: int, shuffled: np.ndarray, streamed: batches.Examples
) -> None:
    with (
        batches.feed(examples(IMAGES), shuffled, SIZE, start) as resident,
        batches.feed(streamed, shuffled, SIZE, start) as stream,
    ):
        for position in range(start, len(shuffled) // SIZE):
            one, other = (gathered(next(fed), position) for fed in (resident, stream))
            jax.tree.map(np.testing.assert_array_equal, one, other)
            places = shuffled[position * SIZE :][:SIZE]
            np.testing.assert_array_equal(other.places, places)
            np.testing.assert_array_equal(other.images, IMAGES[places])
            np.testing.assert_array_equal(other.labels, LABELS[places])
            assert other.images.sharding == one.images.sharding
        assert list(stream) == []  # the last, partial batch belongs to no epoch


def test_the_same_batches_are_read_by_any_number_of_threads(
    streamed: batches.Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    for ahead in (1, 2, 16):
        monkeypatch.setattr(batches, "AHEAD", ahead)
        with batches.feed(streamed, ORDER, SIZE) as stream:
            found = np.concatenate([batch.images for batch in stream])
        np.testing.assert_array_equal(found, IMAGES[ORDER[: len(found)]])


def test_each_device_has_its_rows_read_and_nothing_else_is(
    disk: Disk, streamed: batches.Examples
) -> None:
    with batches.feed(streamed, ORDER, SIZE, start=5) as stream:
        (batch,) = stream
    expected = [ORDER[5 * SIZE :][i : i + 2].tolist() for i in range(0, SIZE, 2)]  # of 4 devices
    assert sorted(places.tolist() for places in disk.reads) == sorted(expected)
    assert {shard.data.shape for shard in batch.images.addressable_shards} == {(2, *SHAPE)}


def test_some_batches_are_read_ahead_but_never_all(
    disk: Disk, streamed: batches.Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "AHEAD", 2)
    with batches.feed(streamed, ORDER, SIZE) as stream:
        next(stream)
        deadline = time.monotonic() + 10
        while sum(map(len, disk.reads)) < 3 * SIZE:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.1)
        assert sum(map(len, disk.reads)) == 3 * SIZE < len(ORDER) - SIZE


def test_what_goes_wrong_in_reading_is_raised_where_the_batch_is_asked_for() -> None:
    def damaged(places: np.ndarray) -> np.ndarray:
        if ORDER[3 * SIZE] in places:
            raise ValueError("record 24 is damaged")
        return IMAGES[places]

    seen = []
    with (
        pytest.raises(ValueError) as raised,
        batches.feed(examples(Records(damaged, np.arange(COUNT), SHAPE)), ORDER, SIZE) as stream,
    ):
        for batch in stream:
            seen.append(batch)
    assert str(raised.value) == "record 24 is damaged" and len(seen) == 3


def test_a_loop_that_is_left_leaves_no_thread(streamed: batches.Examples) -> None:
    def fed() -> Iterator[batches.Fed]:
        with batches.feed(streamed, ORDER, SIZE) as stream:
            yield from stream

    with pytest.raises(KeyboardInterrupt):
        for _ in fed():
            raise KeyboardInterrupt


def test_a_run_in_memory_does_not_import_grain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grain", None)
    with batches.feed(examples(IMAGES), ORDER, SIZE) as resident:
        np.testing.assert_array_equal(gathered(next(resident), 2).labels, LABELS[ORDER[16:24]])
    with (
        pytest.raises(ImportError),
        batches.feed(examples(Disk().records), ORDER, SIZE),
    ):
        raise AssertionError
