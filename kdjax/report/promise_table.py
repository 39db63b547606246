"""The result of labelled images on the terminal: a table by class, and the verdict."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kdjax.report import classes, terminal

TITLE = "By class: coverage of its images, and selective risk of those that are accepted as it"
COLUMNS = (
    "class",
    "images",
    "accepted",
    "coverage %",
    "accepted as it",
    "wrong",
    "risk %",
    "interval %",
)


def show(report: Mapping[str, Any]) -> None:
    """Prints the table by class, coverage, selective risk, warnings and the verdict.

    Args:
        report: of `kdjax.predict.promise_check.report`.
    """
    terminal.show_report(TITLE, COLUMNS, class_rows(report), summary(report))


def class_rows(report: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yields the cells of `COLUMNS`: coverage of the images of a class, risk of its predictions.

    Args:
        report: of `kdjax.predict.promise_check.report`.
    """
    true, predicted = report["true"], report["predicted"]
    for i, name in enumerate(report["classes"]):
        yield (
            name,
            f"{true['examples'][i]:,}",
            f"{true['accepted'][i]:,}",
            terminal.percent(true["coverage"][i]),
            f"{predicted['accepted'][i]:,}",
            f"{predicted['errors'][i]:,}",
            terminal.percent(predicted["risk"][i]),
            _interval((predicted["risk_low"][i], predicted["risk_high"][i]))
            if predicted["accepted"][i]
            else "-",
        )


def summary(report: Mapping[str, Any]) -> Iterator[str]:
    """Yields the lines below the table; the last one is the verdict.

    Args:
        report: of `kdjax.predict.promise_check.report`.
    """
    level = f"{100 * report['level']:g} % interval"
    yield (
        f"coverage: {terminal.percent(report['coverage'])} % ({report['accepted']:,} of "
        f"{report['examples']:,} images), {level} {_interval(report['coverage_interval'])} %"
    )
    if report["accepted"]:
        yield (
            f"selective risk: {terminal.percent(report['risk'])} % ({report['errors']:,} wrong of "
            f"{report['accepted']:,} accepted), {level} {_interval(report['risk_interval'])} %"
        )
    for name, count in report["unknown"].items():
        yield f"note: the model has no class {name!r}: {count:,} images, wrong if accepted"
    yield from classes.warning_lines(report["warnings"], "--json prints all of them")
    yield report["verdict"]


def _interval(bounds: Sequence[float]) -> str:
    return f"{terminal.percent(bounds[0])} to {terminal.percent(bounds[1])}"
