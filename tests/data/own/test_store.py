"""The cache of own images on disk: what is read again, what is replaced, and where it is."""

import pathlib
import shutil

import numpy as np
import pytest

from kdjax.data.own import contents, decoding, names, store
from kdjax.data.own.load import read_listing
from kdjax.errors import InputError


@pytest.fixture
def folder(make_files) -> pathlib.Path:
    return make_files("cats/a.png", "cats/b.png", "dogs/c.png", "dogs/d.png")


def open_store(folder, caches):
    listing = read_listing(names.parse(f"folder:{folder}"))
    return listing, store.Store(caches, listing)


def load(folder, caches, *, images=True, size=4, part=""):
    """Returns the arrays of a listing, as `own.load` reads them."""
    _, cached = open_store(folder, caches)
    headers = cached.headers()
    digests = contents.unique_digests(headers)
    conversion = cached.conversion(headers, digests, size, "pad")
    return cached.decoded(digests, conversion, images=images, part=part)


@pytest.fixture
def decoded(monkeypatch):
    """The numbers of pictures of each call of `decode`."""
    calls, decode = [], decoding.decode

    def count(listing, digests, conversion, *, images):
        calls.append(len(digests))
        return decode(listing, digests, conversion, images=images)

    monkeypatch.setattr(decoding, "decode", count)
    return calls


def folders(caches):
    return sorted(path.name for path in caches.iterdir() if path.is_dir())


def test_second_run_decodes_nothing_and_gives_the_same_arrays(folder, tmp_path, decoded):
    first = {name: np.array(values) for name, values in load(folder, tmp_path / "c").items()}
    second = load(folder, tmp_path / "c")
    assert decoded == [4]
    assert second.keys() == first.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(second[name], values)


def test_changed_picture_replaces_the_arrays(folder, tmp_path, decoded):
    caches = tmp_path / "c"
    load(folder, caches)
    (before,) = folders(caches)
    (folder / "cats" / "a.png").write_bytes((folder / "dogs" / "d.png").read_bytes())
    load(folder, caches)
    assert decoded == [4, 3]  # two pictures are equal now
    (after,) = folders(caches)
    assert after != before


def test_arrays_of_another_listing_with_the_same_pictures_are_kept(folder, tmp_path, decoded):
    caches, copy = tmp_path / "c", shutil.copytree(folder, tmp_path / "copy")
    load(folder, caches)
    load(copy, caches)
    (copy / "cats" / "a.png").write_bytes((copy / "dogs" / "d.png").read_bytes())
    load(copy, caches)
    load(folder, caches)
    assert decoded == [4, 3] and len(folders(caches)) == 2


def test_sizes_and_parts_have_arrays_of_their_own(folder, tmp_path, decoded):
    caches = tmp_path / "c"
    load(folder, caches, size=4)
    load(folder, caches, size=6)
    assert len(folders(caches)) == 2
    load(folder, caches, size=4)
    load(folder, caches, size=6)
    assert len(decoded) == 2 and len(folders(caches)) == 2


def test_renamed_picture_is_not_decoded_again(folder, tmp_path, decoded):
    load(folder, tmp_path / "c")
    (folder / "cats" / "a.png").rename(folder / "cats" / "z.png")
    load(folder, tmp_path / "c")
    assert decoded == [4]


def test_images_that_were_left_out_are_added(folder, tmp_path, decoded):
    arrays = load(folder, tmp_path / "c", images=False)
    assert "images" not in arrays
    assert load(folder, tmp_path / "c", images=True)["images"].shape == (4, 4, 4, 3)
    assert decoded == [4, 4]


@pytest.mark.parametrize("damage", ["", "{", "[]"])
def test_damaged_index_is_written_anew(folder, tmp_path, decoded, damage):
    caches = tmp_path / "c"
    load(folder, caches)
    (index,) = caches.glob("*.json")
    text = index.read_text()
    index.write_text(damage)
    load(folder, caches)
    assert decoded == [4]  # the arrays have their own name
    assert len(index.read_text()) == len(text)


def test_cache_that_cannot_be_written_is_a_warning_and_the_pictures_are_used(folder, tmp_path):
    (tmp_path / "c").write_text("where a folder should be")
    with pytest.warns(RuntimeWarning, match="cannot cache") as warned:
        arrays = load(folder, tmp_path / "c")
    assert arrays["images"].shape == (4, 4, 4, 3)
    assert all("\n" not in str(warning.message) for warning in warned)


def test_cache_is_in_the_data_dir_or_in_the_users_folder(folder, tmp_path, monkeypatch):
    location = names.parse(f"folder:{folder}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    assert store.cache_folder(None, location) == tmp_path / "user" / "kdjax" / "images"
    chosen = store.cache_folder(tmp_path / "data", location)
    assert chosen.is_relative_to(tmp_path / "data")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert store.cache_folder("", location) == tmp_path / ".cache" / "kdjax" / "images"


@pytest.mark.parametrize("inside", ["", "cats"])
def test_nothing_is_written_beside_the_pictures(folder, inside):
    with pytest.raises(InputError, match="data_dir"):
        store.cache_folder(folder / inside, names.parse(f"folder:{folder}"))
