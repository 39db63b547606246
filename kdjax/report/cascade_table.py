"""The result of a cascade on labelled images, on the terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from kdjax.evaluation import cost_table
from kdjax.evaluation.promises.words import exact_percent, limit, percent_up
from kdjax.predict.cascade_check import ACCEPTED
from kdjax.report import terminal
from kdjax.selective.cascade import FEW_EXAMPLES, threshold_text

COLUMNS = ("passed on %", "wrong %", "at most %", "multiply-adds", "--threshold")


def show(report: Mapping[str, Any]) -> None:
    """Prints the table of thresholds, the lines of `summary`, and the verdict.

    Args:
        report: of `kdjax.predict.cascade_check.report`.
    """
    sure = exact_percent(1 - report["delta"])
    title = f"Shares passed on to the fallback; all rows hold together with {sure} certainty"
    rows = map(_cells, report["cascade"]["rows"])
    terminal.show_report(title, COLUMNS, rows, summary(report), left=0)


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
    risk, point = limit(certificate["risk"]), certificate["point"]
    if point is not None:
        return (
            f"cheapest threshold at which at most {risk} of all answers are wrong, with "
            f"{exact_percent(1 - delta)} certainty: --threshold="
            f"{threshold_text(point['threshold'])}, {_share(point)}"
        )
    if certificate["reason"] == FEW_EXAMPLES:
        return f"no threshold can be certified at {risk}: too few images, even without an error"
    measured = f"{terminal.percent(certificate['first']['risk'])} % of these images"
    if certificate["first"]["risk"] <= certificate["risk"]:
        return (
            f"no threshold can be certified at {risk}: these images are too few for that; the "
            f"fallback errs on {measured}"
        )
    return (
        f"no threshold can be certified at {risk}: the fallback itself errs too often for that, on "
        f"{measured}"
    )


def _rule(point: Mapping[str, Any]) -> str:
    start, answered = point["student_answers"], terminal.percent(point["answered"])
    named = {ACCEPTED: "what it accepts", "all": "everything", "none": "nothing"}
    abstained = "" if point["answered"] == 1 else f", {answered} % are answered"
    return f"the student answers {named.get(start, f'from {start} on')}, {_share(point)}{abstained}"


def _share(point: Mapping[str, Any]) -> str:
    cost = point["multiply_adds"]
    spent = "" if cost is None else f", {cost_table.with_unit(round(cost))} multiply-adds per image"
    return f"{terminal.percent(point['passed_on'])} % are passed on{spent}"


def _cells(point: Mapping[str, Any]) -> tuple[str, ...]:
    cost = point["multiply_adds"]
    return (
        terminal.percent(point["passed_on"]),
        terminal.percent(point["risk"]),
        percent_up(point["risk_bound"]).removesuffix(" %"),
        "-" if cost is None else cost_table.with_unit(round(cost)),
        threshold_text(point["threshold"]),
    )
