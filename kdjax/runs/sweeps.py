"""The workdir of a sweep: its table in `sweep.json`, and the workdir of the chosen setting."""

import pathlib
from typing import Any

from kdjax.errors import InputError
from kdjax.runs import students, workdir
from kdjax.runtime import atomic_io

FILE = "sweep.json"
# Folder in the workdir of a sweep in which the chosen setting is trained again with other seeds.
CHOSEN = "chosen"
_KEYS = {"metric", "chosen", "settings", "seeds", "mean", "deviation"}


def is_sweep(folder: pathlib.Path) -> bool:
    """Returns whether a folder is the workdir of a sweep.

    Raises:
        InputError: if it is not a workdir.
    """
    return bool(workdir.read_metadata(folder)["config"].get("sweep"))


def read(folder: pathlib.Path) -> dict[str, Any]:
    """Returns the content of `sweep.json`.

    Returns:
        `metric`; `chosen`, the name of a setting; `settings` and `seeds`, rows of
        `evaluation.selection.row`; `mean` and `deviation` over the seeds, or None.

    Raises:
        InputError: if it is missing or damaged.
    """
    path = folder / FILE
    try:
        table = atomic_io.read_json(path)
    except FileNotFoundError as error:
        raise InputError(
            f"the sweep in {str(folder)!r} is not finished: the command that started it continues "
            "it"
        ) from error
    if not isinstance(table, dict) or not table.keys() >= _KEYS:
        raise InputError(f"{str(path)!r} was not written by kdjax: remove it, and run the sweep")
    return table


def chosen_workdir(folder: pathlib.Path) -> pathlib.Path:
    """Returns the workdir of the chosen setting of a sweep; of another run its own workdir.

    Raises:
        InputError: if it is not a workdir, or the workdir of a sweep that is not finished.
    """
    if not is_sweep(folder):
        return folder
    return students.student_folder(folder, read(folder)["chosen"])


def resolve(folder: pathlib.Path) -> pathlib.Path:
    """Returns `chosen_workdir`, and prints it for a sweep."""
    chosen = chosen_workdir(folder)
    if chosen != folder:
        print(f"{folder} is a sweep: its chosen setting is {chosen}", flush=True)
    return chosen
