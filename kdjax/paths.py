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
