"""Copies of onnxruntime-web in every form in which npm gives them, and other files."""

import pathlib
import shutil
import tarfile

import pytest

from kdjax.errors import InputError
from kdjax.export.web import runtime

FILES = {
    runtime.SCRIPT: b"script",
    runtime.GLUE: b"glue",
    runtime.WASM: b"wasm",
    "package.json": b'{"version": "1.2.3"}',
    "dist/ort.min.js": b"another build",
}
EXPECTED = runtime.Runtime("1.2.3", b"script", b"glue", b"wasm")


def write(folder: pathlib.Path, files: dict[str, bytes]) -> pathlib.Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def pack(folder: pathlib.Path, archive: pathlib.Path) -> pathlib.Path:
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, "package")
    return archive


def test_every_form_of_the_package_is_read(tmp_path):
    project = tmp_path / "project"
    package = write(project / "node_modules" / "onnxruntime-web", FILES)
    archive = pack(package, tmp_path / "onnxruntime-web-1.2.3.tgz")
    for path in (project, package, archive, archive.parent):
        assert runtime.read(path) == EXPECTED
    assert runtime.read(package / "dist") == EXPECTED._replace(version="1.2.3")


def test_version_is_unknown_without_a_description(tmp_path):
    package = write(tmp_path / "package", {**FILES, "package.json": b"{"})
    assert runtime.read(package) == EXPECTED._replace(version="of unknown version")


def without(name):
    return {key: value for key, value in FILES.items() if key != name}


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda path: None, "no such file or folder; give a copy of onnxruntime-web: `npm pack"),
        (lambda path: path.mkdir(), "no copy of onnxruntime-web: it has no dist/ort.wasm.min.js"),
        (
            lambda path: write(path, without(runtime.WASM)),
            "it has no dist/ort-wasm-simd-",
        ),
        (lambda path: path.write_bytes(b"text"), "not a folder, and not an archive of onnxruntime"),
        (lambda path: pack_of(path, without(runtime.GLUE)), "it has no dist/ort-wasm-simd-thr"),
        (lambda path: truncated(path), "not an archive of onnxruntime-web: "),
        (lambda path: packed_twice(path), "several copies of onnxruntime-web: give one of onnx"),
    ],
)
def test_other_files_raise_in_one_line(tmp_path, make, part):
    make(tmp_path / "given")
    with pytest.raises(InputError) as raised:
        runtime.read(tmp_path / "given")
    line = str(raised.value)
    assert line.startswith(f"--web={tmp_path / 'given'}: ") and part in line and "\n" not in line


def pack_of(path, files):
    folder = write(path.with_name("unpacked"), files)
    pack(folder, path)
    shutil.rmtree(folder)


def packed_twice(folder):
    for name in ("onnxruntime-web-1.2.3.tgz", "onnxruntime-web-1.3.0.tgz"):
        folder.mkdir(exist_ok=True)
        pack(write(folder.with_name("package"), FILES), folder / name)


def truncated(path):
    pack_of(path, FILES)
    path.write_bytes(path.read_bytes()[:-40])
