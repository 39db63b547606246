"""Names of own images, and the corrections of near misses."""

import pathlib
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from kdjax import data
from kdjax.config import base, resolve
from kdjax.data.own import names
from kdjax.errors import InputError


def test_path_becomes_absolute(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    assert names.parse("folder:pets") == ("folder", tmp_path / "pets")
    assert names.absolute("csv:./a.csv") == f"csv:{tmp_path / 'a.csv'}"
    assert names.absolute("npz:~/ä:b.npz") == "npz:/home/someone/ä:b.npz"
    for path in (".", "2024", "..", "1.0.0"):
        assert names.parse(f"folder:{path}") == ("folder", (tmp_path / path).absolute())
    config = base()
    config.data.name = "folder:pets"
    assert resolve(config).data.name == f"folder:{tmp_path / 'pets'}"


@pytest.mark.parametrize("name", ["digits", "voc/2007", "mnist:3.0.1", "mnist:3.*.*"])
def test_names_of_tfds_are_not_own_images(name: str) -> None:
    assert names.parse(name) is None
    assert names.absolute(name) == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("foldr:pets", "did you mean 'folder:pets'?"),
        ("Folder:pets", "did you mean 'folder:pets'?"),
        ("cvs:pets.csv", "did you mean 'csv:pets.csv'?"),
        ("tar:pets.tar", "valid: folder:PATH, csv:FILE, npz:FILE, or the name of a TFDS data set"),
        ("gs://bucket/pets", "must be a local path, as folder:PATH"),
        ("folder:", "no path is given: it must be folder:PATH"),
        ("folder", "'folder': no path is given: it must be folder:PATH"),
        ("CSV", "'CSV': no path is given: it must be csv:FILE"),
        ("folder:no_pets", "no such folder or file"),
        ("folder:pets.csv", r"that is a file; did you mean 'csv:.*pets\.csv'?"),
        ("csv:pets", "that is a folder; did you mean 'folder:.*pets'?"),
        ("npz:pets", "that is a folder; did you mean 'folder:.*pets'?"),
        ("folder:pet", "no such folder or file: did you mean '.*pets'?"),
        ("pets", "did you mean 'folder:pets'?"),
        ("./pets", r"did you mean 'folder:\./pets'?"),
        ("pets.csv", r"did you mean 'csv:pets\.csv'?"),
        ("pets.npz", r"did you mean 'npz:pets\.npz'?"),
        ("no/such/folder", "own images are given as folder:PATH.*there is no file or folder"),
        ("C:\\pets", r"valid: folder:PATH"),
    ],
)
def test_near_miss_raises_with_the_correction(
    name: str,
    message: str,
    make_files: Callable[..., pathlib.Path],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_files("cat/a.png", "dog/b.png", root="pets")
    (tmp_path / "pets.csv").write_text("path,label\n")
    (tmp_path / "pets.npz").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        data.load(name, data_dir=tmp_path / "data", image_size=32)
    with pytest.raises(InputError, match=message) as raised:
        data.load(name, data_dir=tmp_path / "data")
    line = str(raised.value)
    assert "\n" not in line and name.rpartition(":")[2] in line.replace("\\\\", "\\")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"train_split": "training"}, "train_split 'training': own images have the splits"),
        ({"test_split": "val"}, "test_split 'val': own images have the splits"),
        ({"image_size": -1}, "image_size is -1"),
        ({"fit": "padd"}, "unknown fit 'padd': did you mean 'pad'"),
        ({"fit": "stretch"}, "unknown fit 'stretch'"),
        ({"test_fraction": 1.0}, "test fraction is 1.0"),
        (
            {"dev_fraction": 0.6, "calibration_fraction": 0.5},
            r"data.dev_fraction 0.6 and data.calibration_fraction 0.5: must have a sum below 1",
        ),
    ],
)
def test_invalid_arguments_raise(
    fields: dict, message: str, make_files: Callable[..., pathlib.Path]
) -> None:
    with pytest.raises(InputError, match=message):
        data.load(f"folder:{make_files('cat/a.png', 'dog/b.png')}", **fields)


@pytest.mark.parametrize(
    ("field", "value"),
    [("image_size", 16), ("fit", "crop"), ("strict", True), ("test_fraction", 0.5)],
)
def test_field_of_own_images_raises_for_a_tfds_set(
    field: str, value: Any, data_dir: pathlib.Path
) -> None:
    with pytest.raises(InputError, match=f"{field} {value!r} with 'digits': only for folder:PATH"):
        data.load("digits", data_dir=data_dir, **{field: value})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("image_size", 5000, r"data\.image_size 5000 is out of range: it must be from 0 to 4096"),
        ("fit", "croop", r"data\.fit 'croop': did you mean 'crop'"),
        ("test_fraction", 0.0, r"data\.test_fraction"),
        ("name", "foldr:pets", "did you mean 'folder:pets'"),
    ],
)
def test_config_refuses_invalid_fields(field: str, value: object, message: str) -> None:
    config = base()
    config.data[field] = value
    with pytest.raises(InputError, match=message):
        resolve(config)


@pytest.mark.slow
def test_own_images_need_no_tfds(make_files: Callable[..., pathlib.Path]) -> None:
    folder = make_files(*(f"{label}/{i}.png" for label in ("cat", "dog") for i in range(10)))
    code = (
        "import sys; sys.modules['tensorflow_datasets'] = sys.modules['tensorflow'] = None\n"
        "from kdjax import data\n"
        f"print(data.load('folder:{folder}', data_dir='{folder.parent / 'cache'}').class_names)\n"
        "for name in ('digits', '.', 'pictures'):\n"
        "    try: data.load(name, data_dir='nowhere')\n"
        "    except data.dataset.errors.InputError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=folder.parent
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "('cat', 'dog')"
    assert re.search("'digits' is not prepared.* needs the package tensorflow-datasets", lines[1])
    assert "did you mean 'folder:.'?" in lines[2] and "'folder:pictures'?" in lines[3]
