"""Own images in a folder: one folder for each class, or class folders in folders of splits."""

import pathlib
import re
from collections.abc import Iterator

from kdjax.data import image_files
from kdjax.data.own.contents import Files
from kdjax.data.own.listing import (
    SPLITS,
    Example,
    Listing,
    class_name,
    is_like_a_split,
    nearest_split,
    order_classes,
    split_word,
)
from kdjax.errors import InputError

# The label in names such as `cat.12.jpg`, `oak_leaf-003.png` or `dog (4).jpg`.
_NUMBERED = re.compile(r"(?P<label>.*[^\W_\d].*?)[\s_.()-]*\d+[\s_.()-]*")


def read(path: pathlib.Path) -> Listing:
    """Returns the listing of a folder.

    The folder holds one folder for each class; or folders `train`, and `test`, `dev` and
    `calibration` if given, with the class folders in them; or images that are named after their
    class and numbered. Images may be in subfolders of a class folder.

    Args:
        path: an existing folder.

    Raises:
        InputError: if there is no image, if class folders and folders of splits are mixed, or if
            a folder cannot be read.
    """
    title = f"folder:{path}"
    ignored: list[pathlib.Path] = []
    try:
        folders = image_files.subfolders(path)
        if splits := _split_folders(title, folders):
            files = [entry for split in splits for entry in _split(title, path, split, ignored)]
            ignored += [file for folder in (path, *splits) for file in _loose(folder)]
        elif folders:
            files = list(_classes(title, path, folders, "train", ignored))
            ignored += _loose(path)
        else:
            files = list(_named_files(title, path))
    except OSError as error:
        raise InputError(f"{title}: {error.filename} cannot be read: {error.strerror}") from error
    examples = [example for example, _ in files]
    return Listing(
        title,
        examples,
        order_classes(example.label for example in examples),
        Files(title, [file for _, file in files], [example.name for example in examples]),
        _describe(ignored),
    )


def _describe(ignored: list[pathlib.Path]) -> str:
    if not ignored:
        return ""
    return (
        "ignored, because they are not images or in no class folder: "
        f"{image_files.count_files(ignored)}"
    )


_Found = Iterator[tuple[Example, pathlib.Path]]


def _split_folders(title: str, folders: list[pathlib.Path]) -> list[pathlib.Path]:
    """Returns the folders of splits; none if the folders are those of classes."""
    by_name = {folder.name: folder for folder in folders}
    splits = [by_name[name] for name in SPLITS if name in by_name]
    if not splits:
        _check_classes(title, folders)
        return []
    for other in (folder.name for folder in folders if folder not in splits):
        hint = (
            f"rename it to {nearest_split(other)!r}"
            if is_like_a_split(other)
            else f"a class must not be named {splits[0].name!r}"
        )
        raise InputError(
            f"{title}: folder {other!r} beside folder {splits[0].name!r}, which is a split: must "
            f"be either {', '.join(SPLITS)}, or class folders only; {hint}"
        )
    if "train" not in by_name:
        raise InputError(f"{title}: folder {splits[0].name!r} is a split, but there is no 'train'")
    return splits


def _check_classes(title: str, folders: list[pathlib.Path]) -> None:
    """Raises if folders that would be classes are those of splits, or have folders of splits.

    A folder is taken for a split if all folders are named like one, or if its name has the word for
    one and another folder has a folder of the same name, as splits of the same classes do.
    """
    inside = {folder: {each.name for each in image_files.subfolders(folder)} for folder in folders}
    all_splits = all(is_like_a_split(folder.name) for folder in folders)
    for folder, names in inside.items():
        elsewhere = {name for other in folders if other != folder for name in inside[other]}
        meant = split_word(folder.name)
        if meant and (all_splits or names & elsewhere):
            raise InputError(
                f"{title}: folder {folder.name!r} looks like a split: rename it to {meant!r}; if "
                "it is a class, choose another name"
            )
        if len(names) > 1 and all(map(is_like_a_split, names)):
            split = min(names)
            raise InputError(
                f"{title}: class folder {folder.name!r} has folders of splits, such as {split!r}: "
                f"the folders of splits must be outside, as {nearest_split(split)}/{folder.name}"
            )


def _split(
    title: str, root: pathlib.Path, folder: pathlib.Path, ignored: list[pathlib.Path]
) -> _Found:
    folders = image_files.subfolders(folder)
    if not folders:
        raise InputError(
            f"{title}: the folder of split {folder.name!r} has no class folders: its images must "
            f"be in {folder.name}/CLASS"
        )
    return _classes(title, root, folders, folder.name, ignored)


def _classes(
    title: str,
    root: pathlib.Path,
    folders: list[pathlib.Path],
    split: str,
    ignored: list[pathlib.Path],
) -> _Found:
    """Yields the images of class folders, and adds their other files to `ignored`."""
    for folder in folders:
        name = folder.relative_to(root).as_posix()
        label = class_name(folder.name, f"{title}: folder {name!r}")
        files, others = image_files.list_folder(folder, _raise)
        if not files:
            raise InputError(
                f"{title}: no image in class folder {name!r} ({image_files.count_files(others)})"
            )
        ignored += others
        for file in files:
            yield Example(file.relative_to(root).as_posix(), label, split), file


def _named_files(title: str, root: pathlib.Path) -> _Found:
    """Yields images with the class in their name, such as `cat.12.jpg`."""
    files, others = image_files.list_folder(root, _raise)
    if not files:
        raise InputError(
            f"{title}: no class folders and no images ({image_files.count_files(others)})"
        )
    for file in files:
        match = _NUMBERED.fullmatch(file.stem)
        if not match:
            raise InputError(
                f"{title}: no class folders, and {file.name!r} is not named after its class, as in "
                "'cat.12.jpg': make one folder for each class"
            )
        yield Example(file.name, class_name(match["label"], f"{title}: file {file.name!r}")), file


def _loose(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the images in a folder that are in none of its folders."""
    suffixes = image_files.image_suffixes()
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()
    )


def _raise(error: OSError) -> None:
    raise error
