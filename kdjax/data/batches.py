"""Batches of a split, gathered on the devices or streamed from its records: the same ones."""

import contextlib
import itertools
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from kdjax import parallel
from kdjax.data.records import Records

# So many batches are read ahead, each by a thread of its own, and lie on the devices when their
# turn comes.
AHEAD = min(8, os.cpu_count() or 1)


class Examples(NamedTuple):
    """A split, as the steps see it.

    Attributes:
        images: uint8 [n, h, w, c]; an array on the devices, perhaps with more rows that no index
            reaches, or `Records` on disk.
        labels: int32 [n].
        mean, std: float32 [c], of the train split, for normalization.
    """

    images: Any
    labels: jax.Array
    mean: jax.Array
    std: jax.Array


class Ordered(NamedTuple):
    """A split on the devices, of which a step gathers its batch.

    Attributes:
        examples: the split.
        order: int32 [n], places in it.
    """

    examples: Examples
    order: jax.Array


class Batch(NamedTuple):
    """The examples of one step.

    Attributes:
        images: uint8 [b, h, w, c].
        labels: int32 [b].
        places: int32 [b], theirs in the split.
        mean, std: as in `Examples`.
    """

    images: jax.Array
    labels: jax.Array
    places: jax.Array
    mean: jax.Array
    std: jax.Array


Fed = Ordered | Batch


@contextlib.contextmanager
def feed(examples: Examples, order: Any, size: int, start: int = 0) -> Iterator[Iterator[Fed]]:
    """Gives, for each step of an epoch, what `gathered` makes its batch of.

    Args:
        examples: the split.
        order: int32, places in it, one batch after the other.
        size: of a batch.
        start: the first batch's position in the epoch; what comes before it is not read.

    Yields:
        An iterator; when the context is left, nothing more is read.
    """
    if isinstance(examples.images, Records):
        with contextlib.closing(_stream(examples, np.asarray(order), size, start)) as batches:
            yield batches
    else:
        yield itertools.repeat(Ordered(examples, parallel.everywhere(order)))


def gathered(fed: Fed, position: int | jax.Array, size: int) -> Batch:
    """Returns the batch at a position of the epoch; for use inside jit.

    Args:
        fed: by `feed`.
        position: counted in batches.
        size: of a batch.
    """
    if isinstance(fed, Batch):
        return fed
    images, labels, mean, std = fed.examples
    places = parallel.split(jax.lax.dynamic_slice_in_dim(fed.order, position * size, size))
    return Batch(images[places], labels[places], places, mean, std)


def _stream(examples: Examples, order: np.ndarray, size: int, start: int) -> Any:
    """Returns grain's iterator over the batches from a position on."""
    import grain  # takes a second, for which only a run that streams has to wait

    labels = np.asarray(examples.labels)

    def read(position: int) -> Batch:
        places = order[position * size : (position + 1) * size]
        images, classes = _shared(examples.images[places]), _shared(labels[places])
        return Batch(images, classes, _shared(places), examples.mean, examples.std)

    positions = grain.MapDataset.range(start, len(order) // size)
    options = grain.ReadOptions(num_threads=AHEAD, prefetch_buffer_size=AHEAD)
    return iter(positions.map(read).to_iter_dataset(options))


def _shared(rows: np.ndarray | Records) -> jax.Array:
    """Splits a batch over the devices; each process reads its own rows of it alone."""

    def read(index: Any) -> np.ndarray:
        return np.asarray(rows[index[0]])

    return jax.make_array_from_callback(rows.shape, parallel.rows(), read)
