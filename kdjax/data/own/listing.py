"""A listing of own images: their classes, splits and groups, before any image is decoded."""

import difflib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import PIL.Image

from kdjax.errors import InputError, nearest_name

SPLITS = ("train", "dev", "calibration", "test")
# Other names of the splits, only for suggestions.
_SYNONYMS = {
    **dict.fromkeys(("val", "valid", "validation", "validate", "development"), "dev"),
    "training": "train",
    **dict.fromkeys(("testing", "eval", "evaluation", "holdout"), "test"),
    **dict.fromkeys(("cal", "calib"), "calibration"),
}


class Header(NamedTuple):
    """What is known of an image before it is decoded.

    Attributes:
        digest: of its content; equal for equal contents.
        mode: of Pillow; "" if the image cannot be opened.
        error: why it cannot be opened; "" if it can.
    """

    digest: str
    mode: str
    error: str


class Images(Protocol):
    """The images of a listing, by their number in it."""

    def stamp(self, number: int) -> str:
        """Returns a text that changes whenever the image is written; "" without a file."""

    def header(self, number: int) -> Header:
        """Returns the header of an image."""

    def open(self, number: int, digest: str) -> PIL.Image.Image:
        """Returns the image with this digest of `header`, not decoded yet.

        Raises:
            InputError: if it is gone or was changed.
        """


class Example(NamedTuple):
    """A labelled image.

    Attributes:
        name: of the image in messages, such as a path relative to the folder.
        label: name of its class.
        split: one of `SPLITS`; the splits that no example has are cut from `train`.
        group: examples of one group stay in one split; "": not in a group.
        subgroup: such as the device; examples of one subgroup may be in several splits, and results
            are given for each subgroup; "": in none.
    """

    name: str
    label: str
    split: str = "train"
    group: str = ""
    subgroup: str = ""


class Listing(NamedTuple):
    """Labelled images.

    Attributes:
        title: of the listing in messages, such as `folder:/data/pets`.
        examples: in the order of `images`.
        class_names: by label.
        images: the images of the examples.
        ignored: a sentence about what was found and is not used; "" if there is nothing.
    """

    title: str
    examples: Sequence[Example]
    class_names: tuple[str, ...]
    images: Images
    ignored: str = ""


def class_name(text: str, where: str) -> str:
    """Returns the name of a class in the composed form of Unicode (NFC).

    File systems and editors differ in the form in which they store letters with accents.

    Args:
        text: the name as it was read.
        where: what it names, for the message.

    Raises:
        InputError: if it is empty, has a control character, or is not valid Unicode.
    """
    name = unicodedata.normalize("NFC", text)
    if not name.strip():
        raise InputError(f"{where}: the label is empty")
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
        raise InputError(
            f"{where}: the label {name!r} has a control character or invalid bytes; rename it"
        )
    return name


def order_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Returns the names of the classes by label: numbers by value, other names by code point."""
    unique = sorted(set(names))
    if all(name.isascii() and name.isdigit() for name in unique):
        unique.sort(key=lambda name: (int(name), name))
    return tuple(unique)


def split_name(text: str, where: str) -> str:
    """Returns the name of a split; `train` for an empty one.

    Raises:
        InputError: for an unknown name, with the nearest one.
    """
    if text in SPLITS or not text:
        return text or "train"
    near = nearest_split(text)
    hint = f": did you mean {near!r}? Valid" if near else "; valid"
    raise InputError(f"{where}: unknown split {text!r}{hint}: {', '.join(SPLITS)}")


def nearest_split(text: str) -> str | None:
    """Returns the split that another name probably means; None if there is none."""
    lowered = text.strip().lower()
    return _SYNONYMS.get(lowered) or nearest_name(lowered, SPLITS)


def is_like_a_split(text: str) -> bool:
    """Returns whether a name is that of a split, or nearly so."""
    lowered = text.strip().lower()
    near = difflib.get_close_matches(lowered, SPLITS, n=1, cutoff=0.8)
    return bool(near) or lowered in _SYNONYMS


def split_word(text: str) -> str | None:
    """Returns the split of which a name has the word, such as train of `training_set2`, or None."""
    words = re.findall(r"[^\W\d_]+", text)
    return next((nearest_split(word) for word in words if is_like_a_split(word)), None)


def check(listing: Listing) -> Listing:
    """Returns the listing if it can be trained on.

    Raises:
        InputError: if it has fewer than two classes, a class without an image, no training
            image, or a class only in other splits than train.
    """
    labels = {example.label for example in listing.examples}
    if empty := [name for name in listing.class_names if name not in labels]:
        raise InputError(f"{listing.title}: class {empty[0]!r} has no image")
    if len(labels) < 2:
        raise InputError(
            f"{listing.title}: {len(labels)} class"
            f"{f' ({next(iter(labels))!r})' if labels else 'es'}: must be at least 2"
        )
    trained = {example.label for example in listing.examples if example.split == "train"}
    if missing := [name for name in listing.class_names if name not in trained]:
        raise InputError(
            f"{listing.title}: class {missing[0]!r} has images in other splits, but none in train"
        )
    return listing
