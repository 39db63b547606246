"""The result of a cascade on labelled images, on the terminal."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kdjax.evaluation import cost_table
from kdjax.evaluation.promises.words import exact_percent, percent_up
from kdjax.report.promise_table import WIDTH
from kdjax.selective.cascade import FEW_EXAMPLES, threshold_text

MAX_CHARACTERS = 9  # of a percentage with all its digits
COLUMNS = ("passed on %", "wrong %", "at most %", "multiply-adds", "--threshold")


def show(report: Mapping[str, Any]) -> None:
    """Prints the table of thresholds, the lines of `summary`, and the verdict.

    Args:
        report: of `kdjax.predict.cascade_check.report`.
    """
    sure = exact_percent(1 - report["delta"])
    table = Table(
        title=f"Shares passed on to the fallback; all rows hold together with {sure} certainty",
        title_justify="left",
        title_style="bold",
    )
    for heading in COLUMNS:
        table.add_column(heading, justify="right")
    for point in report["cascade"]["rows"]:
        table.add_row(*map(Text, _cells(point)))
    # As wide as its columns, also where output is a pipe.
    Console(width=WIDTH, soft_wrap=True).print(table)
    print(*summary(report), sep="\n")


def summary(report: Mapping[str, Any]) -> Iterator[str]:
    """Yields the lines below the table; the last one is the verdict.

    Args:
        report: of `kdjax.predict.cascade_check.report`.
    """
    cascade, images = report["cascade"], report["examples"]
    yield (
        f"alone, the student is wrong on {cascade['student_alone']:,} of {images:,} images, the "
        f"fallback on {cascade['fallback_alone']:,}"
    )
    for name, count in report["unknown"].items():
        yield f"note: the models have no class {name!r}: {count:,} images, wrong if answered"
    if cascade["certificate"]:
        yield _certificate(cascade["certificate"], report["delta"])
    yield f"tested: {_rule(cascade['point'])}"
    yield f"note: {cascade['note']}"
    yield report["verdict"]


def _certificate(certificate: Mapping[str, Any], delta: float) -> str:
    risk, point = _exact(certificate["risk"]), certificate["point"]
    if point is not None:
        return (
            f"cheapest threshold at which at most {risk} of all answers are wrong, with "
            f"{exact_percent(1 - delta)} certainty: --threshold="
            f"{threshold_text(point['threshold'])}, {_share(point)}"
        )
    if certificate["reason"] == FEW_EXAMPLES:
        return f"no threshold can be certified at {risk}: too few images, even without an error"
    return (
        f"no threshold can be certified at {risk}: the fallback itself errs too often for that, on "
        f"{_percent(certificate['first']['risk'])} % of these images"
    )


def _exact(risk: float) -> str:
    """Returns a requested risk as it was given; one that was computed is rounded up."""
    text = exact_percent(risk)
    return text if len(text) <= MAX_CHARACTERS else percent_up(risk)


def _rule(point: Mapping[str, Any]) -> str:
    answers = "the student answers what it accepts"
    if point["answers"] != "accepted":
        start = threshold_text(point["threshold"])
        named = {"all": "the student answers everything", "none": "the student answers nothing"}
        answers = named.get(start, f"the student answers from {start} on")
    abstained = "" if point["answered"] == 1 else f", {_percent(point['answered'])} % are answered"
    return f"{answers}, {_share(point)}{abstained}"


def _share(point: Mapping[str, Any]) -> str:
    cost = point["multiply_adds"]
    spent = "" if cost is None else f", {cost_table.with_unit(round(cost))} multiply-adds per image"
    return f"{_percent(point['passed_on'])} % are passed on{spent}"


def _cells(point: Mapping[str, Any]) -> tuple[str, ...]:
    cost = point["multiply_adds"]
    return (
        _percent(point["passed_on"]),
        _percent(point["risk"]),
        f"{math.ceil(1e4 * point['risk_bound'] - 1e-9) / 100:.2f}",
        "-" if cost is None else cost_table.with_unit(round(cost)),
        threshold_text(point["threshold"]),
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"
