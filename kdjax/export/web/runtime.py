"""Reads the files of onnxruntime-web that the browser demo embeds."""

import json
import pathlib
import tarfile
from typing import NamedTuple

from kdjax.errors import InputError

PACKAGE = "onnxruntime-web"
SCRIPT, GLUE, WASM = (
    "dist/ort.wasm.min.js",
    "dist/ort-wasm-simd-threaded.mjs",
    "dist/ort-wasm-simd-threaded.wasm",
)
_DESCRIPTION = "package.json"
_NAMES = (SCRIPT, GLUE, WASM, _DESCRIPTION)


class Runtime(NamedTuple):
    """The files of onnxruntime-web that run a model on the CPU.

    Attributes:
        version: of the package; "of unknown version" without its package.json.
        script: JavaScript that defines `ort`.
        glue: the JavaScript module that starts `wasm`.
        wasm: the WebAssembly module.
    """

    version: str
    script: bytes
    glue: bytes
    wasm: bytes


def read(path: pathlib.Path) -> Runtime:
    """Returns the runtime from a copy of the npm package onnxruntime-web.

    Args:
        path: the folder of the package, its folder `dist`, a folder with `node_modules`, the
            archive (.tgz) of the package, or a folder with one such archive.

    Raises:
        InputError: if there is no such package, or one without the files that are needed.
    """
    how = f"`npm pack {PACKAGE}` downloads it"
    if not path.exists():
        raise InputError(f"--web={path}: no such file or folder; give a copy of {PACKAGE}: {how}")
    files = _read_folder(path) if path.is_dir() else _read_archive(path)
    if not files and (archive := _archive_in(path)):
        files = _read_archive(archive)
    missing = [name for name in (SCRIPT, GLUE, WASM) if name not in files]
    if missing:
        raise InputError(f"--web={path}: no copy of {PACKAGE}: it has no {missing[0]}; {how}")
    version = _version(files.get(_DESCRIPTION, b""))
    return Runtime(version, files[SCRIPT], files[GLUE], files[WASM])


def _read_folder(path: pathlib.Path) -> dict[str, bytes]:
    """Returns the files of a package, by their names in it."""
    folders = (path / "node_modules" / PACKAGE, path, path.parent if path.name == "dist" else path)
    files = {}
    for name in _NAMES:
        existing = [folder / name for folder in folders if (folder / name).is_file()]
        if existing:
            files[name] = existing[0].read_bytes()
    return files


def _archive_in(folder: pathlib.Path) -> pathlib.Path | None:
    """Returns the archive of the package that `npm pack` wrote into a folder."""
    archives = sorted(folder.glob(f"{PACKAGE}-*.tgz")) if folder.is_dir() else []
    if len(archives) > 1:
        names = ", ".join(path.name for path in archives)
        raise InputError(f"--web={folder}: several copies of {PACKAGE}: give one of {names}")
    return archives[0] if archives else None


def _read_archive(path: pathlib.Path) -> dict[str, bytes]:
    """Returns the files of an archive that `npm pack` wrote, by their names in the package."""
    files = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = member.name.removeprefix("package/")
                if name in _NAMES and (file := archive.extractfile(member)):
                    files[name] = file.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"--web={path}: not a folder, and not an archive of {PACKAGE}: {reason}"
        ) from error
    return files


def _version(description: bytes) -> str:
    try:
        return str(json.loads(description)["version"])
    except (ValueError, KeyError, TypeError):
        return "of unknown version"
