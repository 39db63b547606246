"""The teacher of a run, in `<workdir>/teacher`: trained there, linked, or given as files.

A teacher that the run does not train itself is described by `source` in the `config.json` of its
folder; one that kdjax has trained has no `source`.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from kdjax import data
from kdjax.config_checks import TEACHER_SOURCES
from kdjax.data import folds
from kdjax.errors import InputError
from kdjax.models.apply import variables_hash
from kdjax.objectives import METHODS
from kdjax.paths import user_path
from kdjax.runs import fold_workdirs, restore, workdir
from kdjax.runs.restore import RestoredModel
from kdjax.runtime import atomic_io, multihost
from kdjax.training import teacher_network
from kdjax.training.external import (
    class_order,
    logits_teacher,
    onnx_teacher,
    weights_teacher,
)
from kdjax.training.host_teacher import HostTeacher
from kdjax.training.spec import STUDENT, TEACHER, augmentation, batch_spec

WORKDIR, ENSEMBLE = "workdir", "ensemble"
# Kinds of `source` without a network in JAX, and all that kdjax has not trained.
ON_HOST = (onnx_teacher.KIND, logits_teacher.KIND)
EXTERNAL = (*ON_HOST, weights_teacher.KIND)
MEMBERS = "members"  # folder with links to the workdirs of an ensemble


def is_given(config: ConfigDict) -> bool:
    """Returns whether a config names a teacher, so that none is trained."""
    return any(config.teacher[name] for name in TEACHER_SOURCES)


def folder_of(folder: pathlib.Path) -> pathlib.Path | None:
    """Returns the workdir of the teacher of a student, which may be a broken symlink.

    None if there is none, or if the method of the student uses none: a run of another method that
    was interrupted may have left a teacher in the same workdir.

    Args:
        folder: the workdir of a student or of a teacher.
    """
    metadata, path = workdir.read_metadata(folder), folder / TEACHER
    if metadata["stage"] != STUDENT or not (path.exists() or path.is_symlink()):
        return None
    return path if METHODS[metadata["config"]["objective"]["method"]].needs_teacher else None


def has_seen_train(config: ConfigDict) -> bool:
    """Returns whether a teacher of kdjax was trained on the images on which it teaches.

    Args:
        config: resolved, of a run; its teacher is to be trained, or named by its workdirs. What a
            teacher that kdjax has not trained has seen is unknown: false.

    Raises:
        InputError: if a workdir is not one of a teacher.
    """
    if not is_given(config):
        return not config.teacher.folds
    metadata = map(workdir.read_metadata, workdirs_of(config))
    return any("source" not in each and not each["config"][TEACHER]["folds"] for each in metadata)


def set_up(config: ConfigDict, folder: pathlib.Path, dataset: data.Dataset) -> pathlib.Path:
    """Checks the teacher that a config names, and links or describes it in the workdir.

    Args:
        config: resolved, with a teacher, see `is_given`.
        folder: the workdir of the run.
        dataset: of the run.

    Returns:
        The workdir of the teacher, for `load`.

    Raises:
        InputError: if the teacher is missing, or does not fit the data set or the workdir.
    """
    workdirs = workdirs_of(config)
    if len(workdirs) == 1:
        (teacher_folder,) = workdirs
        workdir.check_teacher(teacher_folder, dataset, config.data)
        with multihost.primary_first("teacher linked"):
            workdir.link_teacher(folder, teacher_folder)
        return teacher_folder
    source, note = _describe(config, dataset, workdirs)
    with multihost.primary_first("teacher described"):
        _claim(config, folder / "teacher", dataset, source, workdirs)
    if multihost.is_primary():
        print(f"teacher: {note}", flush=True)
    return folder / "teacher"


def workdirs_of(config: ConfigDict) -> list[pathlib.Path]:
    """Returns the teachers' workdirs that `teacher.workdir` names; empty if it names none.

    Raises:
        InputError: if one is no workdir of a teacher, or is named twice.
    """
    text = config.teacher.workdir
    if not text:
        return []
    if "," not in text or user_path(text).exists():
        return [workdir.teacher_folder(text)]
    # A tuple with a path that contains a comma is stored as JSON.
    paths = json.loads(text) if text.startswith("[") else text.split(",")
    folders = [workdir.teacher_folder(path.strip()) for path in paths if path.strip()]
    if not folders:
        raise InputError(
            f"teacher.workdir {text!r} names no workdir: give the path of one, or several with "
            "commas between them"
        )
    resolved = [path.resolve() for path in folders]
    for path in resolved:
        if resolved.count(path) > 1:
            raise InputError(f"teacher.workdir {text!r}: the teacher {str(path)!r} is named twice")
    return folders


def _describe(
    config: ConfigDict, dataset: data.Dataset, workdirs: list[pathlib.Path]
) -> tuple[dict[str, Any], str]:
    """Returns all that identifies a teacher, as JSON values, and a line for the user."""
    if workdirs:
        return _describe_ensemble(config, dataset, workdirs)
    if config.teacher.onnx:
        return onnx_teacher.describe_source(config.teacher, dataset)
    if config.teacher.logits:
        batches = batch_spec(config, STUDENT, len(dataset.train.labels))
        return logits_teacher.describe_source(config.teacher, batches, dataset)
    return weights_teacher.describe_source(config, dataset)


def _describe_ensemble(
    config: ConfigDict, dataset: data.Dataset, workdirs: list[pathlib.Path]
) -> tuple[dict[str, Any], str]:
    hashes = []
    for path in workdirs:
        workdir.check_teacher(path, dataset, config.data)
        hashes.append(variables_hash(_network(path, dataset).variables))
    names = ", ".join(map(str, workdirs))
    note = f"the mean of the log-probabilities of {len(workdirs)} teachers: {names}"
    return {"kind": ENSEMBLE, "sha256": hashes}, note


def _claim(
    config: ConfigDict,
    folder: pathlib.Path,
    dataset: data.Dataset,
    source: Mapping[str, Any],
    members: list[pathlib.Path],
) -> None:
    """Writes or checks `config.json` in the folder of a given teacher, and links its members."""
    if folder.is_symlink():
        raise InputError(
            f"{str(folder)!r} is a link to another teacher: choose another --workdir, or remove it"
        )
    metadata = workdir.run_metadata(config, TEACHER, data.dataset_metadata(dataset))
    given = {name: config.teacher[name] for name in workdir.SOURCE_FIELDS}
    metadata["config"][TEACHER] |= given
    workdir.claim(folder, metadata | {"source": dict(source)})
    for number, path in enumerate(members):
        link = folder / MEMBERS / str(number)
        link.parent.mkdir(exist_ok=True)
        atomic_io.link_to(link, path.absolute())


def source_of(folder: pathlib.Path) -> dict[str, Any] | None:
    """Returns what describes a given teacher; None for a network that kdjax has trained.

    Args:
        folder: the workdir of a teacher.

    Raises:
        InputError: if the folder is not a workdir.
    """
    source: dict[str, Any] | None = workdir.read_metadata(folder).get("source")
    return source


def external_source(folder: pathlib.Path) -> dict[str, str] | None:
    """Returns `kind` and `file` of the teacher in a workdir, if kdjax has not trained it.

    Args:
        folder: the workdir of a teacher.
    """
    source = source_of(folder)
    if source is None or source["kind"] not in EXTERNAL:
        return None
    return {"kind": source["kind"], "file": source["file"]}


def load(folder: pathlib.Path, dataset: data.Dataset) -> RestoredModel | HostTeacher:
    """Returns the teacher of a workdir, with an output for each class of a data set, in order.

    Args:
        folder: the workdir of the teacher.
        dataset: of the student.

    Raises:
        InputError: if the teacher is not trained, or a file of it is missing or has changed.
    """
    source = source_of(folder)
    kind = source["kind"] if source else None
    if source is None or kind not in ON_HOST:
        return _network(folder, dataset)
    config = restore.load_config(folder)
    path = user_path(config.teacher[kind])
    if kind == onnx_teacher.KIND:
        return onnx_teacher.host_teacher(source, path, folder)
    return logits_teacher.host_teacher(source, path, folder, dataset, augmentation(config))


def _network(folder: pathlib.Path, dataset: data.Dataset) -> RestoredModel:
    """Returns the teacher of a workdir, which must be computed in JAX."""
    source = source_of(folder)
    if source is None and restore.load_config(folder).teacher.folds:
        return _out_of_fold(folder, dataset)
    if source is None:
        return _in_order(folder, restore.restore(folder), dataset)
    if source["kind"] == weights_teacher.KIND:
        config = restore.load_config(folder)
        path = user_path(config.teacher.weights)
        _check_unchanged(weights_teacher.where(path), path, source["sha256"])
        return RestoredModel(*weights_teacher.load(config, dataset))
    if source["kind"] == ENSEMBLE:
        members = [
            _network(_member(folder, number), dataset) for number in range(len(source["sha256"]))
        ]
        for number, member in enumerate(members):
            if variables_hash(member.variables) != source["sha256"][number]:
                raise InputError(
                    f"the teacher in {str(_member(folder, number))!r} has changed since the run "
                    "has started"
                )
        return RestoredModel(*teacher_network.ensemble(members))
    raise InputError(
        f"the teacher in {str(folder)!r} is given as {source['kind']} {source['file']!r}: only "
        "networks in JAX can be members of an ensemble"
    )


def _out_of_fold(folder: pathlib.Path, dataset: data.Dataset) -> RestoredModel:
    """Returns the teachers of all folds, with the one for each training image of the data set."""
    fields = restore.load_config(folder)
    networks = [_in_order(folder, network, dataset) for network in restore.restore_folds(folder)]
    assigned = folds.stratified_folds(
        dataset.train.labels,
        fields.teacher.folds,
        fields.data.split_seed,
        fold_workdirs.units(folder, dataset),
    )
    return RestoredModel(*teacher_network.out_of_fold(networks, assigned))


def _member(folder: pathlib.Path, number: int) -> pathlib.Path:
    link = folder / MEMBERS / str(number)
    if not link.exists():
        target = f" points to {str(link.readlink())!r}, which" if link.is_symlink() else ""
        raise InputError(f"{str(link)!r}{target} is gone: restore the teacher or fix the symlink")
    return link


def _check_unchanged(where: str, path: pathlib.Path, sha256: str) -> None:
    if path.is_file() and atomic_io.file_hash(path) != sha256:
        raise InputError(f"{where} is not the file with which the run has started")


def _in_order(
    folder: pathlib.Path, restored: RestoredModel, dataset: data.Dataset
) -> RestoredModel:
    """Returns a trained network with its outputs in the order of the data set's classes."""
    names = workdir.read_metadata(folder)["dataset"]["class_names"]
    columns = class_order.columns(names, dataset.class_names, f"the teacher in {str(folder)!r}")
    if columns is None:
        return restored
    selected = teacher_network.SelectedOutputs(restored.model, columns)
    return RestoredModel(*teacher_network.wrap(selected, restored.variables))
