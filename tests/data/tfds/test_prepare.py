"""Preparation: names, directories, interruptions and full disks."""

import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from support.full_disk import files_of_at_most

from kdjax import data, errors
from kdjax.data.tfds import builders, prepare


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("cifar", "cifar10"),
        ("CIFAR100", "cifar100"),
        ("digit", "digits"),
        ("smallset", "small_set"),
    ],
)
def test_unknown_name_raises_with_the_nearest_name(
    name: str, nearest: str, small_set: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    small_set({"train": 3})
    start = time.monotonic()
    with pytest.raises(errors.InputError, match=f"did you mean '{nearest}'"):
        data.load(name, data_dir=tmp_path)
    assert time.monotonic() - start < 2


def test_name_that_resembles_none_raises_with_the_valid_names(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.InputError, match=r"unknown data set 'qqqqq'; valid: .*folder:PATH"):
        data.load("qqqqq", data_dir=tmp_path)


@pytest.fixture
def pictures(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder of pictures, one subfolder for each class."""
    for name in ("cats/a.jpg", "dogs/b.jpg"):
        (tmp_path / "pictures" / name).parent.mkdir(parents=True)
        (tmp_path / "pictures" / name).write_bytes(b"picture")
    return tmp_path / "pictures"


def test_path_as_name_raises_with_the_name_of_own_images(
    pictures: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    existing = (str(pictures), "pictures", "./pictures", "~/pictures")
    for name in (*existing, "no/such/folder", "~/photos"):
        with pytest.raises(errors.InputError) as raised:
            data.load(name, data_dir=tmp_path / "data")
        line = str(raised.value)
        assert line.startswith(f"unknown data set {name!r}: "), line
        assert (f"did you mean 'folder:{name}'?" in line) == (name in existing)
        assert ("docs/how-to/own-data.md" in line) == (name not in existing)
        assert "\n" not in line
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


@pytest.mark.parametrize("part", ["small_set", "small_set/1.0.0"])
def test_path_of_a_prepared_set_as_name_raises_with_the_flags(
    part: str, small_set: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    small_set({"train": 3})
    with pytest.raises(errors.InputError) as raised:
        data.load(str(tmp_path / part), data_dir=tmp_path / "elsewhere")
    flags = f"use --config.data.dir={tmp_path} --config.data.name=small_set"
    assert flags in str(raised.value)


def test_nothing_is_written_into_a_directory_with_other_files(pictures: pathlib.Path) -> None:
    before = sorted(pictures.rglob("*"))
    with pytest.raises(errors.InputError) as raised:
        data.load("digits", data_dir=pictures)
    line = str(raised.value)
    assert f"data_dir '{pictures}' is neither empty nor a TFDS directory" in line
    assert "it holds 'cats'" in line and "\n" not in line
    assert sorted(pictures.rglob("*")) == before


def test_file_as_directory_raises(pictures: pathlib.Path) -> None:
    with pytest.raises(errors.InputError, match="is not a directory"):
        data.load("digits", data_dir=pictures / "cats" / "a.jpg")


@pytest.mark.slow
def test_directory_that_belongs_to_tfds_is_used(tmp_path: pathlib.Path) -> None:
    # What is left by TFDS, a file system and a file manager, without a prepared data set.
    for name in ("downloads/manual", "kdjax_arrays", "lost+found", "mnist/3.0.1.incomplete7"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / ".DS_Store").touch()
    assert data.load("digits", data_dir=tmp_path).num_classes == 10


@pytest.mark.slow
def test_prepared_set_is_read_beside_other_files(
    small_set: Callable[..., Any], pictures: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    small_set({"train": 30, "test": 3})
    assert data.load("small_set", data_dir=tmp_path).num_classes == 3
    assert data.load("digits", data_dir=tmp_path).num_classes == 10


def test_directory_without_dataset_info_raises(tmp_path: pathlib.Path) -> None:
    (tmp_path / "digits" / "1.0.0").mkdir(parents=True)
    with pytest.raises(errors.InputError, match="is incomplete: remove it"):
        data.load("digits", data_dir=tmp_path)


class NeedsTensorflow(tfds.core.GeneratorBasedBuilder):
    """A builder with arrays instead of Pillow images, which TFDS encodes with TensorFlow."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> Any:
        features = {
            "image": tfds.features.Image(shape=(4, 4, 3)),
            "label": tfds.features.ClassLabel(num_classes=2),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[Any]:
        yield 0, {"image": np.zeros((4, 4, 3), np.uint8), "label": 0}


def test_builder_that_needs_tensorflow_raises_with_the_package(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(errors.InputError, match=r"needs a package: .*tensorflow"):
        data.load("needs_tensorflow", data_dir=tmp_path)


def failing_after(count: int, failure: BaseException) -> Callable[..., Iterator[Any]]:
    pillow_examples = builders.pillow_examples

    def generate(columns: Any) -> Iterator[Any]:
        for i, example in enumerate(pillow_examples(columns)):
            if i == count:
                raise failure
            yield example

    return generate


@pytest.mark.slow
@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError("no space left on device")])
def test_interrupted_preparation_leaves_no_files(
    failure: BaseException, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(builders, "pillow_examples", failing_after(5, failure))
        with pytest.raises((KeyboardInterrupt, errors.InputError)):
            data.load("digits", data_dir=tmp_path)
    assert list((tmp_path / "digits").iterdir()) == []
    assert len(data.load("digits", data_dir=tmp_path).test.labels) == 359


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 5000, 70000])
def test_full_disk_during_preparation_is_one_line_and_leaves_no_data_set(
    size: int, tmp_path: pathlib.Path
) -> None:
    with files_of_at_most(size), pytest.raises(errors.InputError) as raised:
        data.load("digits", data_dir=tmp_path)
    line = str(raised.value)
    assert line.startswith(f"cannot prepare digits in {tmp_path}: ") and "\n" not in line
    assert "File too large" in line
    assert list(tmp_path.glob("digits/*")) == []
    assert len(data.load("digits", data_dir=tmp_path).test.labels) == 359


def test_preparation_writes_nothing_to_stdout(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data.load("digits", data_dir=tmp_path)
    output = capsys.readouterr()
    assert output.out == ""
    assert "digits" in output.err


@pytest.mark.slow
def test_concurrent_preparation_of_the_same_data_set(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pillow_examples = builders.pillow_examples

    def prepare_meanwhile(columns: Any) -> Iterator[Any]:
        monkeypatch.setattr(builders, "pillow_examples", pillow_examples)
        prepare.prepare("digits", tmp_path, [])
        return pillow_examples(columns)

    monkeypatch.setattr(builders, "pillow_examples", prepare_meanwhile)
    assert len(data.load("digits", data_dir=tmp_path).test.labels) == 359
