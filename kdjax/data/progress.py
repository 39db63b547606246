"""Progress bar of slow loops over data, on a terminal."""

import sys
from collections.abc import Iterable


def batches(count: int, size: int, description: str) -> Iterable[range]:
    """Returns the ranges of `size` numbers that make up 0..count-1, with a progress bar on stderr.

    Args:
        count: number of items.
        size: items in a batch; the last one may have fewer.
        description: of the loop, such as "decoding digits train".
    """
    ranges = [range(count)[i : i + size] for i in range(0, count, size)]
    if not sys.stderr.isatty():
        return ranges
    import rich.console  # takes time to import, and most data are cached
    import rich.progress

    console = rich.console.Console(stderr=True)
    return rich.progress.track(ranges, description, console=console)
