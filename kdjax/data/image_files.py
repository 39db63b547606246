"""Image files in folders."""

import collections
import io
import os
import pathlib
from collections.abc import Callable, Iterator

import PIL.Image
import PIL.ImageFile

from kdjax.errors import InputError


def list_folder(
    folder: pathlib.Path, on_error: Callable[[OSError], None]
) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """Returns the image files in a folder and its subfolders, and the other files, both sorted.

    Links to folders are followed. What is hidden (its name begins with a dot) is neither.

    Args:
        folder: the folder.
        on_error: called for each subfolder that cannot be read.

    Raises:
        InputError: if a link leads to a folder that contains it.
    """
    files = list(_walk(folder, (), on_error))
    suffixes = image_suffixes()
    images = {file for file in files if file.suffix.lower() in suffixes and not _is_special(file)}
    return sorted(images), sorted(set(files) - images)


def subfolders(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the folders in a folder that are not hidden, sorted."""
    return sorted(path for path in folder.iterdir() if not _is_hidden(path) and path.is_dir())


def image_suffixes() -> set[str]:
    """Returns the suffixes, in lower case, of the files that Pillow can open and decode."""
    return {
        suffix
        for suffix, name in PIL.Image.registered_extensions().items()
        if name in PIL.Image.OPEN and name != "MPEG" and not _is_stub(PIL.Image.OPEN[name][0])
    }


def open_image(path: pathlib.Path) -> PIL.Image.Image:
    """Returns the image in a file.

    It is opened from its bytes, as in training: from a path, Pillow turns some TIFF files by their
    EXIF orientation already.

    Raises:
        InputError: if the file is empty, or no file.
    """
    return PIL.Image.open(io.BytesIO(read_bytes(path)))


def read_bytes(path: pathlib.Path) -> bytes:
    """Returns the content of an image file.

    Raises:
        InputError: if the file is empty, or no file.
        OSError: if it cannot be read.
    """
    if _is_special(path):
        raise InputError("not a file")
    content = path.read_bytes()
    if not content:
        raise InputError("the file is empty")
    return content


def count_files(files: list[pathlib.Path]) -> str:
    """Returns such as "3 files (.txt 2, .csv 1)"; "it is empty" without files."""
    counts = collections.Counter(file.suffix.lower() or "no suffix" for file in files)
    kinds = [f"{suffix} {count}" for suffix, count in counts.most_common(5)]
    kinds += ["..."] if len(counts) > 5 else []
    number = "1 file" if len(files) == 1 else f"{len(files)} files"
    return f"{number} ({', '.join(kinds)})" if files else "it is empty"


def _walk(
    folder: pathlib.Path, above: tuple[pathlib.Path, ...], on_error: Callable[[OSError], None]
) -> Iterator[pathlib.Path]:
    real = pathlib.Path(os.path.realpath(folder))
    if any(path.is_relative_to(real) for path in above):
        raise InputError(f"{folder}: this link leads to a folder that contains it; remove it")
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        on_error(error)
        return
    for entry in entries:
        if _is_hidden(entry):
            continue
        if entry.is_dir():
            yield from _walk(entry, (*above, real), on_error)
        else:
            yield entry


def _is_hidden(path: pathlib.Path) -> bool:
    # macOS adds __MACOSX to its archives, with a hidden file for each image.
    return path.name.startswith(".") or path.name == "__MACOSX"


def _is_special(path: pathlib.Path) -> bool:
    """Returns whether a path is no file, such as a pipe, from which reading could wait forever."""
    try:
        return path.exists() and not path.is_file()
    except OSError:  # reading it reports why
        return False


def _is_stub(opener: object) -> bool:
    """Returns whether Pillow only recognizes a format, and leaves decoding to other packages."""
    return isinstance(opener, type) and issubclass(opener, PIL.ImageFile.StubImageFile)
