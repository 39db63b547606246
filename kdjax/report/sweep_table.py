"""The table of a sweep as text, for the terminal and for its page."""

from collections.abc import Mapping
from typing import Any

from kdjax import selective
from kdjax.evaluation import selection
from kdjax.report.terminal import percent
from kdjax.training.collapse import LIMIT

Row = Mapping[str, Any]
COLUMNS = (
    "dev\nAURC",
    "dev\nacc. %",
    "dev\nrisk %\nat 90 %",
    "dev\nrisk %\nat 80 %",
    "abstained\n%",
    "test\nAURC",
    "test\nacc. %",
    "test\nrisk %\nat 90 %",
    "test\nrisk %\nat 80 %",
    "score",
)
# Number of the columns for which the terminal has room, after the name.
ON_TERMINAL = 8
# What the columns mean; the second part is in `selection.NOTES`.
COLUMN_NOTES = (
    "AURC times 1,000; risk: selective risk (error among accepted) at 90 % and 80 % coverage; both "
    "with the score that has the lowest AURC on dev",
    "acc.: accuracy; abstained: share of dev on which the abstention output is the largest, "
    f"without a threshold; above {100 * LIMIT:g} % the student has collapsed (!); -: the method "
    "does not train this output",
)
SEED_NOTE = (
    "mean and standard deviation over seeds that had no part in the choice, which therefore does "
    "not make their dev values too good; the order of the images is the same for all seeds"
)


def settings(table: Mapping[str, Any]) -> list[list[str]]:
    """Returns the cells of each setting of `sweep.json`, the best on dev first; *: chosen."""
    return [
        [f"{row['name']}{' *' if row['name'] == table['chosen'] else ''}", *_cells(row)]
        for row in selection.rank(table["settings"], table["metric"])
    ]


def seeds(table: Mapping[str, Any]) -> list[list[str]]:
    """Returns the cells of each seed of the chosen setting, then mean and standard deviation."""
    rows = [[row["name"], *_cells(row)] for row in table["seeds"]]
    if table["mean"] is None:
        return rows
    statistics = {"mean": table["mean"], "standard deviation": table["deviation"]}
    return rows + [[name, *_cells({"score": "", **row})] for name, row in statistics.items()]


def choice(table: Mapping[str, Any]) -> str:
    """Returns which setting was chosen, in a sentence."""
    best = "lowest AURC" if table["metric"] == "aurc" else "highest accuracy"
    return f"Chosen (*) by the {best} on dev among {len(table['settings'])}: {table['chosen']}."


def _cells(row: Row) -> list[str]:
    """Returns the cells of `COLUMNS`."""
    score = row["score"]
    return [
        *_metrics(row["dev"]),
        _abstained(row["dev"]["abstained"]),
        *_metrics(row["test"]),
        selective.display_name(score) if score else "",
    ]


def _metrics(values: Mapping[str, Any]) -> list[str]:
    shares = (values[name] for name in ("accuracy", "error_at_90", "error_at_80"))
    return [_area(values["aurc"]), *map(percent, shares)]


def _area(value: float | None) -> str:
    return "-" if value is None else f"{1000 * value:.2f}"


def _abstained(share: float | None) -> str:
    return f"{percent(share)}{' !' if share is not None and share > LIMIT else ''}"
