"""The worst classes of a run, and its warnings about classes, as text."""

from collections.abc import Mapping, Sequence
from typing import Any

# Headings by the groupings of `kdjax.evaluation.per_class`.
LABELS = {"true": "true class", "predicted": "predicted class"}
COLUMNS = ("", "lowest coverage %", "highest selective risk %")
MAX_WARNINGS = 4  # on the terminal; the report has all of them


def title(classes: Mapping[str, Any]) -> str:
    """Returns the title of the table; `classes` is from `per_class.at_operating_point`."""
    source = classes["threshold_from"]
    threshold = "certified threshold" if source == "certificate" else f"threshold from {source}"
    return f"Worst classes on test at the {threshold}"


def worst(classes: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Returns the cells of `COLUMNS`, a row for each grouping of the images."""
    return [
        (
            label,
            _worst(classes, grouping, "coverage", ("accepted", "examples"), sign=1),
            _worst(classes, grouping, "risk", ("errors", "accepted"), sign=-1),
        )
        for grouping, label in LABELS.items()
    ]


def warning_lines(warnings: Sequence[str], rest: str = "see the report") -> list[str]:
    """Returns the first warnings, and how many more there are, with where the rest is."""
    more = len(warnings) - MAX_WARNINGS
    lines = [f"warning: {warning}" for warning in warnings[:MAX_WARNINGS]]
    return [*lines, f"and {more:,} more warnings: {rest}"] if more > 0 else lines


def _worst(
    classes: Mapping[str, Any], grouping: str, share: str, counts: tuple[str, str], *, sign: int
) -> str:
    """Returns the class with the lowest (sign 1) or highest (sign -1) share, with its counts."""
    rates = classes[grouping]
    defined = [index for index, value in enumerate(rates[share]) if value is not None]
    if not defined:
        return "-"
    index = min(defined, key=lambda index: sign * rates[share][index])
    part, total = (rates[count][index] for count in counts)
    return f"{classes['classes'][index]}: {100 * rates[share][index]:.1f} ({part:,} of {total:,})"
