"""The teacher of a run as the fallback of a cascade: its identity, its cost and its outputs."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from kdjax.errors import InputError
from kdjax.evaluation import cost, predictions
from kdjax.evaluation.predictions import SPLITS, Predictions
from kdjax.evaluation.promises import Extras
from kdjax.models.user_class import short_name
from kdjax.runs import restore, teachers
from kdjax.training.spec import STUDENT, TEACHER


def describe(folder: pathlib.Path, weights_sha256: str | None, views: str) -> dict[str, Any]:
    """Returns what identifies the teacher of a run, and what an image costs, as JSON values.

    Args:
        folder: the workdir of the student.
        weights_sha256: of `apply.weights_hash`; None of a teacher that is not a network in JAX.
        views: name of the deployment views over which its logits are averaged.

    Returns:
        `weights_sha256`, `views`, and `dtype` of the computation, by which an exported fallback is
        recognized; `model`, and `file` of a teacher that is given as a file; `multiply_adds` of an
        image over all views, and `student_multiply_adds`; None where they are not known.
    """
    teacher, sizes = folder / TEACHER, cost.multiply_adds(folder)
    config, source = restore.load_config(teacher), teachers.external_source(teacher)
    return {
        "weights_sha256": weights_sha256,
        "views": views,
        "dtype": str(config.teacher.compute_dtype),
        "model": None if weights_sha256 is None else short_name(config.teacher.model),
        "file": source["file"] if source else None,
        "multiply_adds": sizes.get(TEACHER),
        "student_multiply_adds": sizes.get(STUDENT),
    }


def save_linked(folder: pathlib.Path, outputs: Mapping[str, Predictions]) -> None:
    """Writes the outputs of a teacher that is linked: its own workdir belongs to another run.

    Args:
        folder: the workdir of the student.
        outputs: logits [n, m] by split; those of `SPLITS` are written.
    """
    if (folder / TEACHER).is_symlink():
        for split in set(SPLITS) & outputs.keys():
            predictions.save(_linked_path(folder, split), outputs[split])


def saved_extras(
    folder: pathlib.Path, results: Mapping[str, Any], outputs: Mapping[str, Predictions]
) -> Extras:
    """Returns `teacher` and `fallback` as the evaluation left them.

    Args:
        folder: the workdir of the student.
        results: content of its `results.json`.
        outputs: of the student by split, with the labels in the same order.

    Returns:
        Without both if the run has no cascade, as one without a teacher or of an earlier version,
        or the outputs of the teacher are gone or of other images.
    """
    cascade = (results.get("promises") or {}).get("cascade")
    if cascade is None:
        return Extras()
    linked = (folder / TEACHER).is_symlink()
    try:
        saved = {
            split: predictions.load(
                _linked_path(folder, split)
                if linked
                else predictions.path_of(folder / TEACHER, split)
            )
            for split in SPLITS
        }
    except InputError:
        return Extras()
    if any(not np.array_equal(saved[split].labels, outputs[split].labels) for split in SPLITS):
        return Extras()
    return Extras(saved, cascade["fallback"])


def _linked_path(folder: pathlib.Path, split: str) -> pathlib.Path:
    return predictions.path_of(folder, f"teacher_{split}")
