"""Reads prepared TFDS directories in array_record format, at once or on access."""

import io
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

from kdjax import errors
from kdjax.data import arrays, fit, progress
from kdjax.data.records import Records

_CHANNELS = (1, 3)  # those that prediction can make of any image
BATCH_SIZE = 1024


def image_and_label(info: Any) -> tuple[str, str]:
    """Returns the names of the image and label features of a data set.

    Args:
        info: `tfds.core.DatasetInfo` of the data set.

    Raises:
        InputError: if there is no such pair of features, the images are not uint8 of one size
            with 1 or 3 channels, or there are fewer than two classes.
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
    if None in image.shape or image.shape[-1] not in _CHANNELS or image.np_dtype != np.uint8:
        raise errors.InputError(
            f"{info.name} has images of shape {image.shape} and dtype {np.dtype(image.np_dtype)}:"
            " must be uint8 of one fixed size with 1 or 3 channels"
        )
    num_classes = features[labels[0]].num_classes
    if not num_classes or num_classes < 2:
        raise errors.InputError(
            f"{info.name} has {num_classes or 0} as the number of classes: must be at least 2"
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
        InputError: naming the record, if the data set is damaged, or has unlabelled examples,
            labels out of range or images of several sizes; if it is not in array_record format.
    """
    source = _open(directory, name)
    images = np.empty((len(source.records), *source.shape), np.uint8) if keep_images else None
    labels = np.empty(len(source.records), np.int32)
    moments = np.empty((len(source.records), 2, source.shape[-1]), np.int64)
    for numbers in progress.batches(len(labels), BATCH_SIZE, f"decoding {source.title}"):
        rows = slice(numbers.start, numbers.stop)
        pixels, labels[rows] = _read(source, numbers)
        moments[rows] = arrays.moments(pixels)
        if images is not None:
            images[rows] = pixels
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
    except (MemoryError, OSError):
        raise
    except Exception as damage:  # RuntimeError of array_record, or an error of TFDS's parser
        number = _first_damaged(source, numbers)
        raise errors.InputError(
            f"{source.directory} is damaged: remove it to prepare it again"
            f" ({source.title}, record {number}: {' '.join(str(damage).split())})"
        ) from damage
    images = np.empty((len(records), *source.shape), np.uint8)
    for image, number, record in zip(images, numbers, records, strict=True):
        image[:] = _pixels(source, number, record[source.image])
    # int64, the dtype of TFDS: a smaller one would wrap before the range is checked.
    labels = np.array([record[source.label] for record in records], np.int64)
    _check_labels(source, numbers, labels)
    return images, labels.astype(np.int32)


def _first_damaged(source: _Source, numbers: Sequence[int]) -> int:
    """Returns the first of the records that cannot be read on its own."""
    for number in numbers:
        try:
            source.records.__getitems__([number])
        except Exception:  # as in `_read`
            return number
    return numbers[0]


def _check_labels(source: _Source, numbers: Sequence[int], labels: np.ndarray) -> None:
    num_classes = len(source.class_names)
    for number, label in zip(numbers, labels.tolist(), strict=True):
        if label == -1:  # how TFDS marks examples without a label
            raise errors.InputError(
                f"{source.title} has unlabelled examples, such as record {number} (label -1)"
            )
        if not 0 <= label < num_classes:
            raise errors.InputError(
                f"{source.title}, record {number}: label {label} is out of range:"
                f" {num_classes} classes allow 0..{num_classes - 1}"
            )


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


def _pixels(source: _Source, number: int, encoded: bytes) -> np.ndarray:
    """Returns the image of a record, uint8 of the shape that the data set declares."""
    height, width, channels = source.shape
    try:
        with PIL.Image.open(io.BytesIO(encoded)) as image:
            pixels = fit.decode(image, channels)
    except MemoryError:
        raise
    except Exception as damage:  # the type depends on the decoder of a damaged image
        reason = " ".join(str(damage).split()) or type(damage).__name__
        raise errors.InputError(
            f"{source.title}, record {number}: the image cannot be decoded: {reason}"
        ) from damage
    if pixels.shape[:2] != (height, width):
        raise errors.InputError(
            f"{source.title}, record {number}: the image has {pixels.shape[0]} x {pixels.shape[1]}"
            f" pixels (height x width, upright), but the data set declares {height} x {width}"
        )
    return pixels
