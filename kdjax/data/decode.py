"""A prepared TFDS directory (array_record) to arrays, or to records that are read later."""

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


def split(directory: pathlib.Path, name: str, keep_images: bool) -> arrays.Arrays:
    """Returns one split of the set prepared in `directory`, in TFDS's order.

    Args:
        directory: `<data_dir>/<name>/<version>`.
        name: a split that it has.
        keep_images: if not, no more than `_BATCH` of them are ever in memory.

    Raises:
        InputError: if the set is damaged, or not one of labelled images of one size in
            array_record form.
    """
    source = _open(directory, name)
    images = np.empty((len(source.records), *source.shape), np.uint8) if keep_images else None
    labels = np.empty(len(source.records), np.int32)
    moments = np.empty((len(source.records), 2, source.shape[-1]), np.int64)
    for places in _with_progress(len(labels), f"decoding {source.title}"):
        rows = slice(places.start, places.stop)
        pixels, labels[rows] = _read(source, places)
        moments[rows] = arrays.moments(pixels)
        if images is not None:
            images[rows] = pixels
    if (labels < 0).any():
        raise errors.InputError(f"{source.title} has unlabelled examples")
    return arrays.Arrays(images, labels, moments, source.class_names)


def on_disk(directory: pathlib.Path, name: str) -> Records:
    """Returns the images of a split without reading them.

    Args:
        directory: as in `split`.
        name: a split that it has, or several, `"train+extra"`.

    Raises:
        InputError: as in `split`; damage is found where it is read.
    """
    source = _open(directory, name)
    places = np.arange(len(source.records))
    return Records(lambda wanted: _read(source, wanted.tolist())[0], places, source.shape)


class _Source(NamedTuple):
    """A split's records, and what there is to know about them."""

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


def _read(source: _Source, places: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    try:
        records = source.records.__getitems__(places)
    except RuntimeError as damage:  # what array_record raises, whatever is wrong with a file
        raise errors.InputError(
            f"{source.directory} is damaged: remove it to prepare it again ({damage})"
        ) from damage
    images = np.empty((len(records), *source.shape), np.uint8)
    for image, record in zip(images, records, strict=True):
        image[:] = _pixels(record[source.image], source.shape)
    return images, np.array([record[source.label] for record in records], np.int32)


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


def _with_progress(count: int, description: str) -> Iterable[range]:
    batches = [range(count)[i : i + _BATCH] for i in range(0, count, _BATCH)]
    return rich.progress.track(
        batches,
        description,
        console=rich.console.Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )


def _pixels(encoded: bytes, shape: tuple[int, ...]) -> np.ndarray:
    with PIL.Image.open(io.BytesIO(encoded)) as image:
        return np.asarray(image.convert(_MODES[shape[-1]])).reshape(shape)
