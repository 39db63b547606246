"""What a monitor has seen, on the terminal: a row for each test, and the alarms."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kdjax.evaluation.promises import words
from kdjax.predict.monitoring import percent
from kdjax.report import terminal
from kdjax.selective.monitor import COVERAGE, DRIFT, LEVEL, RISK

COLUMNS = ("test", "watched", "seen", "wealth", "largest", "alarm")
NOTE = (
    f"In brackets: {100 * LEVEL:g} % intervals, in %, which hold at all times together if the "
    "share does not change."
)
_LARGE = 1e6  # wealth from which on only its power of ten is shown


def show(report: Mapping[str, Any], alarms: Sequence[str]) -> None:
    """Prints the table, what is not watched, the alarms and what they mean.

    Args:
        report: of `kdjax.predict.monitoring.report`.
        alarms: a line for each alarm, see `kdjax.predict.monitoring.alarm_line`.
    """
    lines = summary(report, alarms)
    terminal.show_report(title(report), COLUMNS, rows(report), lines, left=3)


def title(report: Mapping[str, Any]) -> str:
    """Returns the numbers of images and labels."""
    last = report["last"]
    time = f", time {last['time']}" if last["time"] else ""
    return (
        f"{report['examples']:,} images, {report['labelled']:,} with a true label; the last one: "
        f"{last['file']}, line {last['line']:,}{time}"
    )


def rows(report: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yields the cells of `COLUMNS` for each test.

    Args:
        report: of `kdjax.predict.monitoring.report`.
    """
    for name, test in report["tests"].items():
        alarm = test["alarm"]
        yield (
            name,
            hypothesis(name, test["bound"]),
            _seen(name, test),
            wealth(test["log_wealth"]),
            wealth(test["max_log_wealth"]),
            f"image {alarm['example']:,}" if alarm else "none",
        )


def hypothesis(name: str, bound: float) -> str:
    """Returns what a test supposes.

    Args:
        name: of the test.
        bound: of its `selective.MonitorStatus`.
    """
    return {
        RISK: f"at most {words.limit(bound)} of accepted wrong",
        COVERAGE: f"at least {words.percent_down(bound)} accepted",
        DRIFT: "confidences as on calibration",
    }[name]


def wealth(log_wealth: float) -> str:
    """Returns a wealth as text, of any size."""
    if log_wealth < math.log(_LARGE):
        return f"{math.exp(log_wealth):.3g}"
    return f"10^{log_wealth / math.log(10):.0f}"


def summary(report: Mapping[str, Any], alarms: Sequence[str]) -> Iterator[str]:
    """Yields the lines below the table; the last one says whether there is an alarm."""
    tests = report["tests"]
    yield (
        f"wealth: an alarm at {report['limit']:.4g} or more; a test alarms falsely with "
        f"probability at most {report['delta'] / len(tests):.3g}, and any of these {len(tests)} "
        f"at most {report['delta']:g}, at whatever time"
        if len(tests) > 1
        else f"wealth: an alarm at {report['limit']:.4g} or more; it is false with probability at "
        f"most {report['delta']:g}, at whatever time"
    )
    yield NOTE
    yield from (f"not watched: {name}: {why}" for name, why in report["not_watched"].items())
    if RISK in tests and not tests[RISK]["size"]:
        yield "risk: no accepted image has a true label, so nothing is known about the risk"
    yield from alarms
    yield (
        "alarm" if report["alarm"] else "no alarm: what was seen is compatible with what is watched"
    )


def _seen(name: str, test: Mapping[str, Any]) -> str:
    if not test["size"]:
        return "nothing"
    if name == DRIFT:
        return f"mean rank {test['mean']:.3f} of {test['size']:,} (0.5 without drift)"
    low, high = (100 * end for end in test["interval"])
    return f"{percent(test['mean'])} of {test['size']:,} ({low:.1f} to {high:.1f})"
