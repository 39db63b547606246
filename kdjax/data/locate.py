"""From a data set's name to the directory where TFDS has prepared it."""

import json
import pathlib
import re
from collections.abc import Sequence

from kdjax import errors

_NAME = re.compile(r"[a-z0-9_]+(/[\w.-]+)?")
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")


def directory(name: str, root: pathlib.Path, wanted: Sequence[str]) -> pathlib.Path:
    """Returns the directory of a prepared TFDS set, after preparing it if need be.

    Args:
        name: `name` or `name/config`.
        root: the TFDS directory.
        wanted: the splits that it has to have.

    Returns:
        `root/name/version` or `root/name/config/version`, the newest version that is there.

    Raises:
        InputError: if there is no such set or split, or it cannot be prepared here.
    """
    found = newest(name, root) or _prepare(name, root, wanted)
    present = _splits(found)
    for split in wanted:
        if split not in present:
            late = (name, split) == ("svhn_cropped", "extra")
            remedy = f"; or remove {found}, to prepare it with extra" if late else ""
            raise errors.InputError(f"{errors.unknown('split', split, present)}{remedy}")
    return found


def _splits(prepared: pathlib.Path) -> list[str]:
    try:
        info = json.loads((prepared / "dataset_info.json").read_text())
        return [split["name"] for split in info["splits"]]
    except (ValueError, KeyError) as damage:
        raise errors.InputError(
            f"{prepared} is damaged: remove it to prepare it again ({damage})"
        ) from damage


def newest(name: str, root: pathlib.Path) -> pathlib.Path | None:
    """Returns the newest version of a set that is prepared in `root`, None if there is none."""
    if not _NAME.fullmatch(name):
        return None
    versions = {
        tuple(map(int, match.groups())): path.parent
        for path in (root / name).glob("*/dataset_info.json")
        if (match := _VERSION.fullmatch(path.parent.name))
    }
    return versions[max(versions)] if versions else None


def _prepare(name: str, root: pathlib.Path, wanted: Sequence[str]) -> pathlib.Path:
    # A set that is prepared is spared the half second that importing TFDS takes.
    from kdjax.data import prepare

    return prepare.prepare(name, root, wanted)
