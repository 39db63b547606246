"""Files that are never seen half written."""

import os
import pathlib


def write(path: pathlib.Path, content: bytes | str) -> None:
    """Writes a file so that a reader sees the old one or the whole new one.

    Args:
        path: in a folder that is there.
        content: text is written as UTF-8.

    Raises:
        OSError: naming the file; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content if isinstance(content, bytes) else content.encode())
        temporary.replace(path)
    except OSError as error:
        if error.errno is None:
            raise
        # Where the disk is full Python does not say which file it was.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
