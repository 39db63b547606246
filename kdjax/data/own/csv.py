"""Own images in a CSV file: columns path and label; optionally split, group and subgroup."""

import csv
import difflib
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kdjax.data.own.contents import Files
from kdjax.data.own.listing import Example, Listing, class_name, order_classes, split_name
from kdjax.errors import InputError

REQUIRED, OPTIONAL = ("path", "label"), ("split", "group", "subgroup")
_DELIMITERS = (",", ";", "\t")


def read(path: pathlib.Path) -> Listing:
    """Returns the listing of a CSV file.

    Column `path` is relative to the folder of the file and stays within it; `label` is the name of
    the class; `split` is train (also if empty), dev, calibration or test; images of one `group`
    stay in one split; those of one `subgroup` need not, and promises are made for each. Other
    columns are not read. The columns are separated by a comma, a semicolon or a tab.

    Args:
        path: an existing file, UTF-8.

    Raises:
        InputError: naming the row, for a missing column or an invalid value; for a path that is
            repeated or leads out of the folder.
    """
    title = f"csv:{path}"
    rows: dict[pathlib.Path, tuple[int, Example]] = {}
    for number, values in _rows(title, path):
        where = f"{title}, line {number}"
        file = _file(path.parent, values["path"], where)
        if file in rows:
            raise InputError(f"{where}: path {values['path']!r} is that of line {rows[file][0]}")
        rows[file] = number, _example(values, where)
    if not rows:
        raise InputError(f"{title}: no rows below the header")
    examples = [example for _, example in rows.values()]
    return Listing(
        title,
        examples,
        order_classes(example.label for example in examples),
        Files(title, list(rows), [example.name for example in examples]),
    )


def _example(values: Mapping[str, str], where: str) -> Example:
    return Example(
        values["path"],
        class_name(values["label"], where),
        split_name(values.get("split", ""), where),
        values.get("group", ""),
        values.get("subgroup", ""),
    )


def _file(folder: pathlib.Path, text: str, where: str) -> pathlib.Path:
    """Returns the path of an image, without `..`."""
    if not text or "\0" in text:
        raise InputError(f"{where}: path {text!r} is not a path")
    file = pathlib.Path(os.path.normpath(folder / text))
    if not file.is_relative_to(os.path.normpath(folder)):
        raise InputError(
            f"{where}: path {text!r} leads out of the folder of the file: put the file above all "
            "images"
        )
    return file


def _rows(title: str, path: pathlib.Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields the line number and the stripped values by column of each row."""
    reader: Any = None
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            delimiter = max(_DELIMITERS, key=header.count)
            columns = _columns(title, next(csv.reader([header], delimiter=delimiter), []))
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            for values in reader:
                if not any(value.strip() for value in values):
                    continue
                number = reader.line_num + 1
                if len(values) != len(columns):
                    raise InputError(
                        f"{title}, line {number}: {len(values)} values, but the header has "
                        f"{len(columns)}"
                    )
                yield (
                    number,
                    {name: value.strip() for name, value in zip(columns, values, strict=True)},
                )
    except UnicodeDecodeError as error:
        raise InputError(f"{title}: not a text file in UTF-8: {error.reason}") from error
    except csv.Error as error:
        line = reader.line_num + 1 if reader else 1
        raise InputError(f"{title}, line {line}: {error}") from error
    except OSError as error:
        raise InputError(f"{title}: cannot be read: {error.strerror}") from error


def _columns(title: str, header: Sequence[str]) -> list[str]:
    """Returns the names of the columns in lower case.

    Raises:
        InputError: if a column is missing or repeated, or nearly has the name of an optional one.
    """
    columns, known = [name.strip().lower() for name in header], (*REQUIRED, *OPTIONAL)
    for name in known:
        # An optional column that is not given must not be guessed from one with another meaning,
        # such as `site` or `age_group`.
        cutoff = 0.6 if name in REQUIRED else 0.8
        near = difflib.get_close_matches(name, set(columns) - set(known), n=1, cutoff=cutoff)
        if columns.count(name) > 1:
            raise InputError(f"{title}: the header has column {name!r} twice")
        # A column that is nearer to another name is reported with that one.
        if (
            name not in columns
            and near
            and difflib.get_close_matches(near[0], known, n=1) == [name]
        ):
            raise InputError(f"{title}: unknown column {near[0]!r}: did you mean {name!r}?")
        if name in REQUIRED and name not in columns:
            raise InputError(
                f"{title}: no column {name!r}; the first line must name the columns "
                f"{', '.join(REQUIRED)} and optionally {', '.join(OPTIONAL)}, and has "
                f"{', '.join(columns) or 'nothing'}"
            )
    return columns
