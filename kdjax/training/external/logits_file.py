"""Logits that the user has computed, in an .npz file, and the index of the images they belong to.

The index names every image of a run by a hash of its pixels, in the order of its split. A file of
logits holds a copy of it, so that logits of other images, or in another order, are refused.
"""

import bisect
import hashlib
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from kdjax.data import Dataset, Split
from kdjax.data.augment import FLIP_MODES, sample_augmentation
from kdjax.data.batches import BatchSpec
from kdjax.errors import InputError, unknown_name_error
from kdjax.runtime import atomic_io
from kdjax.training.host_teacher import augmented

SPLITS = ("train", "dev", "calibration", "test")
HASH_LENGTH = 32  # hexadecimal digits of the SHA-256 of an image's pixels
CHUNK = 1024  # images that are read at once
IMAGES = ("images", "view_images")  # arrays of an index that a file of logits does not need
NAMES = ("split", "class_names")  # arrays of text
AUGMENTATION = "augmentation"  # what identifies the fixed views of an index
REMEDY = "kdjax logits --write-index=FILE writes the index of a config's images"


class LogitsFile(NamedTuple):
    """The content of a file of logits.

    Attributes:
        logits: [views, n, m], float.
        hashes: of the images, str [n]; None if the file has none.
        indices: of the images in their split, int [n]; None if the file has none.
        split: name of the split of each row, str [n]; None: all rows are of train.
        labels: int [n]; None if the file has none.
        class_names: by column; empty if the file has none.
        augmentation: order_seed, data.pad, data.flip and the place of data.flip_mode in
            `FLIP_MODES`, of fixed views, int [4]; None if the file has none.
    """

    logits: np.ndarray
    hashes: np.ndarray | None
    indices: np.ndarray | None
    split: np.ndarray | None
    labels: np.ndarray | None
    class_names: tuple[str, ...]
    augmentation: np.ndarray | None = None


def image_hashes(images: Any) -> np.ndarray:
    """Returns the hash of the pixels of each image, str [n].

    Args:
        images: uint8 [n, h, w, c], an array or `Records`.
    """
    hashes = []
    for start in range(0, len(images), CHUNK):
        chunk = np.ascontiguousarray(images[start : start + CHUNK], np.uint8)
        hashes += [hashlib.sha256(image.tobytes()).hexdigest()[:HASH_LENGTH] for image in chunk]
    return np.array(hashes, f"<U{HASH_LENGTH}")


def index_arrays(
    dataset: Dataset, splits: Sequence[str] = SPLITS, *, images: bool = False
) -> dict[str, np.ndarray]:
    """Returns the arrays of an index, with one row for each image of the splits, in order.

    Args:
        dataset: of the run.
        splits: names of the splits.
        images: whether to add the images themselves.

    Returns:
        `hashes`, `labels`, `split`, `indices` (of the image in its split) and `class_names`, and
        with `images` also `images`, uint8 [n, h, w, c].
    """
    parts = [(name, getattr(dataset, name)) for name in splits]
    arrays = {
        "hashes": np.concatenate([image_hashes(part.images) for _, part in parts]),
        "labels": np.concatenate([np.asarray(part.labels, np.int32) for _, part in parts]),
        "split": np.concatenate([np.full(len(part.labels), name) for name, part in parts]),
        "indices": np.concatenate(
            [np.arange(len(part.labels), dtype=np.int32) for _, part in parts]
        ),
        "class_names": np.array(dataset.class_names),
    }
    if images:
        arrays["images"] = np.concatenate([np.asarray(part.images) for _, part in parts])
    return arrays


def view_arrays(dataset: Dataset, batches: BatchSpec, *, images: bool) -> dict[str, np.ndarray]:
    """Returns the arrays of an index that identify the fixed views of the training images.

    Args:
        dataset: of the run.
        batches: of the students' training, with fixed views.
        images: whether to add the images of all views.

    Returns:
        `augmentation`, see `LogitsFile`, and with `images` also `view_images`, uint8
        [views, n, h, w, c].
    """
    arrays = {AUGMENTATION: np.array(identity(batches), np.int64)}
    if images:
        pixels = np.asarray(dataset.train.images)
        arrays["view_images"] = np.stack(
            [view_images(pixels, batches, view) for view in range(batches.views)]
        )
    return arrays


def view_images(images: np.ndarray, batches: BatchSpec, view: int) -> np.ndarray:
    """Returns all training images as a fixed view augments them, uint8 [n, h, w, c].

    Args:
        images: of the train split, uint8 [n, h, w, c].
        batches: of the students' training.
        view: from 0.
    """
    numbers = sample_augmentation(
        jnp.arange(len(images), dtype=jnp.int32),
        seed=batches.order_seed,
        epoch=view,
        augmentation=batches.augmentation,
    )
    return augmented(images, np.asarray(numbers), batches.augmentation)


def identity(batches: BatchSpec) -> tuple[int, int, int, int]:
    """Returns what the fixed views of training images depend on, see `LogitsFile`."""
    fields = batches.augmentation
    flip_mode = FLIP_MODES.index(fields.flip_mode) if fields.flip else 0
    return int(batches.order_seed), fields.pad, int(fields.flip), flip_mode


def read(path: str | os.PathLike[str]) -> LogitsFile:
    """Reads a file of logits.

    Args:
        path: an .npz file with `logits` [n, m] or [views, n, m], and `hashes` or `indices` [n];
            optionally `split` [n], `labels` [n] and `class_names` [m].

    Raises:
        InputError: if the file is missing or damaged, or its arrays do not fit each other.
    """
    where = f"teacher.logits {str(path)!r}"
    arrays = _read_arrays(pathlib.Path(path), where)
    if "logits" not in arrays:
        held = ", ".join(sorted(arrays)) or "nothing"
        raise InputError(f"{where} has no array 'logits': it holds {held}")
    logits = arrays["logits"]
    if logits.ndim not in (2, 3) or not np.issubdtype(logits.dtype, np.floating):
        raise InputError(
            f"{where}: logits of {logits.dtype} {logits.shape}, not float [n, m] or [views, n, m]"
        )
    if logits.ndim == 2:
        logits = logits[None]
    if "hashes" not in arrays and "indices" not in arrays:
        raise InputError(
            f"{where} has neither 'hashes' nor 'indices', which say to which image a row belongs: "
            f"copy them from the index; {REMEDY}"
        )
    arrays |= {key: _names(arrays[key], f"{where}: {key}") for key in NAMES if key in arrays}
    rows = {key: arrays.get(key) for key in ("hashes", "indices", "split", "labels")}
    for key, values in rows.items():
        if values is not None and values.shape != (logits.shape[1],):
            raise InputError(
                f"{where}: {key} {values.shape} for {logits.shape[1]:,} rows of logits"
            )
    if (labels := rows["labels"]) is not None and labels.dtype.kind not in "iu":
        raise InputError(f"{where}: labels of {labels.dtype}: must be integers, as in the index")
    for name in np.unique(arrays.get("split", np.array([], np.str_))).tolist():
        if name not in SPLITS:
            raise unknown_name_error(f"{where}: split", name, SPLITS)
    names = tuple(map(str, arrays.get("class_names", ())))
    if names and len(names) != logits.shape[2]:
        raise InputError(f"{where}: {len(names)} class_names for {logits.shape[2]} columns")
    augmentation = arrays.get(AUGMENTATION)
    if augmentation is not None and augmentation.shape == (3,):
        augmentation = np.append(augmentation, 0)  # of an earlier version: flip_mode was random
    if augmentation is not None and augmentation.shape != (4,):
        raise InputError(f"{where}: {AUGMENTATION} {augmentation.shape} is not that of the index")
    return LogitsFile(logits, **rows, class_names=names, augmentation=augmentation)


def _names(array: np.ndarray, where: str) -> np.ndarray:
    """Returns names as str [n], also those that are stored as bytes.

    Raises:
        InputError: for an array of other things, or of another number of dimensions.
    """
    if array.ndim != 1 or array.dtype.kind not in "US":
        raise InputError(f"{where}: {array.dtype} {array.shape} is not a list of names")
    try:
        return np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array
    except UnicodeDecodeError:
        raise InputError(f"{where}: not text in UTF-8") from None


def _read_arrays(path: pathlib.Path, where: str) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if not isinstance(arrays, np.lib.npyio.NpzFile):
                raise InputError(f"{where} is a single array, not an .npz file with its index")
            return {
                name: _array(arrays, name, where) for name in arrays.files if name not in IMAGES
            }
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError(f"{where}: there is no such file") from error
    except InputError:
        raise
    except atomic_io.DAMAGED_NPZ as error:
        raise InputError(f"{where} is not an .npz file, or damaged: {error}") from error


def _array(arrays: Any, name: str, where: str) -> np.ndarray:
    try:
        array: np.ndarray = arrays[name]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise InputError(
            f"{where}: {name} holds Python objects: must be numbers, or texts as of "
            "np.array(names, str)"
        ) from error
    return array


def rows_of(content: LogitsFile, name: str, split: Split, where: str) -> np.ndarray | None:
    """Returns the rows of the images of a split, in the order of the split, int [n].

    Args:
        content: of `read`.
        name: of the split.
        split: its images and labels; it may be a sample (`data.limit`) of what the file holds.
        where: name of the file, for messages.

    Returns:
        None if the file has no row of this split.

    Raises:
        InputError: if an image has no row, or the rows are in another order.
    """
    if content.split is None:
        rows = np.arange(content.logits.shape[1] if name == "train" else 0)
    else:
        rows = np.flatnonzero(content.split == name)
    if not len(rows):
        return None
    if content.hashes is not None:
        rows = rows[_positions(content.hashes[rows], image_hashes(split.images), name, where)]
    else:
        _check_indices(content, rows, name, split, where)
    if content.labels is not None:
        wrong = np.flatnonzero(content.labels[rows] != np.asarray(split.labels))
        if len(wrong):
            raise InputError(
                f"{where}: image {wrong[0]} of {name} has label {content.labels[rows[wrong[0]]]}, "
                f"in the data set {split.labels[wrong[0]]}; {len(wrong):,} labels differ"
            )
    return rows


def _positions(given: np.ndarray, needed: np.ndarray, name: str, where: str) -> np.ndarray:
    """Returns the ascending positions of the needed hashes among the given ones."""
    given = given.astype(str)
    if np.array_equal(given, needed):
        return np.arange(len(needed))
    places: dict[str, list[int]] = {}
    for position, value in enumerate(given.tolist()):
        places.setdefault(value, []).append(position)
    missing = [index for index, value in enumerate(needed.tolist()) if value not in places]
    if missing:
        raise InputError(
            f"{where} has no logits for {len(missing):,} of {len(needed):,} {name} images, the "
            f"first is image {missing[0]}: was the index written with this config (data set, cuts "
            "and image size)?"
        )
    positions, last = [], -1
    for index, value in enumerate(needed.tolist()):
        candidates = places[value]
        following = bisect.bisect_right(candidates, last)
        if following == len(candidates):
            raise InputError(
                f"{where}: the rows of {name} are in another order than the images; the first that "
                f"is out of order is that of image {index}: sort them as in the index, without "
                "shuffling"
            )
        last = candidates[following]
        positions.append(last)
    return np.array(positions)


def _check_indices(
    content: LogitsFile, rows: np.ndarray, name: str, split: Split, where: str
) -> None:
    indices = np.asarray(content.indices)[rows]
    if len(indices) != len(split.labels):
        raise InputError(
            f"{where} has {len(indices):,} rows for the {len(split.labels):,} images of {name}; "
            "with the hashes of the index, it may hold more"
        )
    wrong = np.flatnonzero(indices != np.arange(len(indices)))
    if len(wrong):
        raise InputError(
            f"{where}: row {wrong[0]} of {name} is of image {indices[wrong[0]]}: the rows must be "
            "in the order of the index, without shuffling"
        )
