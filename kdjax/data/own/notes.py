"""What is said about own images when they are loaded."""

import re
import sys
from collections.abc import Sequence

from kdjax.data.own.listing import Listing
from kdjax.errors import InputError
from kdjax.runtime import multihost

_MAX_ROWS = 100  # of the list


def show_broken(listing: Listing, broken: Sequence[tuple[int, str]], *, strict: bool) -> None:
    """Prints the list of the images that cannot be read.

    Args:
        listing: of the images.
        broken: number and reason of each.
        strict: whether to refuse them.

    Raises:
        InputError: if `strict` and there is one.
    """
    if not broken:
        return
    count = f"{len(broken):,} of {len(listing.examples):,} images cannot be read"
    names = [repr(listing.examples[number].name) for number, _ in broken[:_MAX_ROWS]]
    width = min(max(map(len, names)), 60)
    rows = [f"  {name:{width}}  {why}" for name, (_, why) in zip(names, broken, strict=False)]
    more = [f"  and {len(broken) - _MAX_ROWS:,} more"] if len(broken) > _MAX_ROWS else []
    say(listing, "\n".join([f"{count}{'' if strict else ' and are left out'}:", *rows, *more]))
    if strict:
        raise InputError(
            f"{listing.title}: {count}, such as {names[0]}: {broken[0][1]} (data.strict)"
        )


def show_remarks(listing: Listing, remarks: Sequence[str]) -> None:
    """Prints how many images have something unexpected, and the first of them.

    Args:
        listing: of the images.
        remarks: of each image; "" for none. Those with other numbers in them are counted together.
    """
    rows: dict[str, list[int]] = {}
    for number, remark in enumerate(remarks):
        if remark:
            rows.setdefault(re.sub("[0-9,]+", "", remark), []).append(number)
    for numbers in rows.values():
        name = listing.examples[numbers[0]].name
        more = f" and {len(numbers) - 1:,} more" if len(numbers) > 1 else ""
        say(listing, f"{name!r}{more}: {remarks[numbers[0]]}")


def say(listing: Listing, text: str) -> None:
    """Prints a note to stderr, on the first process of a run."""
    if text and multihost.is_primary():
        print(f"kdjax: note: {listing.title}: {text}", file=sys.stderr, flush=True)
