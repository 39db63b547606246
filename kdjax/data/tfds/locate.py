"""Finds the directory of a prepared TFDS data set, without importing TFDS."""

import json
import pathlib
import re
from collections.abc import Sequence

from kdjax import errors
from kdjax.data.own.names import FORMS, path_error

_NAME = re.compile(r"[a-z0-9_]+(/[\w.-]+)?")
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")


def directory(name: str, root: pathlib.Path, required_splits: Sequence[str]) -> pathlib.Path:
    """Returns the directory of a TFDS data set; prepares it if necessary.

    Args:
        name: `name` or `name/config`.
        root: the TFDS directory.
        required_splits: names of splits that the data set must have.

    Returns:
        `root/name/version` or `root/name/config/version`, with the newest prepared version.

    Raises:
        InputError: for an unknown data set or split, or one that cannot be prepared.
    """
    prepared = newest(name, root) or _prepare(name, root, required_splits)
    present = _splits(prepared)
    for split in required_splits:
        if split not in present:
            message = str(errors.unknown_name_error("split", split, present))
            if (name, split) == ("svhn_cropped", "extra"):
                message += f"; or remove {prepared} to prepare it again with extra"
            raise errors.InputError(message)
    return prepared


def _splits(prepared: pathlib.Path) -> list[str]:
    try:
        info = json.loads((prepared / "dataset_info.json").read_text())
        return [split["name"] for split in info["splits"]]
    except (ValueError, KeyError) as damage:
        raise errors.InputError(
            f"{prepared} is damaged: remove it to prepare it again ({damage})"
        ) from damage


def newest(name: str, root: pathlib.Path) -> pathlib.Path | None:
    """Returns the directory of the newest prepared version of a data set, None without any."""
    if not _NAME.fullmatch(name):
        return None
    versions = {
        tuple(map(int, match.groups())): path.parent
        for path in (root / name).glob("*/dataset_info.json")
        if (match := _VERSION.fullmatch(path.parent.name))
    }
    return versions[max(versions)] if versions else None


def _prepare(name: str, root: pathlib.Path, required_splits: Sequence[str]) -> pathlib.Path:
    try:
        # Imported here because importing TFDS takes half a second, and prepared data do not need
        # it.
        from kdjax.data.tfds import prepare
    except ImportError as failure:
        raise path_error(name) or errors.InputError(
            f"data set {name!r} is not prepared in {root}, and preparing it needs the package "
            f"tensorflow-datasets: pip install 'kdjax[data]' ({failure}); own images need none: "
            f"{FORMS}"
        ) from failure
    return prepare.prepare(name, root, required_splits)
