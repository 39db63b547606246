"""How a given teacher reads images: the fields `teacher.input_*` of the config."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from kdjax.config_checks import CHANNEL_ORDERS
from kdjax.data import Dataset
from kdjax.errors import InputError
from kdjax.training.external.onnx_file import InputFormat, OnnxClassifier

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
DATA = "data"
# Mean and standard deviation by name, in units of full brightness.
NORMALIZATIONS: Mapping[str, Statistics] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
# Scale of the pixels for inputs of float; uint8 inputs take the pixels.
FLOAT_SCALE = 255.0
HALF = "0.5"  # mean and standard deviation of inputs in [-1, 1]
_NORMALIZATION_FIELDS = ("input_mean", "input_std")


def normalization(fields: Any, dataset: Dataset, default: Statistics) -> Statistics:
    """Returns mean and standard deviation of `teacher.input_mean` and `teacher.input_std`.

    Args:
        fields: `config.teacher`.
        dataset: of the run.
        default: where a field is empty.

    Raises:
        InputError: if a text is no name or list of numbers, or a number is out of range.
    """
    named = {DATA: _of_data(dataset), **NORMALIZATIONS}
    texts = [str(fields[name]).strip().lower() for name in _NORMALIZATION_FIELDS]
    for text in texts:
        if text in named:
            if set(texts) - {text, ""}:
                raise InputError(
                    f"teacher.input_mean {texts[0]!r} and teacher.input_std {texts[1]!r}: {text!r} "
                    "names both; leave the other field empty"
                )
            mean, std = named[text]
            break
    else:
        mean, std = (
            _numbers(f"teacher.{name}", text, named) if text else given
            for name, text, given in zip(_NORMALIZATION_FIELDS, texts, default, strict=True)
        )
    _check_statistics(mean, std, dataset.image_shape[-1])
    return mean, std


def _of_data(dataset: Dataset) -> Statistics:
    return tuple(map(float, dataset.mean)), tuple(map(float, dataset.std))


def _numbers(name: str, text: str, named: Mapping[str, Any]) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(
            f"{name} {text!r}: must be numbers such as 0.5 or 0.49,0.48,0.45, or one of "
            f"{', '.join(named)}"
        ) from error


def _check_statistics(mean: Sequence[float], std: Sequence[float], channels: int) -> None:
    for name, values in (("input_mean", mean), ("input_std", std)):
        if len(values) not in (1, channels):
            raise InputError(
                f"teacher.{name} has {len(values)} values for images with {channels} "
                f"channel{'s' if channels > 1 else ''}: give {'1 or 3' if channels > 1 else '1'}"
            )
        if not np.isfinite(values).all():
            raise InputError(f"teacher.{name} {list(values)}: must be finite")
    if min(std) <= 0:
        raise InputError(f"teacher.input_std {list(std)}: must be above 0")


def input_format(fields: Any, classifier: OnnxClassifier, dataset: Dataset) -> InputFormat:
    """Returns how images become the input of an ONNX file.

    Args:
        fields: `config.teacher`.
        classifier: the file.
        dataset: of the run.

    Raises:
        InputError: if the images do not fit the input, its layout is ambiguous, or a field does
            not apply.
    """
    if fields.input_channels != CHANNEL_ORDERS[0] and dataset.image_shape[-1] == 1:
        raise InputError(
            f"teacher.input_channels {fields.input_channels!r}: has no effect on images with one "
            "channel"
        )
    layout = _layout(fields.input_layout, classifier, dataset.image_shape)
    if classifier.dtype == np.uint8:
        given = [name for name in ("input_scale", *_NORMALIZATION_FIELDS) if fields[name]]
        if given:
            raise InputError(
                f"teacher.{given[0]} {fields[given[0]]!r}: {str(classifier.path)!r} takes uint8 "
                "images, which are passed on as they are; leave the field empty"
            )
        return InputFormat(layout, fields.input_channels)
    mean, std = normalization(fields, dataset, ((0.0,), (1.0,)))
    return InputFormat(layout, fields.input_channels, fields.input_scale or FLOAT_SCALE, mean, std)


def _layout(given: str, classifier: OnnxClassifier, image_shape: tuple[int, ...]) -> str:
    possible = classifier.layouts(image_shape)
    shape = ", ".join("any" if size is None else str(size) for size in classifier.input_shape)
    where = f"teacher.onnx {str(classifier.path)!r} takes images of shape [{shape}]"
    if not possible:
        raise InputError(
            f"{where}, the data set has [height, width, channels] {list(image_shape)}: choose "
            "another teacher, or another size of the images"
        )
    if given == "auto":
        if len(possible) > 1:
            raise InputError(
                f"{where}, which fits both layouts: set --config.teacher.input_layout="
                f"{' or '.join(possible)}"
            )
        return possible[0]
    if given not in possible:
        raise InputError(
            f"teacher.input_layout {given!r}: {where}, to which only {possible[0]!r} fits"
        )
    return given


def other_formats(
    fmt: InputFormat, classifier: OnnxClassifier, dataset: Dataset
) -> Iterator[tuple[InputFormat, dict[str, str]]]:
    """Yields other input formats with the config fields that choose them, the nearest first.

    Args:
        fmt: the chosen format.
        classifier: the file.
        dataset: of the run.
    """
    scalings: list[tuple[float, Statistics, dict[str, str]]] = [
        (fmt.scale, (fmt.mean, fmt.std), {})
    ]
    if classifier.dtype != np.uint8:
        scalings += _other_scalings(fmt, dataset)
    orders = CHANNEL_ORDERS if dataset.image_shape[-1] == 3 else (fmt.channels,)
    candidates = []
    for scale, (mean, std), flags in scalings:
        for layout in classifier.layouts(dataset.image_shape):
            for channels in orders:
                other = InputFormat(layout, channels, scale, mean, std)
                changed = dict(flags)
                if layout != fmt.layout:
                    changed["teacher.input_layout"] = layout
                if channels != fmt.channels:
                    changed["teacher.input_channels"] = channels
                candidates.append((other, changed))
    yield from sorted(
        ((other, changed) for other, changed in candidates if changed), key=lambda c: len(c[1])
    )


def _other_scalings(
    fmt: InputFormat, dataset: Dataset
) -> Iterator[tuple[float, Statistics, dict[str, str]]]:
    """Yields scale, mean and standard deviation as they are common, and the fields that differ."""
    none: Statistics = ((0.0,), (1.0,))
    named = {DATA: _of_data(dataset), HALF: ((0.5,), (0.5,))}
    named |= {
        name: values
        for name, values in NORMALIZATIONS.items()
        if len(values[0]) == dataset.image_shape[-1]
    }
    common = [(FLOAT_SCALE, none, ""), (1.0, none, "")]
    common += [(FLOAT_SCALE, values, name) for name, values in named.items()]
    for scale, values, name in common:
        flags = {}
        if scale != fmt.scale:
            flags["teacher.input_scale"] = f"{scale:g}"
        if values != (fmt.mean, fmt.std):
            flags["teacher.input_mean"] = name or "0"
            flags["teacher.input_std"] = name or "1"
        if flags:
            yield scale, values, flags


def stored(fmt: InputFormat) -> dict[str, Any]:
    """Returns an input format as JSON values."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in dataclasses.asdict(fmt).items()
    }


def restored(values: Mapping[str, Any]) -> InputFormat:
    """Returns the input format that `stored` has returned."""
    statistics = {name: tuple(values[name]) for name in ("mean", "std")}
    return InputFormat(**{**values, **statistics})


def describe(fmt: InputFormat, dtype: Any) -> str:
    """Returns an input format in words, such as `float32 nchw, (x / 255 - mean) / std`."""
    words = f"{np.dtype(dtype).name} {fmt.layout} {fmt.channels}"
    if fmt.keeps_pixels:
        return f"{words}, pixels unchanged"
    mean, std = (",".join(f"{value:.4g}" for value in values) for values in (fmt.mean, fmt.std))
    if (mean, std) == ("0", "1"):
        return f"{words}, x / {fmt.scale:g}"
    return f"{words}, (x / {fmt.scale:g} - {mean}) / {std}"
