"""What the rest of the project sees of a data set, and how it is put together."""

import dataclasses
import os
import pathlib

import numpy as np

from kdjax import errors
from kdjax.data import arrays, cache, locate, splits


@dataclasses.dataclass(frozen=True)
class Split:
    """Images uint8[n, h, w, c] and their labels int32[n]."""

    images: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set in memory, with the per-channel statistics of its train split.

    `mean` and `std` are float32[c] in units of full brightness (255); a channel that never
    changes has std 1, so that it normalizes to 0.
    """

    name: str
    version: str
    class_names: tuple[str, ...]
    train: Split
    dev: Split
    test: Split
    mean: np.ndarray
    std: np.ndarray

    @property
    def num_classes(self) -> int:
        """The number of classes, m."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Height, width and channels."""
        return self.train.images.shape[1:]


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    train_split: str = "train",
    test_split: str = "test",
    dev_fraction: float = 0.1,
    split_seed: int = 0,
) -> Dataset:
    """Returns a TFDS image-classification set as arrays; prepares it on first use.

    Args:
        name: `digits`, `fashion_mnist`, `svhn_cropped`, `cifar10`, `cifar100`, or any other TFDS
            set with images of one size, `name` or `name/config`.
        data_dir: the TFDS directory; by default TFDS's own ($TFDS_DATA_DIR).
        train_split: what train and dev are cut from; `"train+extra"` joins splits.
        test_split: as `train_split`, for test.
        dev_fraction: share of `train_split` that becomes dev, 0 < fraction < 1.
        split_seed: of that class-stratified cut.

    Returns:
        The data set; `mean` and `std` are those of train after the cut.

    Raises:
        InputError: for an unknown name or split, a set that is not image classification, files
            that are missing or wrong, or no network to fetch them.
    """
    root = _root(data_dir)
    wanted = _parts(train_split, test_split)
    directory = locate.directory(name, root, [*wanted[0], *wanted[1]])
    train, test = (
        arrays.join([cache.load(root, directory, part) for part in parts]) for parts in wanted
    )
    kept, held_out = splits.stratified_cut(train.labels, dev_fraction, split_seed)
    pixels = len(kept) * train.images[0, ..., 0].size
    mean, std = arrays.statistics(train.moments[kept].sum(axis=0), pixels)
    return Dataset(
        name=directory.parent.relative_to(root).as_posix(),
        version=directory.name,
        class_names=tuple(train.class_names.tolist()),
        train=Split(train.images[kept], train.labels[kept]),
        dev=Split(train.images[held_out], train.labels[held_out]),
        test=Split(test.images, test.labels),
        mean=mean,
        std=std,
    )


def head(dataset: Dataset, train: int, dev: int, test: int) -> Dataset:
    """Returns the first examples of each split, for a smoke run; the statistics stay.

    Args:
        dataset: the whole set.
        train: the number of train examples to keep.
        dev: the number of dev examples to keep.
        test: the number of test examples to keep.

    Returns:
        The smaller set.

    Raises:
        InputError: if a number is below 1 or above what the split holds.
    """
    return dataclasses.replace(
        dataset,
        train=_first("train", dataset.train, train),
        dev=_first("dev", dataset.dev, dev),
        test=_first("test", dataset.test, test),
    )


def _first(name: str, split: Split, size: int) -> Split:
    if not 1 <= size <= len(split.labels):
        raise errors.InputError(f"{name}={size}: must lie between 1 and {len(split.labels)}")
    return Split(split.images[:size], split.labels[:size])


def _root(data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
    # The default is TFDS's own rule, without the half second that its import takes.
    root = os.fspath(data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets"))
    if "://" in root:
        raise errors.InputError(f"data_dir {root!r}: must be a directory on this machine")
    return pathlib.Path(root).expanduser().absolute()


def _parts(train_split: str, test_split: str) -> tuple[list[str], list[str]]:
    train, test = train_split.split("+"), test_split.split("+")
    if len({*train, *test}) < len(train) + len(test):
        raise errors.InputError(
            f"train split {train_split!r} and test split {test_split!r} must not overlap"
        )
    return train, test
