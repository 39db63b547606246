"""Tables and lines of text on the terminal, for a log or a text file."""

import textwrap

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

MIN_WIDTH = 100  # characters; below that rich would truncate columns


def show(*parts: RenderableType) -> None:
    """Prints tables and lines, as wide as the widest of them."""
    console = Console(soft_wrap=True)
    unlimited = console.options.update(max_width=1000)
    widths = (Measurement.get(console, unlimited, part).maximum for part in parts)
    console.width = max(console.width, MIN_WIDTH, *widths)
    for part in parts:
        console.print(part)


def table(title: str, *columns: str) -> Table:
    """Returns an empty table; all columns but the first are aligned to the right."""
    empty = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        empty.add_column(column, justify="right" if index else "left")
    return empty


def notes(*texts: str) -> list[Text]:
    """Returns lines of text, wrapped to the width of the tables, not before a percent sign."""
    joined = [note.replace(" %", "\N{NO-BREAK SPACE}%") for note in texts]
    lines = [line for note in joined for line in textwrap.wrap(note, MIN_WIDTH - 10)]
    return [Text(line.replace("\N{NO-BREAK SPACE}", " ")) for line in lines]


def percent(share: float | None) -> str:
    """Returns a share for a column in percent; `-` for None."""
    return "-" if share is None else f"{100 * share:.2f}"
