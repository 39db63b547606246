"""Listings of folders, CSV files and npz files, and one line for each kind of invalid input."""

import os
import pathlib
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from kdjax import data
from kdjax.data.own import csv, folder, npz
from kdjax.data.own.listing import Listing, check
from kdjax.errors import InputError

Make = Callable[..., pathlib.Path]


def rows(listing: Listing) -> list[tuple[str, str, str]]:
    return sorted((example.name, example.label, example.split) for example in listing.examples)


def test_class_folders_with_subfolders_and_any_unicode(make_files: Make) -> None:
    decomposed = unicodedata.normalize("NFD", "Écru")
    names = ("b/x/y/1.png", "b/2.PNG", f"{decomposed}/1.png", "日本 語/1.png", "a👍/😀.png")
    listing = folder.read(make_files(*names, ".hidden/1.png", "__MACOSX/1.png", "b/.3.png"))
    assert listing.class_names == ("a👍", "b", "Écru", "日本 語")
    assert {name for name, _, _ in rows(listing)} == set(names)
    assert {split for _, _, split in rows(listing)} == {"train"}


def test_numbers_as_class_names_are_ordered_by_value(make_files: Make) -> None:
    listing = folder.read(make_files(*(f"{number}/1.png" for number in (10, 2, 1))))
    assert listing.class_names == ("1", "2", "10")


def test_folders_of_splits(make_files: Make) -> None:
    listing = folder.read(
        make_files("train/a/1.png", "train/b/1.png", "test/b/2.png", "dev/a/3.png")
    )
    assert rows(listing) == [
        ("dev/a/3.png", "a", "dev"),
        ("test/b/2.png", "b", "test"),
        ("train/a/1.png", "a", "train"),
        ("train/b/1.png", "b", "train"),
    ]


def test_classes_with_words_of_splits_are_classes(make_files: Make) -> None:
    listing = folder.read(make_files("Train/old/1.png", "Car/new/1.png", "dev board/1.png"))
    assert listing.class_names == ("Car", "Train", "dev board")


def test_labels_from_file_names(make_files: Make) -> None:
    names = ("cat.1.png", "cat.12.png", "oak leaf_003.png", "dog (4).png", "dog-5.png", "eté7.png")
    listing = folder.read(make_files(*names))
    assert listing.class_names == ("cat", "dog", "eté", "oak leaf")
    assert ("dog (4).png", "dog", "train") in rows(listing)


def test_other_files_are_ignored_and_said(make_files: Make) -> None:
    root = make_files("a/1.png", "b/1.png", "loose.png")
    for name in ("README.md", "a/notes.txt", "b/x.raw", "b/.hidden"):
        (root / name).touch()
    listing = folder.read(root)
    assert len(listing.examples) == 2
    assert listing.ignored == (
        "ignored, because they are not images or in no class folder: 3 files"
        " (.txt 1, .raw 1, .png 1)"
    )
    assert folder.read(make_files("a/1.png", "b/1.png", root="others")).ignored == ""


def test_linked_class_folder_is_read(make_files: Make, tmp_path: pathlib.Path) -> None:
    root = make_files("a/1.png", "b/1.png")
    make_files("1.png", "2.png", root="elsewhere")
    (root / "c").symlink_to(tmp_path / "elsewhere")
    assert [name for name, label, _ in rows(folder.read(root)) if label == "c"] == [
        "c/1.png",
        "c/2.png",
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), r"no class folders and no images \(it is empty\)"),
        (("a/1.png",), r"1 class \('a'\): must be at least 2"),
        (("test/a/1.png", "test/b/1.png"), "folder 'test' is a split, but there is no 'train'"),
        (
            ("train/a/1.png", "val/a/1.png"),
            "folder 'val' beside folder 'train'.*rename it to 'dev'",
        ),
        (("train/a/1.png", "Test/a/1.png"), "folder 'Test' beside .*rename it to 'test'"),
        (
            ("Train/a/1.png", "Test/a/1.png"),
            "'Test' looks like a split: rename it to 'test'",
        ),
        (("training/a/1.png", "validation/a/1.png"), "'training' looks like .* it to 'train'"),
        (("training_set/a/1.png", "test_set/a/1.png"), "'test_set' looks like .* it to 'test'"),
        (("Train/a/1.png", "Test/a/1.png", "Extra/a/1.png"), "'Test' looks like .* to 'test'"),
        (("seg_train/a/1.png", "seg_test/a/1.png"), "'seg_test' looks like .* it to 'test'"),
        (
            ("a/train/1.png", "a/val/1.png", "b/train/1.png", "b/val/1.png"),
            "class folder 'a' has folders of splits, such as 'train': .* as train/a",
        ),
        (("test/1.png", "cat/1.png"), "folder 'cat' .*a class must not be named 'test'"),
        (("train/1.png", "test/1.png"), "the folder of split 'train' has no class folders"),
        (
            ("train/a/1.png", "train/b/1.png", "test/c/1.png"),
            "class 'c' has images in other splits, but none in train",
        ),
        (("cat.1.png", "picture.png"), "'picture.png' is not named after its class"),
        (("a\x07/1.png", "b/1.png"), r"the label 'a\\x07' has a control character"),
    ],
)
def test_invalid_folder_raises_with_one_line(
    names: tuple[str, ...], message: str, make_files: Make, tmp_path: pathlib.Path
) -> None:
    root = make_files(*names)
    root.mkdir(exist_ok=True)
    with pytest.raises(InputError, match=message) as raised:
        check(folder.read(root))
    assert "\n" not in str(raised.value) and str(raised.value).startswith(f"folder:{root}")


def test_class_folder_without_pictures_raises(make_files: Make) -> None:
    root = make_files("a/1.png", "b/1.png")
    (root / "c").mkdir()
    (root / "c" / "notes.txt").touch()
    with pytest.raises(InputError, match=r"no image in class folder 'c' \(1 file \(.txt 1\)\)"):
        folder.read(root)


def test_link_to_a_folder_above_raises(make_files: Make) -> None:
    root = make_files("a/1.png", "b/1.png")
    (root / "a" / "loop").symlink_to(root)
    with pytest.raises(InputError, match="a/loop: this link leads to a folder that contains it"):
        folder.read(root)


def test_class_folder_with_invalid_bytes_raises(make_files: Make) -> None:
    root = make_files("a/1.png", "b/1.png")
    (root / "a").rename(root / os.fsdecode(b"\xff\xfe"))
    with pytest.raises(InputError, match="invalid bytes"):
        folder.read(root)


def test_unreadable_folder_raises(make_files: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    root, list_entries = make_files("a/1.png", "b/1.png"), pathlib.Path.iterdir

    def refuse(path: pathlib.Path) -> Any:  # permissions do not bind root
        if path.name == "a":
            raise PermissionError(13, "Permission denied", str(path))
        return list_entries(path)

    monkeypatch.setattr(pathlib.Path, "iterdir", refuse)
    with pytest.raises(InputError, match="a cannot be read: Permission denied"):
        folder.read(root)


def write_csv(folder: pathlib.Path, text: str | bytes) -> pathlib.Path:
    path = folder / "labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_with_any_delimiter_order_of_columns_and_byte_order_mark(
    delimiter: str, tmp_path: pathlib.Path
) -> None:
    lines = [
        ["Label", " split", "width", "path", "group"],
        [" Écru ", "", "3", "x/1.png", "one"],
        ["日本", "test", "4", "./x/../2.png", ""],
        [],
        ["Écru", "dev", "5", '"3, 4; 5.png"' if delimiter != "\t" else "3, 4; 5.png", "one"],
    ]
    text = "\ufeff" + "\r\n".join(delimiter.join(line) for line in lines)
    listing = csv.read(write_csv(tmp_path, text))
    assert listing.class_names == ("Écru", "日本")
    assert [tuple(example) for example in listing.examples] == [
        ("x/1.png", "Écru", "train", "one", ""),
        ("./x/../2.png", "日本", "test", "", ""),
        ("3, 4; 5.png", "Écru", "dev", "one", ""),
    ]
    assert [file.name for file in listing.images.paths] == ["1.png", "2.png", "3, 4; 5.png"]


@pytest.mark.parametrize(
    "name", ["site", "list", "spot", "age_group", "subject_group", "group_id", "split_id"]
)
def test_csv_column_with_another_meaning_is_not_read(name: str, tmp_path: pathlib.Path) -> None:
    listing = csv.read(write_csv(tmp_path, f"path,label,{name}\n1.png,a,train\n2.png,b,x\n"))
    assert [tuple(example) for example in listing.examples] == [
        ("1.png", "a", "train", "", ""),
        ("2.png", "b", "train", "", ""),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column 'path'; the first line must name the columns path, label and .* nothing"),
        ("path,label\n", "no rows below the header"),
        ("file,label\n", "no column 'path'"),
        ("path,lable\n1.png,a\n", "unknown column 'lable': did you mean 'label'"),
        ("path,label,spilt\n1.png,a,\n", "unknown column 'spilt': did you mean 'split'"),
        ("path,label,groups\n1.png,a,\n", "unknown column 'groups': did you mean 'group'"),
        ("path,label,subgroups\n1.png,a,\n", "column 'subgroups': did you mean 'subgroup'"),
        ("path,label,path\n1.png,a,\n", "column 'path' twice"),
        ("path,label\n1.png,a\n2.png\n", "line 3: 1 values, but the header has 2"),
        ("path,label\n1.png,a\n1.png,b\n", "line 3: path '1.png' is that of line 2"),
        ("path,label\n1.png,a\nx/../1.png,a\n", "line 3: path 'x/../1.png' is that of line 2"),
        ("path,label\n../1.png,a\n", "line 2: path '../1.png' leads out of the folder"),
        ("path,label\n/etc/1.png,a\n", "line 2: path '/etc/1.png' leads out of the folder"),
        ("path,label\n,a\n", "line 2: path '' is not a path"),
        ("path,label\n1.png,\n", "line 2: the label is empty"),
        ("path,label\n1.png,a\n2.png,a\n", r"1 class \('a'\): must be at least 2"),
        ("path,label,split\n1.png,a,val\n", "line 2: unknown split 'val': did you mean 'dev'"),
        (
            "path,label,split\n1.png,a,tst\n",
            "unknown split 'tst': did you mean 'test'.*Valid: train",
        ),
        ('path,label\n"1.png,a\n', "line 2|line 3: .*"),
        (b"path,label\n1.png,\xff\xfe\n", "not a text file in UTF-8"),
        ("x" * 200_000, "line 1: field larger than field limit"),
        (b"path,label\n1.png,a\0b\n", "control character|NUL"),
    ],
)
def test_invalid_csv_raises_with_one_line(
    text: str | bytes, message: str, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(InputError, match=message) as raised:
        check(csv.read(write_csv(tmp_path, text)))
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(f"csv:{tmp_path / 'labels.csv'}")


IMAGES = np.zeros((4, 5, 6, 3), np.uint8)
LABELS = np.array([0, 1, 2, 1])


def write_npz(folder: pathlib.Path, arrays: Mapping[str, Any]) -> pathlib.Path:
    np.savez(folder / "set.npz", **arrays)
    return folder / "set.npz"


@pytest.mark.parametrize(
    ("arrays", "classes", "labels"),
    [
        ({"images": IMAGES, "labels": LABELS}, ("0", "1", "2"), ["0", "1", "2", "1"]),
        ({"images": IMAGES[..., 0], "labels": LABELS + 9}, ("9", "10", "11"), None),
        (
            {"images": IMAGES[..., :1], "labels": np.array(["b", "a", "é", "a"])},
            ("a", "b", "é"),
            None,
        ),
        (
            {"images": IMAGES, "labels": LABELS, "class_names": np.array(["z", "é", "a"])},
            ("z", "é", "a"),
            ["z", "é", "a", "é"],
        ),
    ],
)
def test_npz_with_integers_or_names(
    arrays: dict, classes: tuple[str, ...], labels: list[str] | None, tmp_path: pathlib.Path
) -> None:
    listing = check(npz.read(write_npz(tmp_path, arrays)))
    assert listing.class_names == classes
    assert labels is None or [example.label for example in listing.examples] == labels
    image = listing.images.open(3, "")
    channels = (*arrays["images"].shape, 1)[3]
    assert (image.size, image.mode) == ((6, 5), {1: "L", 3: "RGB"}[channels])


def test_npz_with_test_images(tmp_path: pathlib.Path) -> None:
    test = {"test_images": IMAGES[:2], "test_labels": LABELS[:2]}
    listing = npz.read(write_npz(tmp_path, {"images": IMAGES, "labels": LABELS, **test}))
    assert [example.split for example in listing.examples] == ["train"] * 4 + ["test"] * 2
    assert listing.examples[-1].name == "test_images[1]"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None}, "no array 'images': it has labels"),
        ({"labels": None}, "no array 'labels': it has images"),
        ({"lables": LABELS}, "unknown array 'lables': did you mean 'labels'"),
        ({"test_images": IMAGES}, "no array 'test_labels'"),
        ({"test_labels": LABELS}, "no array 'test_images'"),
        ({"images": IMAGES / 255}, "images has dtype float64: must be uint8, values 0 to 255"),
        ({"images": IMAGES.astype(np.int64)}, "images has dtype int64: must be uint8"),
        ({"images": np.zeros((4, 5, 6, 7), np.uint8)}, r"images has shape \(4, 5, 6, 7\): must be"),
        ({"images": IMAGES[0, 0]}, r"images has shape \(6, 3\): must be \[n, h, w\]"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, r"images has shape \(0, 5, 6, 3\)"),
        ({"images": np.array([IMAGES[0], None], object)}, "images has dtype object: must be uint8"),
        ({"labels": LABELS[:3]}, "labels has 3 values for 4 images"),
        ({"labels": LABELS / 2}, "labels has dtype float64"),
        ({"labels": np.eye(4)}, r"labels has dtype float64 and shape \(4, 4\)"),
        ({"labels": LABELS - 1}, "labels has -1: must be >= 0"),
        ({"labels": np.array(["a", None, 1, 2], object)}, "labels has Python objects"),
        ({"labels": LABELS * 0}, r"1 class \('0'\): must be at least 2"),
        ({"class_names": np.array(["a", "b"])}, "labels has 2: must be 0 to 1, as there are 2"),
        ({"class_names": np.array(["a", "b", "c", "d"])}, "class 'd' has no image"),
        ({"class_names": np.array(["a", "b", "b"])}, "class_names has 'b' twice"),
        ({"class_names": LABELS}, "class_names has dtype int64 .*: must be strings"),
        ({"test_images": IMAGES[..., :1], "test_labels": LABELS}, "differ in their channels"),
        (
            {"labels": np.array(list("abac")), "class_names": np.array(["a", "b"])},
            "labels: unknown class 'c'; valid: a, b",
        ),
    ],
)
def test_invalid_npz_raises_with_one_line(
    changes: dict, message: str, tmp_path: pathlib.Path
) -> None:
    arrays = {"images": IMAGES, "labels": LABELS, **changes}
    path = write_npz(tmp_path, {name: value for name, value in arrays.items() if value is not None})
    with pytest.raises(InputError, match=message) as raised:
        check(npz.read(path))
    assert "\n" not in str(raised.value) and str(raised.value).startswith(f"npz:{path}")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 damaged", b"path,label\n"])
def test_file_that_is_not_npz_raises(content: bytes, tmp_path: pathlib.Path) -> None:
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(InputError, match="damaged, or not an npz file"):
        npz.read(tmp_path / "set.npz")


def test_damaged_array_raises(tmp_path: pathlib.Path) -> None:
    path = write_npz(tmp_path, {"images": IMAGES, "labels": LABELS})
    content = bytearray(path.read_bytes())
    place = content.index(b"\x93NUMPY")
    content[place : place + 6] = b"broken"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"set\.npz: damaged: "):
        npz.read(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("stream", [False, True])
def test_damage_behind_the_header_is_one_line(tmp_path, save, stream) -> None:
    """A large array is not read when its file is listed."""
    pixels = np.random.default_rng(0).integers(0, 256, (600, 16, 16), np.uint8)
    path = tmp_path / "set.npz"
    save(path, images=pixels, labels=np.arange(600) % 2)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"^npz:.*set\.npz: damaged: ") as raised:
        data.load(f"npz:{path}", data_dir=tmp_path / "cache", stream=stream)
    assert "\n" not in str(raised.value)
