"""What is remembered of pictures between runs, and when they are read again."""

import hashlib
import json
import os
import threading

import numpy as np
import PIL
import PIL.Image
import pytest

from kdjax.data.own import contents
from kdjax.data.own.contents import Files, Rows
from kdjax.data.own.listing import Header
from kdjax.errors import InputError


def empty_index():
    return {"pillow": PIL.__version__, "headers": {}, "conversions": {}, "arrays": {}}


def files(*paths):
    return Files("folder:pets", paths, [path.name for path in paths])


@pytest.fixture
def pictures(make_files):
    folder = make_files("a.png", "b.png", "c.png")
    return files(*sorted(folder.iterdir()))


@pytest.fixture
def archive(tmp_path):
    """Grey and other pictures in two arrays of an npz file, and the arrays."""
    rng = np.random.default_rng(0)
    arrays = {name: rng.integers(0, 256, (n, 4, 5, 1), np.uint8)
              for name, n in (("images", 3), ("test_images", 2))}  # fmt: skip
    np.savez(tmp_path / "pets.npz", **arrays)
    return Rows(tmp_path / "pets.npz", {"images": 3, "test_images": 2}, "L"), arrays


def test_header_has_the_hash_of_the_file_and_the_mode(pictures):
    for number, path in enumerate(pictures.paths):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert pictures.header(number) == Header(digest, "RGB", "")


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (None, "No such file or directory"),
        (b"", "the file is empty"),
        (b"GIF89a", "not an image that Pillow can read"),
        (b"text", "not an image that Pillow can read"),
    ],
)
def test_file_that_is_no_picture_has_a_reason(tmp_path, content, error):
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    assert files(path).header(0) == Header("", "", error)


def test_pipe_and_folder_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    listed = files(tmp_path / "pipe.png", tmp_path / "folder.png")
    assert [listed.header(number).error for number in (0, 1)] == ["not a file"] * 2


def test_stamp_changes_when_a_file_is_written_with_the_same_size_and_time(pictures):
    path, before = pictures.paths[0], pictures.stamp(0)
    status = path.stat()
    assert pictures.stamp(0) == before
    path.write_bytes(bytes(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size and pictures.stamp(0) != before
    path.unlink()
    assert pictures.stamp(0) == ""


def test_picture_that_changed_or_is_gone_since_is_refused(pictures):
    digest = pictures.header(0).digest
    assert pictures.open(0, digest).size == (4, 4)
    pictures.paths[0].write_bytes(pictures.paths[1].read_bytes())
    with pytest.raises(InputError, match=r"folder:pets: 'a\.png' was changed during the run"):
        pictures.open(0, digest)
    pictures.paths[0].unlink()
    with pytest.raises(InputError, match=r"'a\.png' cannot be read any more: No such file"):
        pictures.open(0, digest)


def test_rows_of_an_npz_file_are_pictures_in_the_order_of_its_arrays(archive):
    rows, arrays = archive
    expected = np.concatenate([arrays["images"], arrays["test_images"]])[..., 0]
    for number, pixels in enumerate(expected):
        header = rows.header(number)
        assert (header.mode, header.error) == ("L", "")
        np.testing.assert_array_equal(rows.open(number, header.digest), pixels)
    digests = {rows.header(number).digest for number in range(5)}
    stamps = {rows.stamp(number) for number in range(5)}
    assert len(digests) == len(stamps) == 5


def test_rows_are_read_by_several_threads_at_once(archive):
    rows, arrays = archive
    seen = [None] * 3

    def read(number):
        seen[number] = np.asarray(rows.open(number, ""))

    threads = [threading.Thread(target=read, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(np.stack(seen), arrays["images"][..., 0])


def test_only_new_and_changed_pictures_are_read(pictures, monkeypatch):
    index, read, header = empty_index(), [], Files.header

    def record(self, number):
        read.append(number)
        return header(self, number)

    monkeypatch.setattr(Files, "header", record)
    first = contents.headers(pictures, 3, index)
    assert sorted(read) == [0, 1, 2] and len(index["headers"]) == 3
    index = json.loads(json.dumps(index))  # as it is stored
    read.clear()
    assert contents.headers(pictures, 3, index) == first and read == []
    pictures.paths[1].write_bytes(pictures.paths[0].read_bytes())
    changed = contents.headers(pictures, 3, index)
    assert read == [1] and changed[1] == first[0] and changed[2] == first[2]
    assert len(index["headers"]) == 3  # what is gone is forgotten


def test_index_of_another_version_of_pillow_is_read_again(tmp_path):
    path = tmp_path / "index.json"
    stored = {
        "pillow": PIL.__version__,
        "headers": {"stamp": ["digest", "RGB", ""]},
        "conversions": {"use": ["fingerprint", []]},
        "arrays": {"use": "folder"},
    }
    path.write_text(json.dumps(stored))
    assert contents.read_index(path) == stored
    path.write_text(json.dumps({**stored, "pillow": "0.1"}))
    assert contents.read_index(path) == {**empty_index(), "arrays": stored["arrays"]}


@pytest.mark.parametrize(
    "text", [None, "", "{", "[]", "{}", '{"pillow": "1", "headers": {}}',
             '{"pillow": "1", "headers": [], "conversions": {}, "arrays": {}}'],
)  # fmt: skip
def test_damaged_index_is_empty(tmp_path, text):
    if text is not None:
        (tmp_path / "index.json").write_text(text)
    assert contents.read_index(tmp_path / "index.json") == empty_index()


def test_first_of_equal_pictures_counts():
    found = [Header("b", "L", ""), Header("a", "L", ""), Header("b", "L", ""), Header("", "", "x")]
    assert contents.unique_digests(found) == {"a": 1, "b": 0}
    assert list(contents.unique_digests(found)) == ["a", "b"]


def test_reasons_are_one_line():
    assert contents.reason(OSError(13, "Permission denied", "a.png")) == "Permission denied"
    assert contents.reason(ValueError("a\n b")) == "a b"
    assert contents.reason(ValueError()) == "ValueError"
