"""The workdir of a run: its metadata, its lock, and the teacher that it holds or links to."""

import contextlib
import json
import os
import pathlib
import socket
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import filelock
from ml_collections import ConfigDict

from kdjax.config import differences, rename_legacy_fields
from kdjax.data import Dataset, dataset_metadata
from kdjax.errors import InputError
from kdjax.runtime.atomic_io import read_json, write_json
from kdjax.runtime.paths import user_path
from kdjax.training.spec import TEACHER

# `stage` of the workdir of several students, each of which has its own workdir within it.
STUDENTS = "students"
# Fields that do not change what is trained: the location of the data, and the logging interval.
FREE_FIELDS = ("data.dir", "data.pipeline", "data.placement", "log_every")


def run_metadata(config: ConfigDict, stage: str, dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content of `config.json`: stage, config and dataset.

    A teacher's leaves out the fields that it does not depend on, so that any student may use it.

    Args:
        config: resolved.
        stage: `teacher`, `student` or `students`.
        dataset: of `data.dataset_metadata`.
    """
    fields = config.to_dict()
    if stage == TEACHER:
        shared = ("seed", "order_seed", "best_metric", "log_every", "eval_batch_size", "data")
        fields = {key: fields[key] for key in (*shared, TEACHER)}
        fields[TEACHER] = {
            key: value for key, value in fields[TEACHER].items() if key not in ("workdir", "cache")
        }
    return {"stage": stage, "config": fields, "dataset": dataset}


def require_writable(folder: pathlib.Path) -> None:
    """Creates the folder if it is missing.

    Raises:
        InputError: if it cannot be created or written.
    """
    if "\\" in str(folder.absolute()):
        raise InputError(
            f"workdir {str(folder)!r}: the path of a workdir must not contain a backslash, which "
            "TensorStore reads as a slash; choose another --workdir"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"workdir {str(folder)!r} cannot be written: {error.strerror or error}"
        ) from error


@contextlib.contextmanager
def lock(folder: pathlib.Path) -> Iterator[None]:
    """Locks a workdir, so that no second process writes to it.

    Raises:
        InputError: naming the owner, if another process holds the lock; if it cannot be written.
        OSError: raised in the body; it names the workdir if it named no file.
    """
    require_writable(folder)
    path, owner = folder / ".lock", folder / ".lock_owner"
    # Where the file system has no flock, filelock falls back to the existence of the file.
    file_lock = filelock.FileLock(path, timeout=0)
    try:
        file_lock.acquire()
    except filelock.Timeout:
        raise InputError(
            f"workdir {str(folder)!r} is in use by {_read_owner(owner)}: wait until it ends, or "
            "choose another --workdir"
        ) from None
    try:
        owner.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield
    except OSError as error:
        if error.errno is None or error.filename:
            raise
        # Python does not name the file when the disk is full.
        raise OSError(f"workdir {str(folder)!r}: {error.strerror}") from error
    finally:
        # While the lock is held: filelock notices that the file of its lock is gone.
        for file in (owner, path):
            file.unlink(missing_ok=True)
        file_lock.release()


def _read_owner(path: pathlib.Path) -> str:
    try:
        return path.read_text() or "another process"
    except OSError:  # not written yet, or removed in the meantime
        return "another process"


def read_metadata(folder: pathlib.Path) -> dict[str, Any]:
    """Returns what `config.json` of a workdir holds: stage, config and dataset.

    Raises:
        InputError: if the folder is not a workdir, or its `config.json` is damaged.
    """
    try:
        metadata = read_json(folder / "config.json")
    except OSError as error:
        raise InputError(f"{str(folder)!r} is not a workdir: it has no config.json") from error
    if not isinstance(metadata, dict) or not {"stage", "config", "dataset"} <= metadata.keys():
        raise InputError(f"{str(folder)!r} is not a workdir: config.json was not written by kdjax")
    return {**metadata, "config": rename_legacy_fields(metadata["config"])}


def several_students_error(folder: pathlib.Path) -> InputError:
    """Returns the error for the workdir of several students where that of one is needed."""
    names = sorted(path.name for path in (folder / STUDENTS).glob("*"))
    return InputError(
        f"{str(folder)!r} holds several students: choose one of the workdirs in "
        f"{str(folder / STUDENTS)!r}: {', '.join(names)}"
    )


def read_results(folder: pathlib.Path) -> dict[str, Any]:
    """Returns what `results.json` of a workdir holds.

    Raises:
        InputError: if the run has not been evaluated, or only by an incompatible version.
    """
    path = folder / "results.json"
    remedy = f"python -m kdjax.evaluate --workdir={folder} writes it"
    try:
        results = read_json(path)
    except FileNotFoundError as error:
        raise InputError(f"{str(path)!r} is missing: {remedy}") from error
    needed = {"best_score", "pnorm", "guarantee", "test"}
    if not isinstance(results, dict) or not needed <= results.keys():
        raise InputError(f"{str(path)!r} was not written by this version of kdjax: {remedy} again")
    return results


def check_same_run(folder: pathlib.Path, metadata: Mapping[str, Any]) -> None:
    """Raises if a workdir belongs to a run with another config, stage or data set.

    Args:
        folder: may be empty or missing.
        metadata: some of the keys stage, config and dataset, as `read_metadata` returns them.

    Raises:
        InputError: naming every field that differs.
    """
    if not (folder / "config.json").exists():
        return
    stored = {key: read_metadata(folder).get(key) for key in metadata}
    lines = [
        line.removeprefix("config.")
        for line in differences(stored, json.loads(json.dumps(metadata)))
        if not line.removeprefix("config.").startswith(FREE_FIELDS)
    ]
    if lines:
        raise InputError(
            f"workdir {str(folder)!r} belongs to another config; its fields and yours: "
            f"{'; '.join(lines)}. Choose another --workdir, or remove this one"
        )


def claim(folder: pathlib.Path, metadata: Mapping[str, Any]) -> None:
    """Writes `config.json`, or checks the existing one.

    Raises:
        InputError: if the workdir belongs to another run, or cannot be written.
    """
    require_writable(folder)
    check_same_run(folder, metadata)
    if not (folder / "config.json").exists():
        write_json(folder / "config.json", metadata)


def teacher_folder(path: str) -> pathlib.Path:
    """Returns the workdir of a teacher, given that workdir or the workdir of a run with a teacher.

    Raises:
        InputError: if there is no teacher.
    """
    folder = user_path(path)
    if read_metadata(folder)["stage"] == TEACHER:
        return folder
    if (folder / "teacher" / "config.json").exists():
        return folder / "teacher"
    raise InputError(f"teacher.workdir {path!r} holds no teacher")


def link_teacher(folder: pathlib.Path, teacher: pathlib.Path) -> None:
    """Makes `teacher` in a workdir a symlink to the workdir of a teacher.

    Raises:
        InputError: if the workdir contains a teacher itself.
    """
    link = folder / "teacher"
    if link.exists() and not link.is_symlink():
        raise InputError(
            f"workdir {str(folder)!r} already contains a teacher: choose another --workdir for the "
            f"teacher in {str(teacher)!r}, or remove {str(link)!r}"
        )
    link.unlink(missing_ok=True)  # the teacher may have moved since
    # A relative link within a run stays valid when the whole run is moved.
    same_run = folder.is_relative_to(teacher.parent / STUDENTS)
    target = os.path.relpath(teacher, folder) if same_run else teacher.absolute()
    link.symlink_to(target, target_is_directory=True)


def check_teacher(folder: pathlib.Path, dataset: Dataset, data: Mapping[str, Any]) -> None:
    """Raises if a teacher was trained on other data than the student's.

    Args:
        folder: workdir of the teacher.
        dataset: of the student.
        data: `config.data` of the student. With another split the teacher would have been trained
            on images by which the student's checkpoint or threshold is chosen.

    Raises:
        InputError: naming every field that differs.
    """
    stored, metadata = read_metadata(folder), dataset_metadata(dataset)
    keys = ("name", "version", "class_names", "image_shape")
    lines = differences(
        {key: stored["dataset"][key] for key in keys}, {key: metadata[key] for key in keys}, "data."
    )
    keys = ("train_split", "dev_fraction", "calibration_fraction", "split_seed")
    stored_data = stored["config"]["data"]
    lines += differences(
        {key: stored_data[key] for key in keys}, {key: data[key] for key in keys}, "data."
    )
    if lines:
        raise InputError(
            f"the teacher in {str(folder)!r} was trained on other data; its fields and yours: "
            + "; ".join(lines)
        )
