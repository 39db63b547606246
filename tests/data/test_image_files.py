"""Which files of a folder are pictures."""

import io
import os
import pathlib

import PIL.Image
import pytest

from kdjax.data import image_files
from kdjax.errors import InputError


def write(path: pathlib.Path, content: bytes = b"x") -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def fail(error: OSError) -> None:
    raise error


def names(folder, files):
    return [path.relative_to(folder).as_posix() for path in files]


def test_pictures_and_other_files_are_listed_apart_in_order(tmp_path):
    for name in ("b.PNG", "a.jpg", "cats/z.webp", "cats/notes.txt", "LICENSE", "cats/deep/1.bmp"):
        write(tmp_path / name)
    pictures, others = image_files.list_folder(tmp_path, fail)
    assert names(tmp_path, pictures) == ["a.jpg", "b.PNG", "cats/deep/1.bmp", "cats/z.webp"]
    assert names(tmp_path, others) == ["LICENSE", "cats/notes.txt"]


def test_hidden_files_and_folders_of_archives_are_neither(tmp_path):
    for name in (".a.png", ".git/b.png", "__MACOSX/c.png", "cats/.DS_Store", "d.png"):
        write(tmp_path / name)
    pictures, others = image_files.list_folder(tmp_path, fail)
    assert (names(tmp_path, pictures), others) == (["d.png"], [])
    assert image_files.subfolders(tmp_path) == [tmp_path / "cats"]


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
    write(tmp_path / "elsewhere" / "a.png")
    (tmp_path / "album").mkdir()
    (tmp_path / "album" / "linked").symlink_to(tmp_path / "elsewhere")
    pictures, _ = image_files.list_folder(tmp_path / "album", fail)
    assert names(tmp_path, pictures) == ["album/linked/a.png"]
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "album")
    with pytest.raises(InputError, match="leads to a folder that contains it"):
        image_files.list_folder(tmp_path / "album", fail)


def test_pipe_is_not_a_picture_and_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    pictures, others = image_files.list_folder(tmp_path, fail)
    assert (pictures, names(tmp_path, others)) == ([], ["pipe.png"])
    with pytest.raises(InputError, match="not a file"):
        image_files.open_image(tmp_path / "pipe.png")


def test_folder_that_cannot_be_listed_is_reported_and_left_out(tmp_path, monkeypatch):
    write(tmp_path / "a.png"), write(tmp_path / "locked" / "b.png")
    iterdir, errors = pathlib.Path.iterdir, []

    def listed(path):
        if path.name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(pathlib.Path, "iterdir", listed)
    pictures, _ = image_files.list_folder(tmp_path, errors.append)
    assert names(tmp_path, pictures) == ["a.png"] and len(errors) == 1


def test_common_formats_can_be_decoded_and_films_and_stubs_cannot():
    suffixes = image_files.image_suffixes()
    assert {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".ppm"} <= suffixes
    assert not {".mpg", ".mpeg", ".grib", ".h5", ".txt", ".pdf"} & suffixes
    assert all(suffix == suffix.lower() for suffix in suffixes)


def test_picture_is_opened_from_its_bytes(tmp_path):
    content = io.BytesIO()
    PIL.Image.new("RGB", (4, 3), (9, 8, 7)).save(content, "png")
    picture = image_files.open_image(write(tmp_path / "wrong_suffix.jpg", content.getvalue()))
    assert (picture.size, picture.format, picture.getpixel((0, 0))) == ((4, 3), "PNG", (9, 8, 7))
    with pytest.raises(InputError, match="the file is empty"):
        image_files.open_image(write(tmp_path / "empty.png", b""))
    with pytest.raises(InputError, match="not a file"):
        image_files.open_image(tmp_path)


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ([], "it is empty"),
        (["a.txt"], "1 file (.txt 1)"),
        (["a.txt", "b.TXT", "LICENSE"], "3 files (.txt 2, no suffix 1)"),
        ([f"x.{suffix}" for suffix in "abcdefg"],
         "7 files (.a 1, .b 1, .c 1, .d 1, .e 1, ...)"),
    ],
)  # fmt: skip
def test_files_are_counted_by_suffix(files, text):
    assert image_files.count_files([pathlib.Path(name) for name in files]) == text
