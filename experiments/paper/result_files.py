"""Reads the result files that `collect` writes."""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments.paper import payoffs, plan, queue_options
from experiments.paper.collect import Ranking
from experiments.paper.table import Group, Row
from kdjax.errors import InputError
from kdjax.objectives import METHODS
from kdjax.runtime import atomic_io

Cell = tuple[str, int]
# Entries of the JSON file of a job that are needed to read its results.
ENTRIES: Mapping[str, type] = {
    "job": dict,
    "command": str,
    "device": str,
    "needs_teacher": dict,
    "teacher": dict,
    "students": dict,
}


def read_record(path: pathlib.Path) -> dict[str, Any]:
    """Returns the content of the JSON file of a finished job.

    Raises:
        InputError: naming the file, if it is damaged or something else.
    """
    record = atomic_io.read_json(path)
    entries = record if isinstance(record, dict) else {}
    wrong = [name for name, kind in ENTRIES.items() if not isinstance(entries.get(name), kind)]
    if not wrong and not _is_job(entries["job"]):
        wrong = ["job"]
    if wrong:
        raise InputError(
            f"{str(path)!r} is no result file of a job: {', '.join(wrong)} missing or wrong"
        )
    try:
        queue_options.parse(entries["command"])
    except ValueError as error:
        raise InputError(f"the command recorded in {str(path)!r} is wrong: {error}") from error
    return entries


def _is_job(entry: Mapping[str, Any]) -> bool:
    allowed = {"data": plan.DATA, "setting": plan.SETTINGS, "teacher": plan.TEACHERS}
    return (
        entry.keys() <= {field.name for field in dataclasses.fields(plan.Job)}
        and all(entry.get(name) in names for name, names in allowed.items())
        and isinstance(entry.get("seed"), int)
    )


def read(out: pathlib.Path) -> list[Group]:
    """Returns the results of all files in a folder, by data set and setting.

    Raises:
        InputError: if there are none, one is damaged or missing, or networks that are compared had
            different settings.
    """
    files: dict[tuple[str, str], list[tuple[pathlib.Path, dict[str, Any]]]] = {}
    for path in sorted(out.glob("*.json")):
        record = read_record(path)
        key = record["job"]["data"], record["job"]["setting"]
        files.setdefault(key, []).append((path, record))
    if not files:
        raise InputError(f"no result files in {str(out)!r}: python -m experiments.paper run")
    keys = sorted(files, key=lambda key: (key[0], plan.SETTINGS.index(key[1])))
    return [_group(*key, files[key]) for key in keys]


def _group(data: str, setting: str, files: Sequence[tuple[pathlib.Path, dict[str, Any]]]) -> Group:
    _check_settings(data, setting, files)
    rows: dict[Row, dict[Cell, Ranking]] = {}
    by_payoff: dict[Row, dict[float, dict[Cell, Ranking]]] = {}
    records = [record for _, record in files if not payoffs.is_changed(record)]
    changed = [record for _, record in files if payoffs.is_changed(record)]
    for path, record in files:
        payoff = payoffs.payoff_of(record) if changed else None
        for row, cell, ranking in _rankings(path, record):
            if not payoffs.is_changed(record):
                rows.setdefault(row, {})[cell] = ranking
            if payoff is not None and row.method in METHODS and plan.has_payoff(row.method):
                by_payoff.setdefault(row, {}).setdefault(payoff, {})[cell] = ranking
    candidates = {
        row: of_row for row, of_row in by_payoff.items() if row in rows and len(of_row) > 1
    }
    rows |= payoffs.chosen_rows(candidates)
    return Group(data, setting, rows, records, candidates, changed)


def _check_settings(
    data: str, setting: str, files: Sequence[tuple[pathlib.Path, Mapping[str, Any]]]
) -> None:
    """Refuses files whose commands had different budgets or fields."""
    job = plan.Job(data, setting, plan.IN_SAMPLE, 0)
    commands = ((path, queue_options.parse(record["command"])) for path, record in files)
    fields_of_files = [
        (path, queue_options.fields(each)) for path, each in commands if each is not None
    ]
    for path, fields in fields_of_files[1:]:
        first, made = fields_of_files[0]
        if fields != made and (different := plan.differences(job, made, fields)):
            raise InputError(
                f"{first.name} and {path.name} had different settings: "
                f"{queue_options.in_words(different)}. Keep them in different folders (--out)"
            )


def _rankings(path: pathlib.Path, record: Mapping[str, Any]) -> Iterator[tuple[Row, Cell, Ranking]]:
    """Yields the rankings of a job, each with its row, and with its split and seed.

    Args:
        path: the JSON file.
        record: its content.
    """
    job, npz = record["job"], path.with_suffix(".npz")
    if not npz.exists():
        raise InputError(
            f"no file {str(npz)!r}: run with the command that is recorded in {path.name!r} writes "
            "it again"
        )
    names = [name for name in atomic_io.npz_names(npz) if name.endswith("/rank")]
    if {name.partition("/")[0] for name in names} != record["needs_teacher"].keys():
        raise InputError(f"{str(npz)!r} does not have the methods of {path.name!r}")
    ranks = atomic_io.read_npz(npz, *names)
    correct = atomic_io.read_npz(npz, *(name.replace("/rank", "/correct") for name in names))
    for name, *of_name in zip(names, ranks, correct, strict=True):
        method, views, score, split, _ = name.split("/")
        teacher = job["teacher"] if record["needs_teacher"][method] else ""
        yield Row(method, teacher, views, score), (split, job["seed"]), Ranking(*of_name)
