"""Data sets with train, dev, calibration and test splits."""

import dataclasses
import math
import os
import pathlib
import warnings
from typing import Any, Generic, TypeVar

import numpy as np

from kdjax import errors
from kdjax.data import arrays, own, splits
from kdjax.data.fit import STRETCH
from kdjax.data.own.load import Cuts
from kdjax.data.own.load import load as load_own
from kdjax.data.own.names import FORMS, missing_error, path_error
from kdjax.data.records import Records
from kdjax.data.tfds import cache, locate

Images = TypeVar("Images", np.ndarray, Records)
# How own images of other proportions may be resized.
FITS = ("pad", "crop")
TEST_FRACTION = 0.2  # of own images without a test split, unless another one is given
# Streams of random numbers of `limit_examples`; the cuts use the seed alone and [seed, 1].
_SAMPLE_STREAMS = {"train": 2, "dev": 3, "calibration": 4, "test": 5}


@dataclasses.dataclass(frozen=True)
class Split(Generic[Images]):
    """Images and labels of a split.

    Attributes:
        images: uint8 [n, h, w, c]: an array, or `Records` on disk.
        labels: int32 [n].
        groups: str [n], such as the device, "" for none; None if the data set has no groups.
        units: int [n], equal for images that folds must not divide: exact copies, and images of one
            group; None if there are none, or if they are not known.
    """

    images: Images
    labels: np.ndarray
    groups: np.ndarray | None = None
    units: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> "Split[Images]":
        """Returns some of the examples."""
        groups, units = (
            None if values is None else values[rows] for values in (self.groups, self.units)
        )
        return Split(self.images[rows], self.labels[rows], groups, units)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set, with the statistics of its train split.

    Attributes:
        name: of the data set in TFDS, `name` or `name/config`; or kind and last part of the path of
            own images, such as `folder:pets`.
        version: of the data set in TFDS; of own images, a hash of all pixels and labels.
        class_names: m names, by label.
        train: for training; in memory or on disk, like dev and calibration.
        dev: for every choice, such as the best checkpoint.
        calibration: for certificates only.
        test: for the final evaluation; in memory.
        mean: float32 [c], of the train split, in units of full brightness (255).
        std: float32 [c], in the same units; 1 for a constant channel, which normalizes to 0.
        fit: how images of another size are resized for the network, one of `RESIZES` in
            `kdjax/data/fit.py`.
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
    fit: str = STRETCH

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
    test_fraction: float = TEST_FRACTION,
    dev_fraction: float = 0.1,
    calibration_fraction: float = 0.1,
    split_seed: int = 0,
    image_size: int = 0,
    fit: str = "pad",
    strict: bool = False,
    stream: bool = False,
) -> Dataset:
    """Loads own images, or an image-classification data set of TFDS, prepared on first use.

    Own images are cut into the splits that they do not have; see `kdjax.data.own`.

    Args:
        name: `folder:PATH`, `csv:FILE` or `npz:FILE` for own images; `digits`, `digits_noisy`,
            `fashion_mnist`, `svhn_cropped`, `cifar10`, `cifar100`, or any other TFDS data set with
            images of one size, as `name` or `name/config`.
        data_dir: the TFDS directory; by default `$TFDS_DATA_DIR` or `~/tensorflow_datasets`. For
            own images, the folder of their cache; by default the user's cache folder.
        train_split: the TFDS split from which train, dev and calibration are cut; `+` joins
            several, such as `"train+extra"`. Not for own images.
        test_split: the TFDS split that is used as test; `+` joins several. Not for own images.
        test_fraction: fraction of own images without a test split used as test, stratified by
            class, in (0, 1).
        dev_fraction: fraction of `train_split`, or of own images outside test, used as dev,
            stratified by class, in (0, 1).
        calibration_fraction: fraction of the same used for calibration, drawn from the rest
            regardless of class, in (0, 1).
        split_seed: seed of all cuts, >= 0.
        image_size: height and width to which own images are resized; 0: their own, if all are
            equal.
        fit: how own images of other proportions are resized: `pad` or `crop`.
        strict: refuse own images that cannot be read, instead of leaving them out.
        stream: leave the images of train, dev and calibration on disk, as `Records`.

    Returns:
        The data set; `mean` and `std` are computed on train after the cuts.

    Raises:
        InputError: for an argument out of range, an unknown name or split, a data set that is not
            image classification, missing or wrong files, files that cannot be downloaded, or a
            `data_dir` that holds other things and no prepared set.
    """
    cuts = Cuts(test_fraction, dev_fraction, calibration_fraction, split_seed)
    _check_cuts(cuts)
    location = own.parse(name)
    if location is None:
        for field, given, default in (
            ("image_size", image_size, 0),
            ("fit", fit, FITS[0]),
            ("strict", strict, False),
            ("test_fraction", test_fraction, TEST_FRACTION),
        ):
            if given != default:
                raise path_error(name) or errors.InputError(
                    f"{field} {given!r} with {name!r}: only for {FORMS}"
                )
        return _load_tfds(name, _root(data_dir), train_split, test_split, cuts, stream)
    _check_own(train_split, test_split, image_size, fit)
    loaded = load_own(
        location,
        data_dir=data_dir,
        image_size=image_size,
        resize=fit,
        strict=strict,
        cuts=cuts,
        stream=stream,
    )
    parts: dict[str, Any] = {
        split: Split(images, labels, loaded.groups[split])
        for split, (images, labels) in loaded.splits.items()
    }
    parts["train"] = dataclasses.replace(parts["train"], units=loaded.units)
    mean, std = _statistics(loaded.moments, parts["train"].images.shape)
    return Dataset(
        loaded.name, loaded.version, loaded.class_names, **parts, mean=mean, std=std, fit=fit
    )


def _load_tfds(
    name: str, root: pathlib.Path, train_split: str, test_split: str, cuts: Cuts, stream: bool
) -> Dataset:
    train_parts, test_parts = _parts(train_split, test_split)
    directory = locate.directory(name, root, [*train_parts, *test_parts])
    train = arrays.join(
        [cache.load(root, directory, part, images=not stream) for part in train_parts]
    )
    test = arrays.join([cache.load(root, directory, part) for part in test_parts])
    images = _on_disk(directory, train_split) if stream else train.images
    rest, dev = splits.stratified_cut(train.labels, cuts.dev_fraction, cuts.seed)
    size = round(cuts.calibration_fraction * len(train.labels))
    kept, calibration = (rest[part] for part in splits.random_cut(len(rest), size, cuts.seed))
    _warn_about_empty_classes(name, train.labels[kept], train.class_names)
    mean, std = _statistics(train.moments[kept], (len(kept), *images.shape[1:]))
    return Dataset(
        name=directory.parent.relative_to(root).as_posix(),
        version=directory.name,
        class_names=tuple(train.class_names.tolist()),
        train=Split(images[kept], train.labels[kept]),
        dev=Split(images[dev], train.labels[dev]),
        calibration=Split(images[calibration], train.labels[calibration]),
        test=Split(test.images, test.labels),
        mean=mean,
        std=std,
    )


def _statistics(moments: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and standard deviation of images uint8 of a shape [n, h, w, c]."""
    return arrays.statistics(moments.sum(axis=0), math.prod(shape[:3]))


def dataset_metadata(dataset: Dataset) -> dict[str, Any]:
    """Returns the properties of a data set that a run depends on, as values for JSON."""
    # Without `fit` if it is that of earlier versions, whose workdirs do not have it.
    return {
        "name": dataset.name,
        "version": dataset.version,
        "class_names": list(dataset.class_names),
        "image_shape": list(dataset.image_shape),
        "train_examples": len(dataset.train.labels),
        "mean": dataset.mean.tolist(),
        "std": dataset.std.tolist(),
        **({} if dataset.fit == STRETCH else {"fit": dataset.fit}),
    }


def is_prepared(name: str, data_dir: str | os.PathLike[str] | None = None) -> bool:
    """Returns whether a data set is on this machine, so that `load` does not prepare it.

    Args:
        name: as in `load`.
        data_dir: as in `load`.
    """
    if location := own.parse(name):
        return missing_error(location) is None
    return locate.newest(name, _root(data_dir)) is not None


def limit_examples(dataset: Dataset, limit: int, seed: int) -> Dataset:
    """Returns a random sample of at most `limit` examples of each split, in the same order.

    The samples of train, dev and test have every class in proportion. That of calibration is drawn
    regardless of class, as the certificate requires (see `splits.random_cut`). The statistics stay
    those of the full train split.

    Args:
        dataset: the data set.
        limit: largest number of examples in a split, >= 1.
        seed: of the random choice, >= 0.

    Raises:
        InputError: if `limit` or `seed` is out of range.
    """
    if limit < 1:
        raise errors.InputError(f"limit={limit}: must be at least 1")
    _check_seed(seed)

    def sample(name: str) -> Split:
        split = getattr(dataset, name)
        if len(split.labels) <= limit:
            return split
        stream = [seed, _SAMPLE_STREAMS[name]]
        if name == "calibration":
            rows = splits.random_sample(len(split.labels), limit, stream)
        else:
            rows = splits.stratified_sample(split.labels, limit, stream)
        return split.take(rows)

    return dataclasses.replace(
        dataset,
        train=sample("train"),
        dev=sample("dev"),
        calibration=sample("calibration"),
        test=sample("test"),
    )


def _check_cuts(cuts: Cuts) -> None:
    for name in ("test", "dev", "calibration"):
        fraction = getattr(cuts, f"{name}_fraction")
        if not 0 < fraction < 1:
            raise errors.InputError(f"{name} fraction is {fraction}: must lie between 0 and 1")
    _check_seed(cuts.seed)


def _check_own(train_split: str, test_split: str, image_size: int, resize: str) -> None:
    for name, given, default in (
        ("train_split", train_split, "train"),
        ("test_split", test_split, "test"),
    ):
        if given != default:
            raise errors.InputError(
                f"{name} {given!r}: own images have the splits train, dev, calibration and test of"
                f" their folders or their column, so it must stay {default!r}"
            )
    if image_size < 0:
        raise errors.InputError(f"image_size is {image_size}: must be at least 0")
    if resize not in FITS:
        raise errors.unknown_name_error("fit", resize, FITS)


def _check_seed(seed: int) -> None:
    if seed < 0:
        raise errors.InputError(f"split_seed is {seed}: must be at least 0")


def _warn_about_empty_classes(name: str, labels: np.ndarray, class_names: np.ndarray) -> None:
    counts = np.bincount(labels, minlength=len(class_names))
    empty = [repr(str(class_names[label])) for label in np.flatnonzero(counts == 0)]
    if empty:
        more = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
        warnings.warn(
            f"{name} has no training image of class {', '.join(empty[:5])}{more}",
            RuntimeWarning,
            stacklevel=3,
        )


def _on_disk(directory: pathlib.Path, split: str) -> Records:
    # Imported here because importing TFDS takes half a second, and only streaming needs it.
    from kdjax.data.tfds import decode

    return decode.on_disk(directory, split)


def _root(data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
    # The default directory of TFDS, without importing TFDS, which takes half a second.
    root = os.fspath(data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets"))
    if "://" in root:
        raise errors.InputError(f"data_dir {root!r}: must be a local directory")
    try:
        return pathlib.Path(root).expanduser().absolute()
    except RuntimeError as failure:  # no home directory, or that of an unknown user
        raise errors.InputError(
            f"data_dir {root!r}: the home directory is unknown; give another directory, as"
            " --config.data.dir=DIR or TFDS_DATA_DIR=DIR"
        ) from failure


def _parts(train_split: str, test_split: str) -> tuple[list[str], list[str]]:
    train, test = train_split.split("+"), test_split.split("+")
    if len({*train, *test}) < len(train) + len(test):
        raise errors.InputError(
            f"train split {train_split!r} and test split {test_split!r} must not overlap"
        )
    return train, test
