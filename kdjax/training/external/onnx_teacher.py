"""A teacher in an ONNX file: what identifies it, its check on dev, and its logits."""

import functools
import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from kdjax.data import Dataset
from kdjax.errors import InputError
from kdjax.paths import user_path
from kdjax.runtime import atomic_io
from kdjax.training.external import accuracy_check, class_order, input_fields, onnx_file
from kdjax.training.external.accuracy_check import Alternative
from kdjax.training.external.onnx_file import InputFormat, OnnxClassifier
from kdjax.training.host_teacher import HostTeacher

KIND = "onnx"


def describe_source(fields: Any, dataset: Dataset) -> tuple[dict[str, Any], str]:
    """Returns all that the logits of an ONNX teacher depend on, after its check on dev.

    Args:
        fields: `config.teacher`.
        dataset: of the run.

    Returns:
        JSON values, for `host_teacher`; and a line that says how accurate the teacher is.

    Raises:
        InputError: if the file cannot be used with these images and fields.
    """
    path = user_path(fields.onnx)
    classifier = OnnxClassifier(path, fields.onnx_output)
    fmt = input_fields.input_format(fields, classifier, dataset)
    rows = accuracy_check.sample(len(dataset.dev.labels))
    images, labels = np.asarray(dataset.dev.images[rows]), np.asarray(dataset.dev.labels)[rows]
    outputs = classifier.run(images, fmt)
    columns = class_order.chosen_columns(
        fields.class_names,
        class_order.names_in_metadata(classifier.metadata),
        outputs.shape[1],
        dataset.class_names,
        where(path),
    )
    if not np.isfinite(outputs).all():
        raise InputError(f"{where(path)}: its outputs are not finite")
    onnx_file.check_logits(outputs, where(path))

    def logits_with(other: InputFormat) -> np.ndarray:
        return class_order.select(onnx_file.to_logits(classifier.run(images, other)), columns)

    def alternatives() -> list[Alternative]:
        formats = input_fields.other_formats(fmt, classifier, dataset)
        return [Alternative(flags, logits_with(other)) for other, flags in formats]

    logits = class_order.select(onnx_file.to_logits(outputs), columns)
    note = accuracy_check.check(
        where(path), logits, labels, dataset.class_names, alternatives, columns
    )
    source = {
        "kind": KIND,
        "file": path.name,
        "sha256": atomic_io.file_hash(*onnx_file.file_content(path)),
        "output": classifier.output,
        "input": input_fields.stored(fmt),
        "probabilities": onnx_file.are_probabilities(outputs),
        "columns": None if columns is None else list(columns),
    }
    return source, f"{note} (input: {input_fields.describe(fmt, classifier.dtype)})"


def host_teacher(
    source: Mapping[str, Any], path: pathlib.Path, folder: pathlib.Path
) -> HostTeacher:
    """Returns the teacher that `describe_source` has described; the file is opened when needed.

    Args:
        source: of `describe_source`.
        path: the file.
        folder: the teacher's workdir.
    """

    @functools.cache
    def classifier() -> OnnxClassifier:
        opened = OnnxClassifier(path, source["output"])
        if atomic_io.file_hash(*onnx_file.file_content(path)) != source["sha256"]:
            raise InputError(f"{where(path)} is not the file with which the run has started")
        return opened

    fmt = input_fields.restored(source["input"])

    def compute(
        split: str, images: np.ndarray | None, indices: np.ndarray, numbers: np.ndarray
    ) -> np.ndarray:
        assert images is not None
        outputs = classifier().run(images, fmt)
        finite = np.isfinite(outputs).all(axis=1)
        if not finite.all():
            raise InputError(
                f"{where(path)}: its outputs for image {indices[np.argmin(finite)]} of {split} are "
                "not finite"
            )
        if source["probabilities"]:
            outputs = onnx_file.log_probabilities(outputs)
        return class_order.select(outputs, source["columns"])

    identity = {key: value for key, value in source.items() if key != "file"}
    return HostTeacher(
        compute=compute,
        key=hashlib.sha256(repr(sorted(identity.items())).encode()).hexdigest()[:16],
        splits=("train", "dev", "calibration", "test"),
        reads_images=True,
        folder=folder,
    )


def where(path: pathlib.Path) -> str:
    """Returns the field with its value, for messages."""
    return f"teacher.onnx {str(path)!r}"
