"""Names of own images, `folder:PATH`, `csv:FILE` and `npz:FILE`, and corrections of near misses."""

import contextlib
import difflib
import pathlib
import re
from typing import NamedTuple

from kdjax.errors import InputError
from kdjax.paths import user_path

KINDS = {"folder": "PATH", "csv": "FILE", "npz": "FILE"}
FORMS = ", ".join(f"{kind}:{path}" for kind, path in KINDS.items())
_PAGE = "docs/how-to/own-data.md"
_VERSION = re.compile(r"[\d.*]+")  # `name:1.0.0` is a name with a version in TFDS
# What a path has and the name of a TFDS data set cannot have.
_PATH = re.compile(r"^[~./]|\\|/.*/|/$")


class Location(NamedTuple):
    """Where own images are.

    Attributes:
        kind: a key of `KINDS`.
        path: of the folder or file, absolute.
    """

    kind: str
    path: pathlib.Path

    @property
    def name(self) -> str:
        """The name for `data.name`."""
        return f"{self.kind}:{self.path}"


def parse(name: str) -> Location | None:
    """Returns where own images are; None for any other name, such as that of a TFDS data set.

    Args:
        name: value of `data.name`; a relative path starts at the working directory.

    Raises:
        InputError: for a prefix that is not one of `KINDS`, or a prefix without a path.
    """
    kind, colon, path = name.partition(":")
    if not colon:
        return None
    if kind not in KINDS:
        if _VERSION.fullmatch(path):
            return None
        raise _unknown_kind_error(name, kind, path)
    if not path:
        raise InputError(f"images {name!r}: no path is given: it must be {kind}:{KINDS[kind]}")
    return Location(kind, user_path(path).absolute())


def absolute(name: str) -> str:
    """Returns `data.name` with the absolute path of own images; any other name unchanged."""
    location = parse(name)
    return location.name if location else name


def path_error(name: str) -> InputError | None:
    """Returns the error for a path that is given without a kind; None if `name` is not a path."""
    path = pathlib.Path(name)
    with contextlib.suppress(RuntimeError):  # the home directory is unknown
        path = path.expanduser()
    if name.casefold() in KINDS and not path.exists():
        kind = name.casefold()
        return InputError(f"images {name!r}: no path is given: it must be {kind}:{KINDS[kind]}")
    if not _PATH.search(name) and not path.exists():
        return None
    if prepared := _prepared_set(path):
        hint = f"use --config.data.dir={prepared.parent} --config.data.name={prepared.name}"
    elif path.exists():
        hint = f"did you mean '{_kind_of(path)}:{name}'?"
    else:
        hint = f"own images are given as {FORMS}, see {_PAGE}; there is no file or folder {name!r}"
    return InputError(f"unknown data set {name!r}: {hint}")


def missing_error(location: Location) -> InputError | None:
    """Returns the error if there is no such folder or file, or one of another kind; else None."""
    kind, path = location
    if not path.exists():
        names = [entry.name for entry in path.parent.glob("*")] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, names, n=1)
        hint = f": did you mean {str(path.with_name(near[0]))!r}?" if near else ""
        return InputError(f"images {location.name!r}: no such folder or file{hint}")
    if path.is_dir() != (kind == "folder"):
        held = "a folder" if path.is_dir() else "a file"
        other = f"{_kind_of(path)}:{path}"
        return InputError(f"images {location.name!r}: that is {held}; did you mean {other!r}?")
    return None


def check_outside(path: pathlib.Path, field: str, location: Location) -> None:
    """Raises if a folder into which something is written is that of own images, or in it.

    Args:
        path: of the folder; links are followed.
        field: its name, for messages.
        location: of the images.

    Raises:
        InputError: for such a folder.
    """
    target, images = path.resolve(), location.path.resolve()
    inside = target.is_relative_to(images) if location.kind == "folder" else target == images.parent
    if inside:
        raise InputError(
            f"{field} {str(path)!r} lies in the folder of your own images, into which nothing is "
            "written: choose another one"
        )


def _kind_of(path: pathlib.Path) -> str:
    """Returns the kind of own images that a folder or file holds, by its name."""
    if path.is_dir():
        return "folder"
    return "npz" if path.suffix.lower() == ".npz" else "csv"


def _prepared_set(path: pathlib.Path) -> pathlib.Path | None:
    """Returns the directory of the prepared TFDS data set at a path, without its version."""
    infos = [*path.glob("dataset_info.json"), *path.glob("*/dataset_info.json")]
    return infos[0].absolute().parents[1] if infos else None


def _unknown_kind_error(name: str, kind: str, path: str) -> InputError:
    if path.startswith("//"):
        return InputError(f"images {name!r}: must be a local path, as {FORMS}")
    near = difflib.get_close_matches(kind.lower(), KINDS, n=1)
    hint = f"did you mean '{near[0]}:{path}'? Valid" if near else "valid"
    return InputError(f"unknown data set {name!r}: {hint}: {FORMS}, or the name of a TFDS data set")
