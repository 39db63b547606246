"""Tables and lines of text on the terminal, for a log or a text file."""

import textwrap
from collections.abc import Iterable, Sequence

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

MIN_WIDTH = 100  # characters; below that rich would truncate columns


def show(*parts: RenderableType) -> None:
    """Prints tables and lines, as wide as the widest of them."""
    # Names and paths of users are no markup, whatever brackets and colons they have.
    console = Console(soft_wrap=True, markup=False, emoji=False)
    unlimited = console.options.update(max_width=1000)
    widths = (Measurement.get(console, unlimited, part).maximum for part in parts)
    console.width = max(console.width, MIN_WIDTH, *widths)
    for part in parts:
        console.print(part)


def show_report(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    lines: Iterable[str],
    *,
    left: int = 1,
) -> None:
    """Prints a table of plain text, and the lines below it as they are.

    Args:
        title: of the table.
        columns: its headings.
        rows: its cells.
        lines: of any length.
        left: number of columns that are aligned to the left.
    """
    filled = table(title, *columns, left=left)
    for cells in rows:
        filled.add_row(*cells)
    show(filled)
    print(*lines, sep="\n")


def table(title: str, *columns: str, left: int = 1) -> Table:
    """Returns an empty table; all columns but the first `left` are aligned to the right."""
    empty = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        empty.add_column(column, justify="left" if index < left else "right")
    return empty


def notes(*texts: str) -> list[Text]:
    """Returns lines of text, wrapped to the width of the tables, not before a percent sign."""
    joined = [note.replace(" %", "\N{NO-BREAK SPACE}%") for note in texts]
    lines = [line for note in joined for line in textwrap.wrap(note, MIN_WIDTH - 10)]
    return [Text(line.replace("\N{NO-BREAK SPACE}", " ")) for line in lines]


def percent(share: float | None) -> str:
    """Returns a share for a column in percent; `-` for None."""
    return "-" if share is None else f"{100 * share:.2f}"
