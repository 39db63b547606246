"""Files that are written completely or not at all, and the detection of damaged files."""

import os
import stat

import numpy as np
import pytest

from kdjax.errors import InputError
from kdjax.runtime import atomic_io


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_json_round_trip(tmp_path):
    value = {"b": [1, 2.5, None], "a": {"c": "é", "d": True}}
    path = tmp_path / "deep" / "results.json"
    atomic_io.write_json(path, value)
    assert atomic_io.read_json(path) == value
    assert path.read_text().endswith("}\n")
    assert list(path.parent.iterdir()) == [path]


def test_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path):
    atomic_io.write_json(tmp_path / "results.json", {"a": 1})
    before = contents(tmp_path)
    with pytest.raises(TypeError):
        atomic_io.write_json(tmp_path / "results.json", {"a": 2, "b": object()})
    assert contents(tmp_path) == before


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan")])
def test_number_that_json_cannot_represent_is_not_written(tmp_path, number):
    with pytest.raises(ValueError, match="not JSON compliant"):
        atomic_io.write_json(tmp_path / "config.json", {"a": number})
    assert list(tmp_path.iterdir()) == []


def test_permissions_of_a_file_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        atomic_io.write_json(tmp_path / "config.json", {})
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "config.json").stat().st_mode) == 0o640


def test_full_disk_is_reported_with_the_name_of_the_file(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    atomic_io.write_json(path, {"a": 1})
    before = contents(tmp_path)

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(path), "write_bytes", no_space)
    with pytest.raises(OSError, match=r"No space left on device.*results\.json") as raised:
        atomic_io.write_json(path, {"a": 2})
    assert raised.value.filename == str(path)
    monkeypatch.undo()
    assert contents(tmp_path) == before


def test_link_is_replaced_at_once_and_kept_if_it_is_right(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    link = tmp_path / "link"
    atomic_io.link_to(link, "first")
    assert link.resolve() == tmp_path / "first"
    inode = link.lstat().st_ino
    atomic_io.link_to(link, "first")
    assert link.lstat().st_ino == inode
    atomic_io.link_to(link, tmp_path / "second")
    assert link.resolve() == tmp_path / "second"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "link", "second"]


def test_link_never_takes_the_place_of_a_folder(tmp_path):
    (tmp_path / "link").mkdir()
    with pytest.raises(OSError):
        atomic_io.link_to(tmp_path / "link", "other")
    assert (tmp_path / "link").is_dir() and not (tmp_path / "link").is_symlink()


def test_npz_round_trip(tmp_path):
    path = tmp_path / "arrays.npz"
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(3)}
    atomic_io.write_npz(path, arrays)
    assert list(tmp_path.iterdir()) == [path]
    b, a = atomic_io.read_npz(path, "b", "a")
    np.testing.assert_array_equal(a, arrays["a"])
    np.testing.assert_array_equal(b, arrays["b"])


def test_every_truncation_of_an_npz_file_is_detected(tmp_path):
    path = tmp_path / "arrays.npz"
    atomic_io.write_npz(path, {"a": np.arange(3)})
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"arrays\.npz' is damaged"):
            atomic_io.read_npz(path, "a")


def test_npz_file_without_an_array_or_with_pickles_is_damaged(tmp_path):
    path = tmp_path / "arrays.npz"
    atomic_io.write_npz(path, {"a": np.arange(3)})
    with pytest.raises(InputError, match=r"is damaged.*b"):
        atomic_io.read_npz(path, "b")
    np.savez(path, a=np.array([None]))
    with pytest.raises(InputError, match="is damaged"):
        atomic_io.read_npz(path, "a")


def test_missing_files_are_not_damaged(tmp_path):
    with pytest.raises(FileNotFoundError):
        atomic_io.read_npz(tmp_path / "arrays.npz", "a")
    with pytest.raises(FileNotFoundError):
        atomic_io.read_json(tmp_path / "results.json")
