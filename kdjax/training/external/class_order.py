"""The order of a teacher's classes, mapped to that of the data set by their names."""

import ast
import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdjax.errors import InputError, nearest_name

# Names under which writers of ONNX and safetensors files store the class names.
METADATA_KEYS = ("class_names", "classes", "names", "labels", "id2label")


def parse_names(text: str) -> tuple[str, ...]:
    """Returns class names from a comma-separated text or a JSON list.

    Args:
        text: such as `cat,dog`; names that contain a comma need a JSON list, `["cat", "dog"]`.

    Raises:
        InputError: if a name is empty, or the JSON is not a list of texts.
    """
    parts = _from_json(text) if text.lstrip().startswith("[") else text.split(",")
    names = tuple(name.strip() for name in parts)
    if "" in names:
        raise InputError(f"teacher.class_names {text!r}: a name is empty")
    return names


def _from_json(text: str) -> list[str]:
    try:
        names: list[Any] = json.loads(text)
    except ValueError as error:
        raise InputError(f"teacher.class_names {text!r} is not a JSON list: {error}") from error
    for name in names:
        if not isinstance(name, str):
            raise InputError(f"teacher.class_names {text!r}: {name!r} is not a text")
    return names


def names_in_metadata(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Returns the class names in a file's metadata; empty if it has none that can be read.

    Args:
        metadata: texts by name, such as a JSON list, a dict of index and name, or comma-separated
            names under one of `METADATA_KEYS`.
    """
    for key in METADATA_KEYS:
        names = _names_of(metadata.get(key, ""))
        if len(names) > 1:
            return names
    return ()


def _names_of(text: str) -> tuple[str, ...]:
    if not text:
        return ()
    value = _parsed(text)
    if isinstance(value, Mapping):
        try:
            value = [value[key] for key in sorted(value, key=int)]
        except (TypeError, ValueError):
            return ()
    if not isinstance(value, (list, tuple)):
        return ()
    return tuple(str(name).strip() for name in value)


def _parsed(text: str) -> Any:
    """Returns the value of JSON or of a Python literal; the parts of any other text."""
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return text.split(",")


def chosen_columns(
    given: str,
    file_names: Sequence[str],
    count: int,
    class_names: Sequence[str],
    source: str,
) -> tuple[int, ...] | None:
    """Returns the output of a teacher for each class of the data set; None for all in their order.

    Args:
        given: `teacher.class_names`, which replaces the names in the file.
        file_names: by output; ignored if there are not as many names as outputs.
        count: number of outputs of the teacher.
        class_names: of the data set, by label.
        source: of the teacher, for messages.

    Raises:
        InputError: if the number of outputs or of names, or the names, do not fit.
    """
    names = parse_names(given) if given else tuple(file_names)
    if given and len(names) != count:
        raise InputError(f"teacher.class_names has {len(names)} names, {source} {count} outputs")
    if names and len(names) != count:
        warnings.warn(
            f"{source} has {len(names)} class names for {count} outputs: they are not used",
            RuntimeWarning,
            stacklevel=2,
        )
        names = ()
    order = columns(names, class_names, source)
    if order is None and count != len(class_names):
        raise InputError(
            f"{source} has {count} outputs for the {len(class_names)} classes of the data set: "
            "name its classes in the order of the outputs with --config.teacher.class_names"
        )
    return order


def select(logits: np.ndarray, order: Sequence[int] | None) -> np.ndarray:
    """Returns the outputs of `columns` from logits [..., k]; all of them if it is None."""
    return logits if order is None else np.ascontiguousarray(logits[..., list(order)])


def columns(
    teacher_names: Sequence[str], class_names: Sequence[str], source: str
) -> tuple[int, ...] | None:
    """Returns the output of the teacher for each class of the data set.

    Args:
        teacher_names: by output of the teacher; empty if they are unknown, which leaves the order.
        class_names: of the data set, by label.
        source: of the teacher, for messages.

    Returns:
        m indices of outputs; None if the order is the same, or is not known.

    Raises:
        InputError: if a class of the data set is not one of the teacher, or is several of them.
    """
    if not teacher_names or tuple(teacher_names) == tuple(class_names):
        return None
    known, wanted = tuple(teacher_names), tuple(class_names)
    if set(wanted) <= set(known):
        _check_distinct(wanted, known, source)
    else:  # their spelling may differ
        known, wanted = (tuple(map(_canonical, names)) for names in (known, wanted))
        alike = "spelt without case, dashes and underscores,"
        _check_distinct(wanted, known, f"{source}, {alike}")
        _check_distinct(wanted, wanted, f"the data set, {alike}")
    position = {name: index for index, name in enumerate(known)}
    missing = [name for name, key in zip(class_names, wanted, strict=True) if key not in position]
    if missing:
        near = nearest_name(missing[0], teacher_names)
        hint = f" (nearest: {near!r})" if near else ""
        raise InputError(
            f"{source} has no class {missing[0]!r} of the data set{hint}: give its classes in the "
            "order of its outputs, with the names of the data set, as "
            "--config.teacher.class_names=A,B,..."
        )
    order = tuple(position[name] for name in wanted)
    same = len(teacher_names) == len(class_names) and order == tuple(range(len(order)))
    return None if same else order


def _check_distinct(wanted: Sequence[str], names: Sequence[str], source: str) -> None:
    """Raises if a wanted name occurs twice; others may, as two in the classes of ImageNet do."""
    for name in wanted:
        if list(names).count(name) > 1:
            raise InputError(
                f"{source} has the class {name!r} twice: give its classes with the names of the "
                "data set, as --config.teacher.class_names=A,B,..."
            )


def _canonical(name: str) -> str:
    """Returns a name without differences of case, and of spaces, dashes and underscores."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())
