"""The workdir of a run: its metadata, its lock, and the teacher that it holds or links to."""

import contextlib
import os
import pathlib
import socket
import tempfile
import warnings
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import filelock
from ml_collections import ConfigDict

from kdjax.command_lines import command_line
from kdjax.config import base
from kdjax.config_checks import TEACHER_OPTIONS, TEACHER_SOURCES
from kdjax.config_fields import differences
from kdjax.data import Dataset, dataset_metadata, own
from kdjax.errors import InputError
from kdjax.paths import user_path
from kdjax.runs import stored_config
from kdjax.runtime.atomic_io import link_to, read_json, write_json
from kdjax.training.spec import STUDENT, TEACHER

# `stage` of the workdir of several students, each of which has its own workdir within it.
STUDENTS = "students"
STAGES = (TEACHER, STUDENT, STUDENTS)
# Locks a workdir by its existence, on a file system without locks.
_LOCK_FILE = ".lock_file"
# Fields that do not change what is trained: the location of the data, and logging.
FREE_FIELDS = (
    "data.dir",
    "data.strict",
    "data.pipeline",
    "data.placement",
    "log_every",
    "metric_writers",
)
# Fields of the group `teacher` by which a teacher is given instead of trained.
SOURCE_FIELDS = (*TEACHER_SOURCES, *TEACHER_OPTIONS, "input_layout", "input_channels")
# Fields of the group `teacher` on which a trained teacher does not depend.
_STUDENT_FIELDS = (*SOURCE_FIELDS, "cache", "views")


def run_metadata(config: ConfigDict, stage: str, dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content of `config.json`: stage, config and dataset.

    A teacher's leaves out the fields that it does not depend on, so that any student may use it.

    Args:
        config: resolved.
        stage: `teacher`, `student` or `students`.
        dataset: of `data.dataset_metadata`.
    """
    return {"stage": stage, "config": _fields_of(stage, config.to_dict()), "dataset": dataset}


def _fields_of(stage: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a nested config on which a stage depends."""
    if stage != TEACHER:
        return dict(fields)
    shared = (
        "seed",
        "order_seed",
        "best_metric",
        "log_every",
        "eval_every",
        "eval_batch_size",
        "data",
    )
    teacher = {key: value for key, value in fields[TEACHER].items() if key not in _STUDENT_FIELDS}
    return {**{key: fields[key] for key in shared}, TEACHER: teacher}


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
        is_file = isinstance(error, FileExistsError)
        reason = "it is a file" if is_file else error.strerror or error
        raise InputError(f"workdir {str(folder)!r} cannot be written: {reason}") from error


@contextlib.contextmanager
def lock(folder: pathlib.Path) -> Iterator[None]:
    """Locks a workdir, so that no second process writes to it.

    Raises:
        InputError: naming the owner, if another process holds the lock; if it cannot be written.
        OSError: raised in the body; it names the workdir if it named no file.
    """
    require_writable(folder)
    owner = folder / ".lock_owner"
    try:
        file_lock = _acquire_lock(folder)
    except filelock.Timeout as error:
        remedy = "wait until it ends, or choose another --workdir"
        if error.lock_file.endswith(_LOCK_FILE):
            remedy += f"; if that process was killed on another machine, remove {error.lock_file!r}"
        raise InputError(
            f"workdir {str(folder)!r} is in use by {_read_owner(owner)}: {remedy}"
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
        for file in (owner, folder / ".lock"):
            file.unlink(missing_ok=True)
        file_lock.release()


def _acquire_lock(folder: pathlib.Path) -> filelock.BaseFileLock:
    """Returns the lock of a workdir: of the system, or a file if the file system has no locks.

    Raises:
        filelock.Timeout: if another process holds it.
    """
    file_lock = filelock.FileLock(folder / ".lock", timeout=0, fallback_to_soft=False)
    try:
        file_lock.acquire()
    except filelock.Timeout:
        raise
    except OSError as error:
        if error.filename is not None:  # the file cannot be opened; flock names no file
            raise
    else:
        return file_lock
    (folder / ".lock").unlink(missing_ok=True)
    soft_lock = filelock.SoftFileLock(folder / _LOCK_FILE, timeout=0)
    soft_lock.acquire()
    warnings.warn(
        f"the file system of {str(folder)!r} has no locks: the file {_LOCK_FILE!r} in it locks "
        "the workdir, and stays there if the process is killed",
        RuntimeWarning,
        stacklevel=5,
    )
    return soft_lock


def _read_owner(path: pathlib.Path) -> str:
    try:
        return path.read_text() or "another process"
    except OSError:  # not written yet, or removed in the meantime
        return "another process"


def read_metadata(folder: pathlib.Path) -> dict[str, Any]:
    """Returns what `config.json` of a workdir holds: stage, config and dataset.

    Fields of earlier versions get their present names, and fields that the version of the workdir
    did not have get their defaults.

    Raises:
        InputError: if the folder is not a workdir, or its `config.json` is damaged.
    """
    try:
        metadata = read_json(folder / "config.json")
    except OSError as error:
        raise InputError(f"{str(folder)!r} is not a workdir: it has no config.json") from error
    if not isinstance(metadata, dict) or not {"stage", "config", "dataset"} <= metadata.keys():
        raise InputError(f"{str(folder)!r} is not a workdir: config.json was not written by kdjax")
    stage, config, dataset = (metadata[key] for key in ("stage", "config", "dataset"))
    if stage not in STAGES or not isinstance(config, dict) or not isinstance(dataset, dict):
        raise InputError(f"{str(folder)!r} is not a workdir: config.json was not written by kdjax")
    defaults = _fields_of(stage, base().to_dict())
    try:
        completed = stored_config.complete(config, defaults, dataset.get("image_shape", (0, 0)))
    except InputError as error:
        raise InputError(f"{str(folder / 'config.json')!r} is damaged: {error}") from error
    return {**metadata, "config": completed}


def several_students_error(folder: pathlib.Path) -> InputError:
    """Returns the error for the workdir of several students where that of one is needed."""
    names = sorted(path.name for path in (folder / STUDENTS).glob("*"))
    table = folder / "sweep.json"
    chosen = f" (the sweep chose {read_json(table)['chosen']})" if table.exists() else ""
    return InputError(
        f"{str(folder)!r} holds several students: choose one of the workdirs in "
        f"{str(folder / STUDENTS)!r}{chosen}: {', '.join(names)}"
    )


def evaluate_command(folder: pathlib.Path) -> str:
    """Returns the command that evaluates a workdir, for messages."""
    return command_line("evaluate", f"--workdir={folder}")


def read_results(
    folder: pathlib.Path, needed: Collection[str] = ("best_score", "pnorm", "guarantee", "test")
) -> dict[str, Any]:
    """Returns what `results.json` of a workdir holds.

    Args:
        folder: the workdir.
        needed: keys without which the results are of no use.

    Raises:
        InputError: if the run has not been evaluated, or only by an incompatible version.
    """
    path, remedy = folder / "results.json", f"{evaluate_command(folder)} writes it"
    try:
        results = read_json(path)
    except FileNotFoundError as error:
        raise InputError(f"{str(path)!r} is missing: {remedy}") from error
    if not isinstance(results, dict) or not set(needed) <= results.keys():
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
    stored, given = read_metadata(folder), stored_config.as_json(metadata)
    if "stage" in given:  # a teacher that is given as a file differs from a trained one
        given.setdefault("source", None)
        given.setdefault("fold", None)
    if "config" in given:
        defaults = _fields_of(stored["stage"], base().to_dict())
        given["config"] = stored_config.with_defaults(given["config"], defaults)
        recorded = read_json(folder / "config.json")["config"]
        if "views" not in recorded.get("selective", {}):  # of a version without: it stays without
            given["config"] = stored_config.without_default_views(given["config"])
        if stored["stage"] == TEACHER and "eval_every" not in recorded:  # of an earlier version
            given["config"]["eval_every"] = stored["config"]["eval_every"]
    if "dataset" in given:  # what an earlier version did not record cannot be compared
        recorded = stored["dataset"].keys() & given["dataset"].keys()
        given["dataset"] = {key: given["dataset"][key] for key in recorded}
    lines = [
        line.removeprefix("config.")
        for line in differences({key: stored.get(key) for key in given}, given)
        if line.removeprefix("config.").partition(": ")[0] not in FREE_FIELDS
    ]
    if lines:
        is_data = all(line.startswith("dataset.") for line in lines)
        what = "was made with other data" if is_data else "belongs to another config"
        raise InputError(
            f"workdir {str(folder)!r} {what}; its fields and yours: "
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
    # A relative link within a run stays valid when the whole run is moved.
    same_run = folder.is_relative_to(teacher.parent)
    target = os.path.relpath(teacher, folder) if same_run else teacher.absolute()
    link_to(link, target)


def split_differences(stored: Mapping[str, Any], data: Mapping[str, Any]) -> list[str]:
    """Returns a line for each field in which two splits of the same images differ.

    Args:
        stored: of `read_metadata`, with the one split.
        data: `config.data` with the other one.
    """
    keys = ["train_split", "test_fraction", "dev_fraction", "calibration_fraction", "split_seed"]
    stored_data = stored["config"]["data"]
    return differences(
        {key: stored_data[key] for key in keys}, {key: data[key] for key in keys}, "data."
    )


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
    keys = ["version", "image_shape"]
    if not own.parse(metadata["name"]):  # the version of own images is a hash of their content
        keys.append("name")
    folds = stored["config"][TEACHER]["folds"]
    # The outputs are mapped to the classes by name, see `teachers.load`; but folds depend on the
    # order of the classes.
    in_order = list if folds else sorted
    if in_order(stored["dataset"]["class_names"]) != in_order(metadata["class_names"]):
        keys.append("class_names")
    if folds:  # each training image needs the teacher that has not seen it
        keys.append("train_examples")
    lines = differences(
        {key: stored["dataset"][key] for key in keys}, {key: metadata[key] for key in keys}, "data."
    )
    lines += split_differences(stored, data)
    if lines:
        raise InputError(
            f"the teacher in {str(folder)!r} was trained on other data; its fields and yours: "
            + "; ".join(lines)
            + ("; a teacher with folds needs the same training images" if folds else "")
        )
