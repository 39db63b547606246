"""Groups of runs that differ in their seed only, with mean and standard deviation."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kdjax.config_fields import differences
from kdjax.errors import InputError
from kdjax.report.page import formatting, tables
from kdjax.report.page.runs import Run
from kdjax.runs import workdir
from kdjax.runs.workdir import FREE_FIELDS
from kdjax.training.spec import TEACHER

# Fields that runs of one group may differ in: the seeds, the name, and what is not trained.
SEED_FIELDS = ("seed", "order_seed", "name", *FREE_FIELDS)
GIVEN_TEACHER = "teacher.workdir"


def group(runs: Sequence[Run]) -> list[int]:
    """Returns the number of the group of each run, from 0 in the order of their first runs."""
    firsts: list[Run] = []
    numbers = []
    for run in runs:
        same = (number for number, first in enumerate(firsts) if _differ_in_seed_only(first, run))
        number = next(same, len(firsts))
        if number == len(firsts):
            firsts.append(run)
        numbers.append(number)
    return numbers


def _differ_in_seed_only(first: Run, run: Run) -> bool:
    if first.metadata["stage"] != run.metadata["stage"]:
        return False
    others = _other_fields(first.metadata, run.metadata)
    return not others or (others == {GIVEN_TEACHER} and _have_alike_teachers(first, run))


def _other_fields(first: Mapping[str, Any], second: Mapping[str, Any]) -> set[str]:
    """Returns the fields that differ between the configs of two workdirs, without `SEED_FIELDS`."""
    lines = differences(first["config"], second["config"])
    return {line.partition(": ")[0] for line in lines}.difference(SEED_FIELDS)


def _have_alike_teachers(first: Run, run: Run) -> bool:
    """Returns whether the given teachers of two runs differ in their seed only."""
    try:
        found = [workdir.read_metadata(each.folder / TEACHER) for each in (first, run)]
    except InputError:  # a teacher is gone
        return False
    return not _other_fields(*found)


def table(names: Sequence[str], runs: Sequence[Run]) -> tables.Table | None:
    """Returns mean and standard deviation of each group; None if no group has several runs.

    Args:
        names: of the runs.
        runs: the runs, judged by the softmax response.
    """
    numbers = group(runs)
    if len(set(numbers)) == len(runs):
        return None
    rows = []
    for number in range(max(numbers) + 1):
        members = [index for index, other in enumerate(numbers) if other == number]
        rows.append(
            [
                label(names[members[0]], len(members)),
                str(len(members)),
                *(
                    _mean_and_deviation([metric(runs[index]) for index in members])
                    for metric in _METRICS.values()
                ),
            ]
        )
    return tables.Table(
        "Mean over runs that differ in their seed only, on test, in % (AURC times 1,000)",
        ["runs", "seeds", *_METRICS],
        rows,
        "Second lines: standard deviation. All values are of the softmax response.",
    )


def label(first: str, count: int) -> str:
    """Returns the name of a group of `count` runs: that of its first run."""
    return first if count == 1 else f"{first} and {count - 1} more"


def _risk(coverage: str) -> Callable[[Run], float]:
    return lambda run: 100 * run.response_metrics["error_at_coverage"][coverage]


# The columns of the table: a metric of a run by its heading.
_METRICS: Mapping[str, Callable[[Run], float]] = {
    "AURC on dev": lambda run: 1000 * run.response_metrics["dev_aurc"],
    "accuracy": lambda run: 100 * run.results["test"]["accuracy"],
    "AURC": lambda run: 1000 * run.response_metrics["aurc"],
    f"risk at 90{formatting.SPACE}%": _risk("90"),
    f"risk at 80{formatting.SPACE}%": _risk("80"),
}


def _mean_and_deviation(values: Sequence[float]) -> str:
    deviation = f"\n±{formatting.SPACE}{statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"
