"""Paths as users write them."""

import os
import pathlib

from kdjax.errors import InputError


def user_path(path: str | os.PathLike[str]) -> pathlib.Path:
    """Returns a path with a leading `~` or `~user` replaced by the home directory.

    Raises:
        InputError: if there is no such user, or no home directory.
    """
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError as error:
        home = pathlib.Path(path).parts[0]
        raise InputError(
            f"{os.fspath(path)!r}: there is no home directory {home!r} on this machine; give the "
            "path without ~"
        ) from error


def require_creatable(path: pathlib.Path) -> None:
    """Checks that a file or folder can be created, with the folders in which it lies.

    Raises:
        InputError: naming what is in the way.
    """
    nearest = next(folder for folder in path.absolute().parents if folder.exists())
    if not nearest.is_dir():
        raise InputError(f"{str(path)!r} cannot be created: {str(nearest)!r} is a file")
    if not os.access(nearest, os.W_OK):
        raise InputError(f"{str(path)!r} cannot be created: {str(nearest)!r} cannot be written")
