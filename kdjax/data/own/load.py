"""Loads own images: listing, decoding, duplicates, splits."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from kdjax.data import cache
from kdjax.data.own import csv, folder, npz, splits
from kdjax.data.own.contents import unique_digests
from kdjax.data.own.decoding import Conversion, decode_image
from kdjax.data.own.listing import SPLITS, Header, Listing, check
from kdjax.data.own.names import Location, missing_error
from kdjax.data.own.notes import say, show_broken, show_remarks
from kdjax.data.own.store import Store, cache_folder
from kdjax.data.records import Records
from kdjax.errors import InputError

READERS: dict[str, Callable[..., Listing]] = {
    "folder": folder.read,
    "csv": csv.read,
    "npz": npz.read,
}


class OwnImages(NamedTuple):
    """Own images, cut into splits.

    Attributes:
        name: kind and last part of the path.
        version: hash of pixels, labels, given splits and groups.
        class_names: by label.
        splits: by name, the images, uint8 [n, h, w, c] or `Records`, and the labels, int32 [n].
        groups: by name of the split, the subgroup of each image or, without subgroups, the group,
            str [n], "" for none; None if the images have neither.
        units: of the train images, see `Split`.
        moments: of the train images, see `arrays.moments`.
    """

    name: str
    version: str
    class_names: tuple[str, ...]
    splits: dict[str, tuple[np.ndarray | Records, np.ndarray]]
    groups: dict[str, np.ndarray | None]
    units: np.ndarray | None
    moments: np.ndarray


class Cuts(NamedTuple):
    """How splits that are not given are cut from train; see `splits.cut`.

    Attributes:
        test_fraction: of all images, in (0, 1).
        dev_fraction: of the images outside test, in (0, 1).
        calibration_fraction: the same.
        seed: of the draw, >= 0.
    """

    test_fraction: float
    dev_fraction: float
    calibration_fraction: float
    seed: int


def read_listing(location: Location) -> Listing:
    """Returns the listing of own images.

    Raises:
        InputError: if they are missing or invalid.
    """
    if error := missing_error(location):
        raise error
    return READERS[location.kind](location.path)


def load(
    location: Location,
    *,
    data_dir: str | os.PathLike[str] | None,
    image_size: int,
    resize: str,
    strict: bool,
    cuts: Cuts,
    stream: bool,
) -> OwnImages:
    """Loads own images.

    Args:
        location: of the images.
        data_dir: folder of the cache, by default the user's cache folder.
        image_size: height and width to which all are resized; 0: their own, which must be the same.
        resize: `pad` or `crop`.
        strict: whether to refuse images that cannot be read instead of leaving them out.
        cuts: how splits that are not given are cut.
        stream: whether train, dev and calibration are left on disk.

    Raises:
        InputError: for invalid input of every kind, in one line.
    """
    store_folder = cache_folder(data_dir, location)
    listing = check(read_listing(location))
    store = Store(store_folder, listing)
    headers = store.headers()
    digests = unique_digests(headers)
    conversion = store.conversion(headers, digests, image_size, resize)
    # The arrays of an npz file are in memory at first in any case; later they are read from the
    # cache.
    decoded = store.decoded(digests, conversion, images=not stream or location.kind == "npz")
    show_broken(listing, _broken(headers, digests, decoded), strict=strict)
    show_remarks(listing, _of_images(headers, digests, decoded["remarks"]))
    table = _table(listing, headers, digests, decoded)
    kept = splits.drop_copies_across_splits(table)
    _say_copies(listing, table, kept)
    splits.check_groups(kept, listing.title)
    rows = splits.cut(kept, **cuts._asdict())
    _check_splits(listing, kept, rows)
    parts = {name: kept.take(rows[name]) for name in SPLITS}
    _say_sizes(listing, parts)
    images = _DecodedImages(listing, store, digests, conversion, decoded)
    return OwnImages(
        f"{location.kind}:{location.path.name}",
        _version(listing, kept),
        listing.class_names,
        {
            name: (images.take(part.rows, stream=stream, name=name), part.labels)
            for name, part in parts.items()
        },
        _groups(kept, parts),
        _units(parts["train"]),
        np.asarray(decoded["moments"])[parts["train"].rows],
    )


@dataclasses.dataclass(frozen=True)
class _DecodedImages:
    """The decoded images of a listing, in memory or on disk."""

    listing: Listing
    store: Store
    digests: dict[str, int]
    conversion: Conversion
    decoded: cache.Arrays

    def take(self, rows: np.ndarray, *, stream: bool, name: str) -> np.ndarray | Records:
        """Returns the images of a split, uint8 [n, h, w, c]; of test always an array."""
        images, on_disk = self.decoded.get("images"), stream and name != "test"
        if images is not None and not on_disk:
            return images[rows]
        if images is not None:
            return Records(lambda numbers: images[numbers], rows, self.conversion.shape)
        if name != "test":
            return Records(self._read, rows, self.conversion.shape)
        unique, place = np.unique(rows, return_inverse=True)
        part = dict(self._items[row] for row in unique)
        arrays = self.store.decoded(part, self.conversion, images=True, part=name)
        return arrays["images"][place]

    @functools.cached_property
    def _items(self) -> list[tuple[str, int]]:
        return list(self.digests.items())

    def _read(self, rows: np.ndarray) -> np.ndarray:
        images = np.empty((len(rows), *self.conversion.shape), np.uint8)
        for image, row in zip(images, rows.tolist(), strict=True):
            digest, number = self._items[row]
            pixels = decode_image(self.listing, number, digest, self.conversion)
            if isinstance(pixels, str):  # it could be decoded before
                example = self.listing.examples[number].name
                raise InputError(f"{self.listing.title}: {example!r}: {pixels}")
            image[:] = pixels
        return images


def _broken(
    headers: Sequence[Header], digests: dict[str, int], decoded: cache.Arrays
) -> list[tuple[int, str]]:
    """Returns number and reason of each image that cannot be read."""
    errors = _of_images(headers, digests, decoded["errors"])
    reasons = [header.error or error for header, error in zip(headers, errors, strict=True)]
    return [(number, why) for number, why in enumerate(reasons) if why]


def _of_images(headers: Sequence[Header], digests: dict[str, int], texts: np.ndarray) -> list[str]:
    """Returns the text of the content of each image; "" for those without a readable header."""
    by_digest = dict(zip(digests, texts.tolist(), strict=True))
    return [by_digest.get(header.digest, "") for header in headers]


def _table(
    listing: Listing, headers: Sequence[Header], digests: dict[str, int], decoded: cache.Arrays
) -> splits.Table:
    """Returns the table of the images that can be read, in an order of their contents."""
    places = {digest: row for row, digest in enumerate(digests)}
    broken = {number for number, _ in _broken(headers, digests, decoded)}
    numbers = [number for number in range(len(headers)) if number not in broken]
    examples = [listing.examples[number] for number in numbers]
    labels = {name: label for label, name in enumerate(listing.class_names)}
    rows = np.array([places[headers[number].digest] for number in numbers], np.int64)
    hashes = [bytes(key).hex() for key in np.asarray(decoded["keys"])]
    return splits.ordered(
        splits.Table(
            keys=np.array([hashes[row] for row in rows], np.str_),
            labels=np.array([labels[example.label] for example in examples], np.int32),
            splits=np.array([example.split for example in examples], np.str_),
            groups=np.array([example.group for example in examples], np.str_),
            subgroups=np.array([example.subgroup for example in examples], np.str_),
            rows=rows,
            numbers=np.array(numbers, np.int64),
        )
    )


def _check_splits(listing: Listing, table: splits.Table, rows: dict[str, np.ndarray]) -> None:
    """Raises if a split is empty, or a class has no training image."""
    count = len(table.labels)
    for name in SPLITS:
        if not len(rows[name]):
            raise InputError(
                f"{listing.title}: the {name} split would be empty: {count:,} images, without "
                "those that cannot be read or are copies of images in a later split, are too few "
                "for these groups and fractions (data.test_fraction, data.dev_fraction, "
                "data.calibration_fraction)"
            )
    trained = set(table.labels[rows["train"]].tolist())
    for label, name in enumerate(listing.class_names):
        if label not in trained:
            total = int(np.sum(table.labels == label))
            raise InputError(
                f"{listing.title}: class {name!r} has no image in the train split and "
                f"{total} in all that can be read: add images, or remove the class"
            )


def _groups(table: splits.Table, parts: dict[str, splits.Table]) -> dict[str, np.ndarray | None]:
    """Returns the groups for which results are given: subgroups, else groups, by split."""
    column = "subgroups" if np.any(table.subgroups != "") else "groups"
    present = bool(np.any(getattr(table, column) != ""))
    return {name: getattr(part, column) if present else None for name, part in parts.items()}


def _units(train: splits.Table) -> np.ndarray | None:
    """Returns the number of the unit of each example; None if each is one of its own."""
    units = splits.units_of(train)
    return units if len(np.unique(units)) < len(units) else None


def _say_copies(listing: Listing, table: splits.Table, kept: splits.Table) -> None:
    """Says how many images are equal, and how many of these have different labels."""
    say(listing, listing.ignored)
    if copies := splits.count_copies(table):
        dropped = len(table.keys) - len(kept.keys)
        left_out = f"; {dropped:,} that are also in a later split are left out" if dropped else ""
        say(listing, f"{copies:,} exact copies of other images stay in one split{left_out}")
    if conflicts := splits.conflicting(table):
        first = [listing.examples[number] for number in conflicts[0]]
        names = " and ".join(f"{example.name!r} ({example.label})" for example in first[:2])
        say(listing, f"{len(conflicts):,} images occur with different labels, such as {names}")


def _say_sizes(listing: Listing, parts: dict[str, splits.Table]) -> None:
    total = sum(len(part.labels) for part in parts.values())
    sizes = ", ".join(f"{len(part.labels):,} {name}" for name, part in parts.items())
    say(listing, f"{total:,} images of {len(listing.class_names)} classes: {sizes}")


def _version(listing: Listing, table: splits.Table) -> str:
    """Returns a hash of everything on which splits, images and labels depend."""
    columns = zip(table.keys, table.labels.tolist(), table.splits, table.groups, strict=True)
    lines = [repr(listing.class_names), *(repr(tuple(map(str, row))) for row in columns)]
    if np.any(table.subgroups != ""):  # so that the version of other data sets stays as it was
        lines.append(repr(table.subgroups.tolist()))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
