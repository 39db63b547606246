"""Batches of a split, taken from arrays on the devices or streamed from disk."""

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from kdjax import errors
from kdjax.data.augment import (
    Augmentation,
    apply_augmentation,
    normalize,
    sample_augmentation,
)
from kdjax.data.dataset import Dataset, Split
from kdjax.data.records import Records
from kdjax.runtime import prng, sharding

# Number of batches that are read ahead, each by its own thread, and placed on the devices.
PREFETCH_BATCHES = min(8, os.cpu_count() or 1)


@dataclasses.dataclass(frozen=True)
class BatchSpec:
    """How the batches of training are formed.

    Attributes:
        batch_size: images in a global batch.
        steps_per_epoch: batches in an epoch; images that do not fill a batch are left out.
        order_seed: of the order of images and of their augmentation; may be traced.
        augmentation: random transformations of the images.
        views: V; each image has the V augmentations of the first V epochs, and epoch e has those of
            epoch e mod V. 0: every epoch has its own.
    """

    batch_size: int
    steps_per_epoch: int
    order_seed: int | jax.Array
    augmentation: Augmentation
    views: int = 0

    def view(self, epoch: Any) -> Any:
        """Returns the number of the view that an epoch sees: e mod V, or e without fixed views."""
        return epoch % self.views if self.views else epoch


prng.register_seed(BatchSpec, "order_seed")


class Examples(NamedTuple):
    """A split as training and evaluation read it.

    Attributes:
        images: uint8 [n, h, w, c]: an array on the devices, possibly padded with rows that no
            index reaches, or `Records` on disk.
        labels: int32 [n].
        mean, std: float32 [c], statistics of the train split for normalization.
        weights: float32 [n], of the examples' losses in the epochs that weight them; None if none
            does.
    """

    images: Any
    labels: jax.Array
    mean: jax.Array
    std: jax.Array
    weights: jax.Array | None = None


class DeviceSplit(NamedTuple):
    """A split on the devices, with the order in which an epoch visits its images.

    Attributes:
        examples: the split.
        order: int32 [n], indices into the split.
    """

    examples: Examples
    order: jax.Array


class RawBatch(NamedTuple):
    """The images of one step, before augmentation.

    Attributes:
        images: uint8 [b, h, w, c].
        labels: int32 [b].
        indices: int32 [b], of the images in the split.
        mean, std: as in `Examples`.
        weights: float32 [b], as in `Examples`.
    """

    images: jax.Array
    labels: jax.Array
    indices: jax.Array
    mean: jax.Array
    std: jax.Array
    weights: jax.Array | None = None


class Batch(NamedTuple):
    """The images of one step as the networks see them.

    Attributes:
        images: float32 [b, h, w, c], augmented and normalized.
        labels: int32 [b].
        indices: int32 [b], of the images in the split.
        augmentation: int32 [b], the number of each image's augmentation, see
            `augment.sample_augmentation`.
        view: int32 [], see `BatchSpec.view`.
        weights: float32 [b], of the examples' losses; None without weights.
    """

    images: jax.Array
    labels: jax.Array
    indices: jax.Array
    augmentation: jax.Array
    view: jax.Array
    weights: jax.Array | None = None


BatchSource = DeviceSplit | RawBatch


def put_split(split: Split, mean: np.ndarray, std: np.ndarray, placement: str = "auto") -> Examples:
    """Places a split on the devices; the images stay uint8, and stay on disk if they are there.

    Args:
        split: of the data set.
        mean: float32 [c], of the train split.
        std: float32 [c], of the train split.
        placement: of the images, see `sharding.put_images`.

    Raises:
        InputError: for a label that int32 cannot hold, which the devices would wrap.
    """
    labels = np.asarray(split.labels)
    if labels.size and not 0 <= labels.min() <= labels.max() <= np.iinfo(np.int32).max:
        raise errors.InputError(
            f"labels from {labels.min()} to {labels.max()}: must lie in 0..{np.iinfo(np.int32).max}"
        )
    images, rest = split.images, sharding.replicate((split.labels, mean, std))
    if not isinstance(images, Records):
        images = sharding.put_images(images, placement)
    return Examples(images, *rest)


def load_split(dataset: Dataset, name: str, placement: str = "auto") -> Examples:
    """Returns a split of a data set by its name, as `put_split` does."""
    return put_split(getattr(dataset, name), dataset.mean, dataset.std, placement)


@contextlib.contextmanager
def iterate_batches(
    examples: Examples, order: Any, size: int, start: int = 0
) -> Iterator[Iterator[BatchSource]]:
    """Yields an iterator over the batch sources of the steps of an epoch; see `take_batch`.

    Args:
        examples: the split.
        order: int32, indices into the split, one batch after the other.
        size: images in a batch.
        start: position of the first batch in the epoch; earlier ones are not read.

    Yields:
        The iterator; reading stops when the context is left.
    """
    if isinstance(examples.images, Records):
        with contextlib.closing(_stream(examples, np.asarray(order), size, start)) as batches:
            yield batches
    else:
        yield itertools.repeat(DeviceSplit(examples, sharding.replicate(order)))


def take_batch(source: BatchSource, position: int | jax.Array, size: int) -> RawBatch:
    """Returns the batch at a position of the epoch; for use inside jit.

    Args:
        source: of `iterate_batches`.
        position: in batches from the start of the epoch.
        size: images in a batch.
    """
    if isinstance(source, RawBatch):
        return source
    images, labels, mean, std, weights = source.examples
    index = sharding.shard_batch(jax.lax.dynamic_slice_in_dim(source.order, position * size, size))
    batch_weights = None if weights is None else weights[index]
    return RawBatch(images[index], labels[index], index, mean, std, batch_weights)


def make_batch(spec: BatchSpec, source: BatchSource, step: jax.Array) -> Batch:
    """Returns the augmented, normalized batch of a step; for use inside jit.

    Args:
        spec: how batches are formed.
        source: of `iterate_batches`, for the epoch of this step.
        step: number of finished steps, which determines epoch and position.
    """
    epoch, position = step // spec.steps_per_epoch, step % spec.steps_per_epoch
    raw = take_batch(source, position, spec.batch_size)
    view = spec.view(epoch)
    number = sample_augmentation(
        raw.indices, seed=spec.order_seed, epoch=view, augmentation=spec.augmentation
    )
    augmented = apply_augmentation(raw.images, number, augmentation=spec.augmentation)
    images = normalize(augmented, raw.mean, raw.std)
    return Batch(images, raw.labels, raw.indices, number, view, raw.weights)


def _stream(examples: Examples, order: np.ndarray, size: int, start: int) -> Any:
    """Returns grain's iterator over the batches from a position on."""
    import grain  # takes a second to import, and only streaming runs need it

    labels = np.asarray(examples.labels)
    weights = None if examples.weights is None else np.asarray(examples.weights)

    def read(position: int) -> RawBatch:
        index = order[position * size : (position + 1) * size]
        return RawBatch(
            images=_shard(examples.images[index]),
            labels=_shard(labels[index]),
            indices=_shard(index),
            mean=examples.mean,
            std=examples.std,
            weights=None if weights is None else _shard(weights[index]),
        )

    positions = grain.MapDataset.range(start, len(order) // size)
    options = grain.ReadOptions(num_threads=PREFETCH_BATCHES, prefetch_buffer_size=PREFETCH_BATCHES)
    return iter(positions.map(read).to_iter_dataset(options))


def _shard(rows: np.ndarray | Records) -> jax.Array:
    """Shards a batch over the devices; each process reads only its own rows."""

    def read(index: Any) -> np.ndarray:
        return np.asarray(rows[index[0]])

    return jax.make_array_from_callback(rows.shape, sharding.batch_sharding(), read)
