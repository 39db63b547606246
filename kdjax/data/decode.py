"""A prepared TFDS directory (array_record) to arrays."""

import io
import itertools
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL.Image
import rich.console
import rich.progress
import tensorflow_datasets as tfds

from kdjax import errors
from kdjax.data import arrays

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_BATCH = 1024


def image_and_label(info: Any) -> tuple[str, str]:
    """Returns the names of a set's image and label features.

    Args:
        info: the set's `tfds.core.DatasetInfo`.

    Raises:
        InputError: if the set has no such pair, or images that are not uint8 of one size.
    """
    features = dict(info.features)
    supervised = set(info.supervised_keys or features)
    images, labels = (
        [key for key, f in features.items() if key in supervised and isinstance(f, kind)]
        for kind in (tfds.features.Image, tfds.features.ClassLabel)
    )
    if len(images) != 1 or len(labels) != 1:
        raise errors.InputError(
            f"{info.name} is no image-classification set: one Image and one ClassLabel are"
            f" needed, it has {', '.join(f'{k}: {type(f).__name__}' for k, f in features.items())}"
        )
    image = features[images[0]]
    if None in image.shape or image.shape[-1] not in _MODES or image.np_dtype != np.uint8:
        raise errors.InputError(
            f"{info.name} has images of shape {image.shape} and type {np.dtype(image.np_dtype)}:"
            f" one fixed size with {', '.join(map(str, _MODES))} channels of uint8 is needed"
        )
    return images[0], labels[0]


def split(directory: pathlib.Path, name: str) -> arrays.Arrays:
    """Returns one split of the set prepared in `directory`, in TFDS's order.

    Args:
        directory: `<data_dir>/<name>/<version>`.
        name: a split that it has.

    Raises:
        InputError: if the set is damaged, or not one of labelled images of one size in
            array_record form.
    """
    builder = tfds.builder_from_directory(directory)
    image, label = image_and_label(builder.info)
    try:
        images, labels = _read(builder, name, image, label)
    except RuntimeError as damage:  # what array_record raises, whatever is wrong with a file
        raise errors.InputError(
            f"{directory} is damaged: remove it to prepare it again ({damage})"
        ) from damage
    if (labels < 0).any():
        raise errors.InputError(f"split {name!r} of {builder.info.name} has unlabelled examples")
    class_names = np.array(builder.info.features[label].names)
    return arrays.Arrays(images, labels, arrays.moments(images), class_names)


def _read(builder: Any, name: str, image: str, label: str) -> tuple[np.ndarray, np.ndarray]:
    records = _data_source(builder, name, image)
    shape = builder.info.features[image].shape
    images = np.empty((len(records), *shape), np.uint8)
    labels = np.empty(len(records), np.int32)
    for i, record in enumerate(_with_progress(records, f"decoding {builder.info.name} {name}")):
        images[i] = _pixels(record[image], shape)
        labels[i] = record[label]
    return images, labels


def _data_source(builder: Any, name: str, image: str) -> Any:
    # Images stay encoded, because TFDS's own decoding depends on whether OpenCV is installed.
    decoders = {image: tfds.decode.SkipDecoding()}
    try:
        return builder.as_data_source(name, decoders=decoders)
    except NotImplementedError:  # a RuntimeError, too
        raise errors.InputError(
            f"{builder.data_dir} holds {builder.info.file_format.value}, array_record is needed:"
            " choose another data_dir, or remove the directory to prepare it again"
        ) from None


def _with_progress(records: Any, description: str) -> Iterator[Any]:
    batches = [range(len(records))[i : i + _BATCH] for i in range(0, len(records), _BATCH)]
    bar = rich.progress.track(
        batches,
        description,
        console=rich.console.Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )
    return itertools.chain.from_iterable(records.__getitems__(batch) for batch in bar)


def _pixels(encoded: bytes, shape: tuple[int, ...]) -> np.ndarray:
    with PIL.Image.open(io.BytesIO(encoded)) as image:
        return np.asarray(image.convert(_MODES[shape[-1]])).reshape(shape)
