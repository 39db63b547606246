"""Reads prepared TFDS directories in array_record format, at once or on access."""

import io
import pathlib
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import rich.console
import rich.progress
import tensorflow_datasets as tfds

from kdjax import errors
from kdjax.data import arrays
from kdjax.data.records import Records

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
BATCH_SIZE = 1024


def image_and_label(info: Any) -> tuple[str, str]:
    """Returns the names of the image and label features of a data set.

    Args:
        info: `tfds.core.DatasetInfo` of the data set.

    Raises:
        InputError: if there is no such pair of features, or the images are not uint8 of one size.
    """
    features = dict(info.features)
    supervised = set(info.supervised_keys or features)
    images, labels = (
        [key for key, f in features.items() if key in supervised and isinstance(f, feature_type)]
        for feature_type in (tfds.features.Image, tfds.features.ClassLabel)
    )
    if len(images) != 1 or len(labels) != 1:
        raise errors.InputError(
            f"{info.name} is not an image-classification data set: it needs one Image and one"
            " ClassLabel, and has"
            f" {', '.join(f'{k}: {type(f).__name__}' for k, f in features.items())}"
        )
    image = features[images[0]]
    if None in image.shape or image.shape[-1] not in _MODES or image.np_dtype != np.uint8:
        raise errors.InputError(
            f"{info.name} has images of shape {image.shape} and dtype {np.dtype(image.np_dtype)}:"
            f" must be uint8 of one fixed size with {', '.join(map(str, _MODES))} channels"
        )
    return images[0], labels[0]


def split(directory: pathlib.Path, name: str, keep_images: bool) -> arrays.Arrays:
    """Returns a split of the data set prepared in `directory`, in the order of TFDS.

    Args:
        directory: `<data_dir>/<name>/<version>`.
        name: name of a split in it.
        keep_images: whether to return the images; if not, at most `BATCH_SIZE` of them are in
            memory at once.

    Raises:
        InputError: if the data set is damaged, has unlabelled examples or images of several
            sizes, or is not in array_record format.
    """
    source = _open(directory, name)
    images = np.empty((len(source.records), *source.shape), np.uint8) if keep_images else None
    labels = np.empty(len(source.records), np.int32)
    moments = np.empty((len(source.records), 2, source.shape[-1]), np.int64)
    for numbers in _with_progress(len(labels), f"decoding {source.title}"):
        rows = slice(numbers.start, numbers.stop)
        pixels, labels[rows] = _read(source, numbers)
        moments[rows] = arrays.moments(pixels)
        if images is not None:
            images[rows] = pixels
    if (labels < 0).any():
        raise errors.InputError(f"{source.title} has unlabelled examples")
    return arrays.Arrays(images, labels, moments, source.class_names)


def on_disk(directory: pathlib.Path, name: str) -> Records:
    """Returns the images of a split as records, without reading them.

    Args:
        directory: as in `split`.
        name: name of a split, or several such as `"train+extra"`.

    Raises:
        InputError: as in `split`; for damaged records when they are read.
    """
    source = _open(directory, name)

    def read(numbers: np.ndarray) -> np.ndarray:
        return _read(source, numbers.tolist())[0]

    return Records(read, np.arange(len(source.records)), source.shape)


class _Source(NamedTuple):
    """A split opened for reading.

    Attributes:
        records: the data source of TFDS, with encoded images.
        directory: of the prepared data set.
        title: name of data set and split, for messages.
        image: name of the image feature.
        label: name of the label feature.
        shape: of an image, h, w, c.
        class_names: str [m].
    """

    records: Any
    directory: pathlib.Path
    title: str
    image: str
    label: str
    shape: tuple[int, ...]
    class_names: np.ndarray


def _open(directory: pathlib.Path, name: str) -> _Source:
    builder = tfds.builder_from_directory(directory)
    image, label = image_and_label(builder.info)
    return _Source(
        _data_source(builder, name, image),
        directory,
        f"{builder.info.name} {name}",
        image,
        label,
        builder.info.features[image].shape,
        np.array(builder.info.features[label].names),
    )


def _read(source: _Source, numbers: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns images uint8 [n, h, w, c] and labels int32 [n] of the records with these numbers."""
    try:
        records = source.records.__getitems__(numbers)
    except RuntimeError as damage:  # array_record raises it for every kind of damage
        raise errors.InputError(
            f"{source.directory} is damaged: remove it to prepare it again ({damage})"
        ) from damage
    images = np.empty((len(records), *source.shape), np.uint8)
    for image, record in zip(images, records, strict=True):
        image[:] = _pixels(record[source.image], source.shape)
    return images, np.array([record[source.label] for record in records], np.int32)


def _data_source(builder: Any, name: str, image: str) -> Any:
    # TFDS leaves the images encoded: its own decoding depends on whether OpenCV is installed.
    decoders = {image: tfds.decode.SkipDecoding()}
    try:
        return builder.as_data_source(name, decoders=decoders)
    except NotImplementedError:  # raised for every other file format
        raise errors.InputError(
            f"{builder.data_dir} is in format {builder.info.file_format.value}, must be"
            " array_record: choose another data_dir, or remove the directory to prepare it again"
        ) from None


def _with_progress(count: int, description: str) -> Iterable[range]:
    batches = [range(count)[i : i + BATCH_SIZE] for i in range(0, count, BATCH_SIZE)]
    return rich.progress.track(
        batches,
        description,
        console=rich.console.Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )


def _pixels(encoded: bytes, shape: tuple[int, ...]) -> np.ndarray:
    with PIL.Image.open(io.BytesIO(encoded)) as image:
        return np.asarray(image.convert(_MODES[shape[-1]])).reshape(shape)
