"""The page of results, in Markdown."""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from experiments.benchmark.protocol import processor
from experiments.guarantees.rows import Row

_TEXT = """\
# How often guarantees are violated

```
{command}
```

A draw is a calibration split (or a stream of images) from a distribution that is known, so that \
it is known whether what was promised is true. Frequency: the share of draws in which any part of \
the promise was false; it may be at most delta, within two standard errors of the simulation \
(limit). Rows in brackets are for information: there an assumption of the guarantee is wrong, or \
several certificates that hold only alone are looked at together. The distributions: an image has \
a rank u, the most confident at 0, and is an error with the probability that the row names. \
`constant, just above r` makes every certificate of r false; with ties there are only a few \
confidences; the non-monotone ones have more errors among the most confident images. Seed 0, \
{draws:,} draws a row unless the row says otherwise. Processor: {processor}.
"""


class Simulated(NamedTuple):
    """The rows of a simulation, and the seconds that it took."""

    rows: Sequence[Row]
    seconds: float


def markdown(
    results: Mapping[str, Simulated], titles: Mapping[str, str], command: str, draws: int
) -> str:
    """Returns the page.

    Args:
        results: by the name of the simulation.
        titles: of the tables, by the same name.
        command: that made the page.
        draws: of a row.
    """
    lines = [_TEXT.format(command=command, draws=draws, processor=machine())]
    for name, (rows, seconds) in results.items():
        lines += [f"## {titles[name]}", ""]
        lines += ["| setting | delta % | frequency % | limit % | |", "|---|---|---|---|---|"]
        lines += [_line(row, draws) for row in rows]
        lines += ["", f"`--only {name}`, {seconds:.0f} s.", ""]
    return "\n".join(lines)


def machine() -> str:
    """Returns the name of the processor and the number of its cores that may be used."""
    return f"{processor()}, {len(os.sched_getaffinity(0))} cores"


def _line(row: Row, draws: int) -> str:
    other = "" if row.draws == draws else f" ({row.draws:,} draws)"
    frequency = f"{100 * row.frequency:.2f}"
    cells = (
        row.setting + other,
        f"{100 * row.delta:g}",
        frequency if row.assumed else f"[{frequency}]",
        f"{100 * row.limit():.2f}",
        row.note,
    )
    return f"| {' | '.join(cells)} |"
