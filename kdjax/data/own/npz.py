"""Own images in an npz file: images and labels, and optionally test images and class names."""

import pathlib
import zipfile
from collections.abc import Mapping

import numpy as np

from kdjax.data.own.contents import Rows
from kdjax.data.own.listing import Example, Listing, class_name, order_classes
from kdjax.errors import InputError, unknown_name_error
from kdjax.runtime.atomic_io import DAMAGED_NPZ

# Array of images -> array of their labels, and the split.
PAIRS = {"images": ("labels", "train"), "test_images": ("test_labels", "test")}
NAMES = ("images", "labels", "test_images", "test_labels", "class_names")
_MODES = {1: "L", 3: "RGB"}


def read(path: pathlib.Path) -> Listing:
    """Returns the listing of an npz file.

    Its arrays are `images`, uint8 [n, h, w], [n, h, w, 1] or [n, h, w, 3], and `labels` [n], names
    or integers; optionally `test_images` and `test_labels`, and `class_names` [m] for the integers
    from 0 to m - 1. Without `class_names`, the name of a class is its integer.

    Args:
        path: an existing file.

    Raises:
        InputError: for a missing or unknown array, or one of another dtype, shape or length.
    """
    title = f"npz:{path}"
    shapes, small = _arrays(title, path)
    names = _class_names(title, small)
    examples, sizes = [], {}
    for images, (labels, split) in PAIRS.items():
        if images in shapes:
            sizes[images] = shapes[images][0]
            texts = _labels(f"{title}: {labels}", small[labels], sizes[images], names)
            examples += [Example(f"{images}[{i}]", text, split) for i, text in enumerate(texts)]
    channels = {(*shape, 1)[3] for shape in shapes.values()}
    if len(channels) > 1:
        raise InputError(f"{title}: images and test_images differ in their channels")
    return Listing(
        title,
        examples,
        names or order_classes(example.label for example in examples),
        Rows(path, sizes, _MODES[channels.pop()]),
    )


def _arrays(
    title: str, path: pathlib.Path
) -> tuple[dict[str, tuple[int, ...]], dict[str, np.ndarray]]:
    """Returns the shapes of the arrays of images, which are not read, and the other arrays."""
    if not zipfile.is_zipfile(path):
        raise InputError(f"{title}: damaged, or not an npz file")
    try:
        with zipfile.ZipFile(path) as archive, np.load(path, allow_pickle=False) as arrays:
            _check_names(title, arrays.files)
            shapes = {
                name: _image_shape(f"{title}: {name}", archive, name)
                for name in PAIRS
                if name in arrays
            }
            small = {name: _small(title, arrays, name) for name in arrays if name not in PAIRS}
    except InputError:
        raise
    except DAMAGED_NPZ as error:
        raise InputError(f"{title}: damaged: {' '.join(str(error).split())}") from error
    return shapes, small


def _check_names(title: str, present: list[str]) -> None:
    for name in present:
        if name not in NAMES:
            raise InputError(f"{title}: {unknown_name_error('array', name, NAMES)}")
    for images, (labels, _) in PAIRS.items():
        for name, other in ((images, labels), (labels, images)):
            if name not in present and (other in present or name == "images"):
                raise InputError(
                    f"{title}: no array {name!r}: it has {', '.join(present) or 'no arrays'}"
                )


def _image_shape(where: str, archive: zipfile.ZipFile, name: str) -> tuple[int, ...]:
    """Returns the shape of an array of images from its header."""
    with archive.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        read_header = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read_header(file)
    if dtype != np.uint8:
        raise InputError(f"{where} has dtype {dtype}: must be uint8, values 0 to 255")
    if len(shape) not in (3, 4) or 0 in shape or (*shape, 1)[3] not in _MODES:
        raise InputError(
            f"{where} has shape {shape}: must be [n, h, w], [n, h, w, 1] or [n, h, w, 3], n >= 1"
        )
    return shape


def _small(title: str, arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    try:
        return arrays[name]
    except ValueError as error:
        if "Object arrays" in str(error):
            raise InputError(
                f"{title}: {name} has Python objects: must be integers or strings, as of "
                "np.array(labels)"
            ) from error
        raise


def _class_names(title: str, small: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    if "class_names" not in small:
        return ()
    names = small["class_names"]
    if names.ndim != 1 or names.dtype.kind != "U":
        raise InputError(
            f"{title}: class_names has dtype {names.dtype} and shape {names.shape}: must be "
            "strings [m]"
        )
    composed = tuple(
        class_name(name, f"{title}: class_names[{i}]") for i, name in enumerate(names.tolist())
    )
    if repeated := [name for name in composed if composed.count(name) > 1]:
        raise InputError(f"{title}: class_names has {repeated[0]!r} twice")
    return composed


def _labels(where: str, labels: np.ndarray, count: int, names: tuple[str, ...]) -> list[str]:
    """Returns the class name of each image."""
    if labels.ndim != 1 or labels.dtype.kind not in "iuU":
        raise InputError(
            f"{where} has dtype {labels.dtype} and shape {labels.shape}: must be integers or "
            "strings [n]"
        )
    if len(labels) != count:
        raise InputError(f"{where} has {len(labels)} values for {count} images")
    if labels.dtype.kind == "U":
        texts = [class_name(text, f"{where}[{i}]") for i, text in enumerate(labels.tolist())]
        if unknown := sorted(set(texts) - set(names)) if names else []:
            raise InputError(f"{where}: {unknown_name_error('class', unknown[0], names)}")
        return texts
    if labels.min() < 0 or (names and labels.max() >= len(names)):
        bad = labels.min() if labels.min() < 0 else labels.max()
        limit = f"0 to {len(names) - 1}, as there are {len(names)} class_names" if names else ">= 0"
        raise InputError(f"{where} has {bad}: must be {limit}")
    return [names[label] if names else str(label) for label in labels.tolist()]
