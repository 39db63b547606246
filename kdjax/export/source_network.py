"""The network of a workdir as it is exported: that of a student or of a teacher, in float32."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from kdjax import data
from kdjax.errors import InputError
from kdjax.evaluation import cost, network
from kdjax.evaluation.predictions import Predictions
from kdjax.models.user_class import short_name
from kdjax.runs import restore, teachers, workdir
from kdjax.runs.restore import RestoredModel
from kdjax.training import teacher_network
from kdjax.training.host_teacher import HostTeacher
from kdjax.training.spec import TEACHER


def require_exportable(folder: pathlib.Path, metadata: Mapping[str, Any]) -> None:
    """Raises if a workdir holds no network that can be exported.

    Args:
        folder: the workdir.
        metadata: of `workdir.read_metadata`.

    Raises:
        InputError: for several students, or a teacher that is given as an ONNX file or as logits.
    """
    if metadata["stage"] == workdir.STUDENTS:
        raise workdir.several_students_error(folder)
    source = metadata.get("source") or {}
    if source.get("kind") in teachers.ON_HOST:
        what = {"onnx": "the ONNX file", "logits": "logits in"}[source["kind"]]
        raise InputError(
            f"the teacher in {str(folder)!r} is given as {what} {source['file']!r}: kdjax exports "
            "networks in JAX only; kdjax.selective.cascade_certificate takes predictions of any "
            "fallback"
        )


def abstains(metadata: Mapping[str, Any]) -> bool:
    """Returns whether the network has an abstention output, which a teacher has not."""
    return bool(metadata["stage"] != TEACHER)


def load(
    folder: pathlib.Path, metadata: Mapping[str, Any], dataset: data.Dataset | None
) -> RestoredModel:
    """Returns the network of a workdir in float32.

    Args:
        folder: the workdir of a student, or of a teacher of one or several networks.
        metadata: of `workdir.read_metadata`.
        dataset: of the run; None if it is not on this machine.

    Raises:
        InputError: if its training is not finished, or without the data set, for a teacher that is
            an ensemble of others or has given weights.
    """
    if abstains(metadata):
        return network.restore_network(folder)
    source = metadata.get("source")
    if source is None:
        restored = restore.restore(folder)
    elif dataset is None:
        raise InputError(
            f"the teacher in {str(folder)!r} is of kind {source['kind']!r}: it can "
            f"only be exported where the data set {metadata['dataset']['name']!r} is, which gives "
            "the order of its classes and its normalization; see --data_dir"
        )
    else:
        loaded = teachers.load(folder, dataset)
        assert not isinstance(loaded, HostTeacher), "see require_exportable"
        restored = loaded
    return restored._replace(model=teacher_network.with_dtype(restored.model, jnp.float32))


def with_abstention(
    outputs: Mapping[str, Predictions], metadata: Mapping[str, Any]
) -> dict[str, Predictions]:
    """Returns outputs with an abstention column, as scores need it: -inf for a teacher."""
    if abstains(metadata):
        return dict(outputs)
    return {split: predictions.with_abstention() for split, predictions in outputs.items()}


def name(metadata: Mapping[str, Any]) -> str:
    """Returns the name of an exported model: of the run, or of a teacher, whose config has none.

    Args:
        metadata: of `workdir.read_metadata`.
    """
    if abstains(metadata):
        return str(metadata["config"]["name"])
    return f"teacher_{short_name(metadata['config'][TEACHER]['model'])}"


def read_results(folder: pathlib.Path) -> dict[str, Any]:
    """Returns `results.json` of a workdir, with the source of a teacher that kdjax has not trained.

    Raises:
        InputError: if it has not been evaluated.
    """
    results = workdir.read_results(folder)
    source = teachers.external_source(folder)
    return results | ({"external_teacher": source} if source else {})


def read_cost(folder: pathlib.Path, metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns `cost.json` of a workdir, see `cost.write_cost`; None if there is none.

    That of a teacher is part of the one of its run, or of each of its students: over the views with
    which the teacher was evaluated.

    Args:
        folder: the workdir, evaluated.
        metadata: of `workdir.read_metadata`.
    """
    own = cost.read_cost(folder)
    if own is not None or abstains(metadata):
        return own
    views = len(network.evaluated_views(folder, workdir.read_results(folder)))
    students = sorted((folder.parent / workdir.STUDENTS).glob("*"))
    for of_run in filter(None, map(cost.read_cost, (folder.parent, *students))):
        if TEACHER in of_run and of_run[TEACHER].get("views", 1) == views:
            return {"machine": of_run["machine"], TEACHER: of_run[TEACHER]}
    return None
