"""The folder of a run: whose it is, what was trained in it, and which teacher a path stands for."""

import contextlib
import fcntl
import json
import os
import pathlib
import socket
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from kdjax import files
from kdjax.config import differences
from kdjax.data import Dataset
from kdjax.errors import InputError

# Where the data lies and how often it is logged change nothing that is trained.
FREE_FIELDS = ("data.dir", "data.pipeline", "data.placement", "log_every")


def describe(dataset: Dataset) -> dict[str, Any]:
    """Returns what a run depends on of its data set, as JSON values."""
    return {
        "name": dataset.name,
        "version": dataset.version,
        "class_names": list(dataset.class_names),
        "image_shape": list(dataset.image_shape),
        "train_examples": len(dataset.train.labels),
        "mean": dataset.mean.tolist(),
        "std": dataset.std.tolist(),
    }


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes JSON so that a reader sees the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, json.dumps(value, indent=2) + "\n")


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Returns what `write_json` wrote.

    Raises:
        InputError: if the file is damaged.
        OSError: if it is missing.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{str(path)!r} is damaged: {error}") from error


def require_writable(folder: pathlib.Path) -> None:
    """Makes the folder if need be.

    Raises:
        InputError: if it cannot be made or written to.
    """
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
    """Holds a workdir for this process, so that no second one writes in it.

    Raises:
        InputError: naming the owner, if another process holds it; if it cannot be written.
        OSError: of what is done meanwhile; it names the workdir where it named no file.
    """
    require_writable(folder)
    path = folder / ".lock"
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise InputError(
                f"workdir {str(folder)!r} is in use by {file.read() or 'another process'}: wait "
                "for it to end, or choose another --workdir"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        except OSError as error:
            if error.errno is None or error.filename:
                raise
            # Where a disk is full, Python does not say which.
            raise OSError(f"workdir {str(folder)!r}: {error.strerror}") from error
        finally:
            path.unlink(missing_ok=True)


def read(folder: pathlib.Path) -> dict[str, Any]:
    """Returns what `config.json` of a workdir holds: stage, config and dataset.

    Raises:
        InputError: if the folder is not a workdir, or its `config.json` is damaged.
    """
    try:
        found = read_json(folder / "config.json")
    except OSError as error:
        raise InputError(f"{str(folder)!r} is not a workdir: it has no config.json") from error
    if not isinstance(found, dict) or not {"stage", "config", "dataset"} <= found.keys():
        raise InputError(f"{str(folder)!r} is not a workdir: its config.json is no run's")
    return found


def read_results(folder: pathlib.Path) -> dict[str, Any]:
    """Returns what `results.json` of a workdir holds.

    Raises:
        InputError: if the run has not been evaluated, or not by this version.
    """
    path = folder / "results.json"
    remedy = f"python -m kdjax.evaluate --workdir={folder} writes it"
    try:
        found = read_json(path)
    except FileNotFoundError as error:
        raise InputError(f"{str(path)!r} is missing: {remedy}") from error
    needed = {"best_score", "pnorm", "guarantee", "test"}
    if not isinstance(found, dict) or not needed <= found.keys():
        raise InputError(f"{str(path)!r} is no run's of this version: {remedy} anew")
    return found


def check_same(folder: pathlib.Path, identity: Mapping[str, Any]) -> None:
    """Refuses a workdir that another config, stage or data set has begun.

    Args:
        folder: may be empty or missing.
        identity: some of stage, config and dataset, as `read` returns them.

    Raises:
        InputError: naming every field that differs.
    """
    if not (folder / "config.json").exists():
        return
    found = {key: read(folder).get(key) for key in identity}
    lines = [
        line.removeprefix("config.")
        for line in differences(found, json.loads(json.dumps(identity)))
        if not line.removeprefix("config.").startswith(FREE_FIELDS)
    ]
    if lines:
        raise InputError(
            f"workdir {str(folder)!r} belongs to another config; its fields and yours: "
            f"{'; '.join(lines)}. Choose another --workdir, or remove that one"
        )


def claim(folder: pathlib.Path, identity: Mapping[str, Any]) -> None:
    """Writes `config.json`, or checks the one that is there.

    Raises:
        InputError: if the workdir is another run's, or cannot be written.
    """
    require_writable(folder)
    check_same(folder, identity)
    if not (folder / "config.json").exists():
        write_json(folder / "config.json", identity)


def teacher_folder(given: str) -> pathlib.Path:
    """Returns the folder of the teacher that a workdir stands for: itself, or the one it trained.

    Raises:
        InputError: if there is none.
    """
    folder = pathlib.Path(given).expanduser()
    if read(folder)["stage"] == "teacher":
        return folder
    if (folder / "teacher" / "config.json").exists():
        return folder / "teacher"
    raise InputError(f"teacher.workdir {given!r} holds no teacher")


def link_teacher(folder: pathlib.Path, given: pathlib.Path) -> None:
    """Makes `teacher` in a workdir a link to the folder of the given teacher.

    Raises:
        InputError: if the workdir holds a teacher of its own.
    """
    link = folder / "teacher"
    if link.exists() and not link.is_symlink():
        raise InputError(
            f"workdir {str(folder)!r} has begun a teacher of its own: choose another --workdir "
            f"for the teacher in {str(given)!r}, or remove {str(link)!r}"
        )
    link.unlink(missing_ok=True)  # the teacher may have moved since
    # Within one run the link stays right when the whole run is moved.
    together = folder.is_relative_to(given.parent / "students")
    target = os.path.relpath(given, folder) if together else given.absolute()
    link.symlink_to(target, target_is_directory=True)


def check_teacher(folder: pathlib.Path, dataset: Dataset, split: Mapping[str, Any]) -> None:
    """Refuses a teacher of other data.

    Args:
        folder: the teacher's.
        dataset: the student's.
        split: the student's `config.data`: with another cut the teacher would have been trained
            on what the student chooses by.

    Raises:
        InputError: naming every field that differs.
    """
    found, mine = read(folder), describe(dataset)
    keys = ("name", "version", "class_names", "image_shape")
    lines = differences({k: found["dataset"][k] for k in keys}, {k: mine[k] for k in keys}, "data.")
    cut = ("train_split", "dev_fraction", "calibration_fraction", "split_seed")
    taught = found["config"]["data"]
    lines += differences({k: taught[k] for k in cut}, {k: split[k] for k in cut}, "data.")
    if lines:
        raise InputError(
            f"the teacher in {str(folder)!r} was trained on other data; its fields and yours: "
            + "; ".join(lines)
        )
