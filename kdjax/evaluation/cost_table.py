"""The table of the sizes and latencies of networks, as text, for the terminal and for pages."""

from collections.abc import Mapping
from typing import Any

TITLE = "Size and speed of the networks"
COLUMNS = ("", "model", "parameters", "views", "multiply-adds", "ms, 1 image", "ms, 256 images")
BATCH_SIZES = ("1", "256")
# Units of large numbers.
_UNITS = ((10**9, "G"), (10**6, "M"), (10**3, "k"))


def networks_of(costs_by_student: Mapping[str, Mapping[str, Any] | None]) -> dict[str, Any]:
    """Returns an entry of `cost.json` for each network: the teacher's, then the students'.

    Args:
        costs_by_student: `cost.json` of students of one teacher by the name in the table; None
            where there is none.
    """
    known = {name: costs for name, costs in costs_by_student.items() if costs}
    teachers = [costs["teacher"] for costs in known.values() if "teacher" in costs]
    students = {name: costs["student"] for name, costs in known.items() if "student" in costs}
    return {**({"teacher": teachers[0]} if teachers else {}), **students}


def rows(networks: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Returns the cells of `COLUMNS`, a row for each network.

    Args:
        networks: of `networks_of`.
    """
    return [
        [
            name,
            entry["model"],
            f"{entry['parameters']:,}",
            str(entry.get("views", 1)),  # a version without views has not written them
            with_unit(entry["multiply_adds"]),
            *(_milliseconds((entry["latency"] or {}).get(size)) for size in BATCH_SIZES),
        ]
        for name, entry in networks.items()
    ]


def note(machine: str) -> str:
    """Returns what the columns mean."""
    return (
        "views: of an image, over which the logits are averaged. multiply-adds: of the "
        "convolutions and matrix products for one image, over all views. ms: a call from 8-bit "
        f"images to logits, measured on this machine ({machine}); not in a smoke run"
    )


def with_unit(number: int) -> str:
    """Returns a number with three digits and a unit, such as 1.30 G."""
    for size, unit in _UNITS:
        if number >= size:
            value = number / size
            return f"{value:.{max(0, 2 - (value >= 10) - (value >= 100))}f} {unit}"
    return str(number)


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.3g}"
