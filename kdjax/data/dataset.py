"""What the rest of the project sees of a data set, and how it is put together."""

import dataclasses
import math
import os
import pathlib
from typing import Generic, TypeVar

import numpy as np

from kdjax import errors
from kdjax.data import arrays, cache, locate, splits
from kdjax.data.records import Records

Images = TypeVar("Images", np.ndarray, Records)


@dataclasses.dataclass(frozen=True)
class Split(Generic[Images]):
    """Images uint8[n, h, w, c] and their labels int32[n]."""

    images: Images
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set, in memory or in part on disk, with the per-channel statistics of its train split.

    `mean` and `std` are float32[c] in units of full brightness (255); a channel that never
    changes has std 1, so that it normalizes to 0.
    """

    name: str
    version: str
    class_names: tuple[str, ...]
    train: Split
    dev: Split
    calibration: Split
    test: Split[np.ndarray]
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
    calibration_fraction: float = 0.1,
    split_seed: int = 0,
    stream: bool = False,
) -> Dataset:
    """Returns a TFDS image-classification set as arrays; prepares it on first use.

    Args:
        name: `digits`, `fashion_mnist`, `svhn_cropped`, `cifar10`, `cifar100`, or any other TFDS
            set with images of one size, `name` or `name/config`.
        data_dir: the TFDS directory; by default TFDS's own ($TFDS_DATA_DIR).
        train_split: what train, dev and calibration are cut from; `"train+extra"` joins splits.
        test_split: as `train_split`, for test.
        dev_fraction: share of `train_split` that becomes dev, 0 < fraction < 1.
        calibration_fraction: share that becomes calibration, 0 < fraction < 1.
        split_seed: of both cuts, dev's within each class, calibration's from what is left.
        stream: leave the images of train, dev and calibration on disk, as `Records`.

    Returns:
        The data set; `mean` and `std` are those of train after the cuts.

    Raises:
        InputError: for an unknown name or split, a set that is not image classification, files
            that are missing or wrong, or no network to fetch them.
    """
    root = _root(data_dir)
    train_parts, test_parts = _parts(train_split, test_split)
    directory = locate.directory(name, root, [*train_parts, *test_parts])
    train = arrays.join(
        [cache.load(root, directory, part, images=not stream) for part in train_parts]
    )
    test = arrays.join([cache.load(root, directory, part) for part in test_parts])
    images = _on_disk(directory, train_split) if stream else train.images
    rest, dev = splits.stratified_cut(train.labels, dev_fraction, split_seed)
    size = round(calibration_fraction * len(train.labels))
    kept, held_out = (rest[part] for part in splits.random_cut(len(rest), size, split_seed))
    pixels = len(kept) * math.prod(images.shape[1:3])
    mean, std = arrays.statistics(train.moments[kept].sum(axis=0), pixels)
    return Dataset(
        name=directory.parent.relative_to(root).as_posix(),
        version=directory.name,
        class_names=tuple(train.class_names.tolist()),
        train=Split(images[kept], train.labels[kept]),
        dev=Split(images[dev], train.labels[dev]),
        calibration=Split(images[held_out], train.labels[held_out]),
        test=Split(test.images, test.labels),
        mean=mean,
        std=std,
    )


def prepared(name: str, data_dir: str | os.PathLike[str] | None = None) -> bool:
    """Returns whether a set lies in the TFDS directory, so that `load` need not make or fetch it.

    Args:
        name: as for `load`.
        data_dir: as for `load`.
    """
    return locate.newest(name, _root(data_dir)) is not None


def head(dataset: Dataset, limit: int) -> Dataset:
    """Returns the first `limit` examples of each split, or all it has; the statistics stay.

    Raises:
        InputError: if `limit` is below 1.
    """
    if limit < 1:
        raise errors.InputError(f"limit={limit}: must be at least 1")
    return dataclasses.replace(
        dataset,
        train=_first(dataset.train, limit),
        dev=_first(dataset.dev, limit),
        calibration=_first(dataset.calibration, limit),
        test=_first(dataset.test, limit),
    )


def _first(split: Split, limit: int) -> Split:
    return Split(split.images[:limit], split.labels[:limit])


def _on_disk(directory: pathlib.Path, split: str) -> Records:
    # Only a set that is streamed waits for the import of TFDS.
    from kdjax.data import decode

    return decode.on_disk(directory, split)


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
