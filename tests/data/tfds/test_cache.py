"""The cache of decoded arrays: valid, damaged, outdated, unwritable, written concurrently."""

import concurrent.futures
import pathlib
import shutil
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kdjax import data
from kdjax.data.tfds import cache, decode

FILES = ("images.npy", "labels.npy", "moments.npy", "class_names.npy", "meta.json")


def load(root: pathlib.Path) -> data.Dataset:
    return data.load("small_set", data_dir=root)


def assert_same(a: data.Dataset, b: data.Dataset) -> None:
    for part in ("train", "dev", "test"):
        np.testing.assert_array_equal(getattr(a, part).images, getattr(b, part).images)
        np.testing.assert_array_equal(getattr(a, part).labels, getattr(b, part).labels)
    np.testing.assert_array_equal((a.mean, a.std), (b.mean, b.std))
    assert a.class_names == b.class_names


@pytest.fixture
def first(small_set: Callable[..., Any], tmp_path: pathlib.Path) -> data.Dataset:
    small_set({"train": 20, "test": 6})
    return load(tmp_path)


@pytest.fixture
def folder(first: data.Dataset, tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "kdjax_arrays" / "small_set" / "1.0.0" / "train"


def cut_short(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip_a_bit(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 0x80
    path.write_bytes(content)


def empty(path: pathlib.Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut_short, flip_a_bit, empty, pathlib.Path.unlink])
@pytest.mark.parametrize("name", FILES)
def test_damaged_cache_is_rebuilt_with_a_warning(
    name: str,
    damage: Callable[[pathlib.Path], None],
    first: data.Dataset,
    folder: pathlib.Path,
    tmp_path: pathlib.Path,
) -> None:
    damage(folder / name)
    with pytest.warns(RuntimeWarning, match="rebuilding the damaged cache"):
        assert_same(load(tmp_path), first)
    with warnings.catch_warnings(action="error"):
        assert_same(load(tmp_path), first)


@pytest.mark.parametrize("text", ["[]", "null", '{"format": 1}', '{"source": "x", "crc32": {}}'])
def test_invalid_metadata_is_rebuilt_with_a_warning(
    text: str, first: data.Dataset, folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (folder / "meta.json").write_text(text)
    with pytest.warns(RuntimeWarning, match="rebuilding the damaged cache"):
        assert_same(load(tmp_path), first)


def test_other_data_with_the_same_version_replace_the_cache_without_warning(
    first: data.Dataset, small_set: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    shutil.rmtree(tmp_path / "small_set")
    small_set({"train": 20, "test": 6}, seed=10)
    fresh = load(tmp_path)
    shutil.rmtree(tmp_path / "kdjax_arrays")
    assert_same(fresh, load(tmp_path))
    assert not np.array_equal(fresh.train.images, first.train.images)


def test_cache_of_an_older_format_is_rebuilt_without_warning(
    first: data.Dataset, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "FORMAT", cache.FORMAT + 1)
    assert_same(load(tmp_path), first)


def test_unwritable_cache_warns_and_returns_the_arrays(
    first: data.Dataset, tmp_path: pathlib.Path
) -> None:
    shutil.rmtree(tmp_path / "kdjax_arrays")
    (tmp_path / "kdjax_arrays").touch()  # a file instead of the folder, which fails for root too
    with pytest.warns(RuntimeWarning, match="cannot cache arrays"):
        assert_same(load(tmp_path), first)


def test_failed_write_leaves_no_files(
    first: data.Dataset,
    folder: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.rmtree(folder.parent)
    save = np.save

    def disk_full(path: pathlib.Path, values: np.ndarray) -> None:
        if path.name == "moments.npy":
            raise OSError("no space left on device")
        save(path, values)

    monkeypatch.setattr(np, "save", disk_full)
    with pytest.warns(RuntimeWarning, match="no space left"):
        assert_same(load(tmp_path), first)
    assert list(folder.parent.iterdir()) == []


def test_concurrent_writers_of_the_same_cache(
    folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(folder.parent)
    barrier, split = threading.Barrier(3), decode.split

    def synchronized_split(*arguments: Any) -> Any:
        barrier.wait(timeout=60)
        return split(*arguments)

    def read(_: int) -> np.ndarray:
        return cache.load(tmp_path, tmp_path / "small_set" / "1.0.0", "train").images

    monkeypatch.setattr(decode, "split", synchronized_split)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        results = list(pool.map(read, range(3)))
    assert [path.name for path in folder.parent.iterdir()] == ["train"]
    monkeypatch.delattr(decode, "split")
    for images in results:
        np.testing.assert_array_equal(images, read(0))
