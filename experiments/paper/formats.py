"""The comparison as Markdown, CSV and LaTeX."""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from experiments.paper import collect, tables
from experiments.paper.table import Group, Row
from experiments.paper.tables import Table

CSV_COLUMNS = (
    *("data", "setting", *Row._fields, "split", "metric", "minus"),
    *("seeds", "mean", "deviation", "low", "high"),
)


def markdown(table: Table) -> str:
    """Returns a table with its title as Markdown."""
    alignment = [*["---"] * table.words, *["---:"] * (len(table.columns) - table.words)]
    lines = map(_line, (table.columns, alignment, *table.rows))
    return "\n".join([f"**{table.title}.**", "", *lines])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def folded(table: Table) -> str:
    """Returns a table as Markdown that is hidden until a reader opens it."""
    body = markdown(table).partition("\n\n")[2]
    summary = f"<summary>{table.title}, {len(table.rows)} lines</summary>"
    return f"<details markdown>\n{summary}\n\n{body}\n\n</details>"


def latex(groups: Iterable[Group]) -> str:
    """Returns all tables as LaTeX, for the package booktabs."""
    return "\n".join(
        tabular(f"{group.title}. {table.title}", table)
        for group in groups
        for table in tables.of_group(group)
    )


def tabular(title: str, table: Table) -> str:
    """Returns a table as LaTeX; the title is a comment."""
    numbers = len(table.columns) - table.words
    lines = [
        f"% {title}",
        f"\\begin{{tabular}}{{{'l' * table.words}{'r' * numbers}}}",
        "\\toprule",
        _latex_line(map(_text, table.columns)),
        "\\midrule",
    ]
    for row in table.rows:
        words, cells = row[: table.words], row[table.words :]
        lines.append(_latex_line([*map(_text, words), *map(_cell, cells)]))
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _latex_line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _text(cell: str) -> str:
    return re.sub(r"([_%&#])", r"\\\1", cell)


def _cell(cell: str) -> str:
    """Returns a cell of numbers in math mode, bold as in Markdown; counts and dashes as text."""
    if " of " in cell or not any(map(str.isdigit, cell)):
        return _text(cell)
    text = cell.strip("*").replace("±", "\\pm")
    return f"$\\mathbf{{{text}}}$" if cell.startswith("**") else f"${text}$"


def as_csv(groups: Iterable[Group]) -> str:
    """Returns every metric of every network, and every difference: one a line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for group in groups:
        name = (group.data, group.setting)
        writer.writerows([*name, *line] for line in (*_metrics(group), *_differences(group)))
    return text.getvalue()


def _metrics(group: Group) -> Iterator[list[object]]:
    for row in sorted(group.rows):
        for split in collect.SPLITS:
            for metric, values in group.values(row, split).items():
                yield [*row, split, metric, "", *_spread(values), "", ""]


def _differences(group: Group) -> Iterator[list[object]]:
    for method in tables.REFERENCES:
        for row, found in tables.differences_from(group, method):
            for metric, each in found.items():
                yield [*row, "test", metric, method, *_spread(each.per_seed), each.low, each.high]


def _spread(values: Sequence[float]) -> list[object]:
    """Returns the number of seeds, the mean and the standard deviation."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else ""
    return [len(values), float(np.mean(values)), deviation]
