"""What is said about own images when they are loaded."""

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


def say(listing: Listing, text: str) -> None:
    """Prints a note to stderr, on the first process of a run."""
    if text and multihost.is_primary():
        print(f"kdjax: note: {listing.title}: {text}", file=sys.stderr, flush=True)
