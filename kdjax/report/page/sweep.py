"""The section of a page about a sweep."""

from collections.abc import Mapping
from typing import Any

from kdjax.evaluation import selection
from kdjax.report import sweep_table
from kdjax.report.page import tables


def section(table: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the variables of the template for a sweep.

    Args:
        table: content of `sweep.json`, see `kdjax.runs.sweeps.read`.
    """
    return {
        "sentences": [sweep_table.choice(table), *selection.NOTES],
        "settings": tables.Table(
            "Settings of the sweep, the best on the development split first (* chosen)",
            ["setting", *sweep_table.COLUMNS],
            sweep_table.settings(table),
            "; ".join(sweep_table.COLUMN_NOTES) + ".",
        ),
        "seeds": tables.Table(
            f"{table['chosen']}, trained again with other seeds",
            ["seed", *sweep_table.COLUMNS],
            sweep_table.seeds(table),
            f"{sweep_table.SEED_NOTE}.",
        )
        if table["seeds"]
        else None,
    }
