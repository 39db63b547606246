"""The tables of a data set and setting, as text; `formats` writes them as Markdown or LaTeX."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.paper import collect, payoffs, plan
from experiments.paper.published import PUBLISHED
from experiments.paper.table import (
    ACCURACY,
    AURC,
    ERRORS,
    METRICS,
    Cells,
    Difference,
    Group,
    Row,
    metrics,
)

# Methods from which the differences of all others are shown.
REFERENCES = ("kd", "gambler")
COMPARED = (ACCURACY, AURC, ERRORS[0.9], ERRORS[0.8])
LABELS = ("method", "teacher")
FEW = 8  # lines of the ranking on dev
NONE = "-"
DESCRIPTION = "mean on test (for description only; nothing was chosen by it)"


class Table(NamedTuple):
    """A table of text.

    Attributes:
        title: what it shows, a sentence without its full stop.
        columns: heads; those of `LABELS`, `views`, `score` and the like are words, all others
            numbers.
        rows: cells.
        words: number of columns with words, the first ones.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = len(LABELS)


def of_group(group: Group) -> list[Table]:
    """Returns all tables of a data set and setting except those of `every_metric`; none empty."""
    tables = [
        teachers(group),
        at_coverage(group, collect.CHOSEN),
        at_coverage(group, collect.RESERVATION),
        published(group),
        on_dev(group),
        by_payoff(group),
        by_teacher(group),
        by_views(group),
        baselines(group),
        *(differences(group, method) for method in REFERENCES),
    ]
    return [table for table in tables if table.rows]


def teachers(group: Group) -> Table:
    """Returns the accuracy of each teacher, its errors on train, and what was adjusted."""
    seeds: dict[tuple[str, ...], list[int]] = {}
    for record in group.records:
        if record.get("teacher"):
            job = record["job"]
            cells = (word(job["teacher"]), *_teacher_cells(record["teacher"]))
            seeds.setdefault(cells, []).append(job["seed"])
    rows = [[kind, ", ".join(map(str, sorted(of))), *cells] for (kind, *cells), of in seeds.items()]
    columns = ["teacher", "of seeds", "dev accuracy %", "test accuracy %"]
    columns += ["wrong on train", "wrong on train %", "adjusted on train"]
    title = "Teachers"
    if any(row[0] == word(plan.OUT_OF_FOLD) for row in rows):
        title += (
            f". Accuracies of out-of-fold teachers are those of the average of all {plan.FOLDS} "
            "networks; each training image is taught by the one network, trained on "
            f"{plan.FOLDS - 1}/{plan.FOLDS} of the images, that has not seen it"
        )
    return Table(title, columns, rows, 2)


def _teacher_cells(teacher: Mapping[str, Any]) -> list[str]:
    train = teacher["correction"]
    return [
        *(f"{100 * teacher[split]['accuracy']:.2f}" for split in collect.SPLITS),
        f"{train['wrong']:,} of {train['examples']:,}",
        f"{100 * train['wrong'] / train['examples']:.2f}",
        NONE if train["adjusted"] is None else f"{train['adjusted']:,}",
    ]


def at_coverage(group: Group, score: str) -> Table:
    """Returns the error on test at each coverage and the AURC, by one score."""
    rows = group.judged(score)
    names = (ACCURACY, *ERRORS.values(), AURC)
    ours = [row for row in rows if row.is_ours]
    best = {name: group.best(ours, "test", name) for name in names if ours}
    lines = []
    for row in rows:
        cells = [_mean_sd(group, row, name, bold=best.get(name) == row) for name in names]
        lines.append([*_labels(row), *cells])
    by = "the score that dev chose" if score == collect.CHOSEN else "the reservation, 1 - q_a"
    title = f"Error on test at each coverage by {by}{_over_seeds(group)}"
    columns = [*LABELS, "error % at 100 % coverage", *(f"{100 * c:g} %" for c in ERRORS), AURC]
    return Table(f"{title}; bold: lowest {DESCRIPTION} among the networks of kdjax", columns, lines)


def published(group: Group) -> Table:
    """Returns figures of other networks below those of ours with the best AURC on dev."""
    rows = [row for row in group.judged() if row.is_ours]
    others = PUBLISHED.get(group.data, ()) if rows else ()
    lines = []
    if others:
        row = group.best(rows, "dev", AURC)
        names = (ACCURACY, *ERRORS.values(), AURC)
        ours = [_mean_sd(group, row, name) for name in names]
        lines.append([f"{row.method}{with_teacher(row)}", "ours", "this page", *ours])
    for each in others:
        errors = (each.errors.get(coverage) for coverage in (100, 95, 90, 80, 70))
        cells = map(_number, (*errors, each.aurc))
        lines.append([each.method, each.network, each.source, *cells])
    columns = ["method", "network", "source", "error % at 100 % coverage"]
    columns += [*(f"{100 * coverage:g} %" for coverage in ERRORS), AURC]
    title = (
        "Results of other networks and training budgets: as published, or measured here with "
        "published weights. Our networks use mirror views and were trained without the dev and "
        "calibration splits; the others use no mirror views unless stated"
    )
    return Table(title, columns, lines, 3)


def on_dev(group: Group) -> Table:
    """Returns the networks with the lowest AURC on dev, mirror views or not, with their scores."""
    rows = ranked_on_dev(group)
    lines = [
        [
            *_labels(row),
            row.views,
            ", ".join(_chosen_scores(group, row)) or NONE,
            *(mean_sd(group.values(row, split)[AURC]) for split in collect.SPLITS),
            mean_sd(group.values(row, "dev")[ACCURACY]),
            str(len(group.values(row, "dev")[AURC])),
        ]
        for row in rows[:FEW]
    ]
    columns = [*LABELS, "views", "score chosen on dev", "dev AURC x 1000", "test AURC x 1000"]
    columns += ["dev accuracy %", "seeds"]
    return Table("The networks with the lowest AURC on dev", columns, lines, 4)


def ranked_on_dev(group: Group) -> list[Row]:
    """Returns our networks with the score that dev chose, the lowest mean AURC on dev first."""
    rows = [row for row in group.rows if row.score == collect.CHOSEN and row.is_ours]
    return sorted(rows, key=lambda row: group.mean(row, "dev", AURC))


def by_payoff(group: Group) -> Table:
    """Returns the AURC on dev with each payoff, and on test that of the config and the chosen."""
    trained = sorted({payoff for of_row in group.payoffs.values() for payoff in of_row})
    lines = []
    for base, of_row in sorted(group.payoffs.items()):
        row = base.by_dev
        if base.views != "flip" or row not in group.rows:
            continue
        chosen = payoffs.choose(of_row)
        test = (group.values(each, "test", [*chosen])[AURC] for each in (base, row))
        lines.append(
            [
                *_labels(base),
                base.score,
                *(_dev_aurc(of_row.get(payoff, {}), chosen) for payoff in trained),
                ", ".join(f"{payoff:g}" for payoff in chosen.values()),
                *map(mean_sd, test),
                interval(group.differences(row, base)[AURC]),
            ]
        )
    columns = [*LABELS, "score", *(f"dev AURC x 1000: payoff {payoff:g}" for payoff in trained)]
    columns += ["chosen for each seed", "test AURC x 1000: payoff of the config", "chosen"]
    title = "Payoffs: those that dev chose, for each seed, with mirror views"
    return Table(title, [*columns, "difference"], lines, 3)


def _dev_aurc(cells: Cells, seeds: Iterable[int]) -> str:
    return mean_sd([metrics(cells["dev", seed])[AURC] for seed in seeds]) if cells else NONE


def by_teacher(group: Group) -> Table:
    """Returns each method with either teacher, side by side."""
    pairs = []
    for row in group.judged():
        other = row._replace(teacher=plan.IN_SAMPLE)
        if row.teacher == plan.OUT_OF_FOLD and other in group.rows:
            pairs.append(([row.method], other, row))
    words = [word(teacher) for teacher in plan.TEACHERS]
    title = "In-sample and out-of-fold teacher side by side, on test with mirror views"
    return _side_by_side(group, title, ["method"], words, pairs)


def by_views(group: Group) -> Table:
    """Returns each network without and with mirror views, side by side."""
    pairs = []
    for row in group.judged():
        other = row._replace(views="none")
        if other in group.rows:
            pairs.append(([*_labels(row)], other, row))
    title = "Without and with mirror views side by side, on test"
    return _side_by_side(group, title, LABELS, ("none", "flip"), pairs)


def baselines(group: Group) -> Table:
    """Returns networks that were trained in another library beside ours of the same seeds.

    The name of such a method begins with the name of ours, such as `gambler (PyTorch)`.
    """
    pairs = []
    for row in group.judged():
        other = row._replace(method=row.method.partition(" (")[0])
        if other != row and other in group.rows:
            pairs.append(([*_labels(row)], other, row))
    title = "Networks trained in another library beside ours of the same seeds and split, on test"
    return _side_by_side(group, title, LABELS, ("kdjax", "other"), pairs)


def _side_by_side(
    group: Group,
    title: str,
    labels: Sequence[str],
    words: Sequence[str],
    pairs: Iterable[tuple[list[str], Row, Row]],
) -> Table:
    """Returns the metrics of pairs of networks, and second minus first."""
    names = (ACCURACY, ERRORS[0.8], AURC)
    lines = []
    for label, first, second in pairs:
        differences = group.differences(second, first)
        if differences:
            seeds, cells = group.common_seeds(first, second), []
            for name in names:
                values = (group.values(row, "test", seeds) for row in (first, second))
                cells += [mean_sd(value[name]) for value in values]
                cells.append(interval(differences[name]))
            lines.append([*label, *cells])
    columns = [*labels]
    for name in names:
        columns += [f"{name}: {words[0]}", words[1], "difference"]
    return Table(title, columns, lines, len(labels))


def differences(group: Group, method: str) -> Table:
    """Returns the paired differences of all networks from a method on test."""
    lines = []
    for row, by_metric in differences_from(group, method):
        values = (by_metric[name] for name in COMPARED)
        cells = [f"{interval(value)}{_deviation(value)}" for value in values]
        lines.append([*_labels(row), *cells])
    content = (
        "mean over seeds [95 % interval over images and seeds] ± standard deviation over seeds; "
        "without ± of one seed, [95 % interval over images]"
        if len(group.seeds) > 1
        else "one seed [95 % interval over images]"
    )
    title = f"Differences from `{method}` on test, with mirror views; {content}"
    return Table(title, [*LABELS, *COMPARED], lines)


def differences_from(group: Group, method: str) -> list[tuple[Row, Mapping[str, Difference]]]:
    """Returns the paired differences of each judged network from a method."""
    found: list[tuple[Row, Mapping[str, Difference]]] = []
    for row in group.judged():
        other = group.reference(row, method)
        if other and (values := group.differences(row, other)):
            found.append((row, values))
    return found


def every_metric(group: Group, split: str) -> Table:
    """Returns every metric of every network, view and score on a split, best AURC on dev first."""
    rows = sorted(group.rows, key=lambda row: group.mean(row, "dev", AURC))
    lines = [
        [*_labels(row), row.views, row.score]
        + [mean_sd(group.values(row, split)[name]) for name in METRICS]
        for row in rows
    ]
    title = f"Every network on {split}, in the order of the AURC on dev"
    return Table(title, [*LABELS, "views", "score", *METRICS], lines, 4)


def _chosen_scores(group: Group, row: Row) -> list[str]:
    """Returns the names of the scores that dev chose in the seeds of a row."""
    records = group.records
    if row == row.by_dev:
        chosen = payoffs.choose(group.payoffs[row.base])
        records = [
            record
            for record in (*records, *group.payoff_records)
            if payoffs.payoff_of(record) == chosen.get(record["job"]["seed"])
        ]
    return sorted(
        {
            students[row.base.method][row.views]["best_score"]
            for record in records
            if row.base.method in (students := record.get("students", {}))
            and row.teacher in ("", record["job"]["teacher"])
        }
    )


def mean_sd(values: Sequence[float]) -> str:
    """Returns mean and standard deviation, such as `6.02 ± 0.11`; of one value the value."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"


def _mean_sd(group: Group, row: Row, name: str, *, bold: bool = False) -> str:
    """Returns a metric on test; of the accuracy the error, which is what tables show."""
    values = group.values(row, "test")[name]
    text = mean_sd([100 - value for value in values] if name == ACCURACY else values)
    return f"**{text}**" if bold else text


def interval(difference: Difference) -> str:
    """Returns a mean difference and its interval, such as `-0.31 [-0.52, -0.10]`."""
    return f"{difference.mean:+.2f} [{difference.low:+.2f}, {difference.high:+.2f}]"


def _deviation(difference: Difference) -> str:
    several = len(difference.per_seed) > 1
    return f" ± {np.std(difference.per_seed, ddof=1):.2f}" if several else ""


def _over_seeds(group: Group) -> str:
    if len(group.seeds) == 1:
        return "; one seed"
    return "; mean ± standard deviation over seeds, without ± of one seed"


def _labels(row: Row) -> list[str]:
    return [row.method, word(row.teacher)]


def word(teacher: str) -> str:
    """Returns the name of a teacher for a table."""
    return teacher.replace("_", "-") or NONE


def listed(names: Iterable[str]) -> str:
    """Returns names as code, such as `` `ce` and `kd` ``."""
    *first, last = [f"`{name}`" for name in names]
    return f"{', '.join(first)} and {last}" if first else last


def with_teacher(row: Row) -> str:
    """Returns the teacher of a row for a sentence; empty without one."""
    return f" with the {word(row.teacher)} teacher" if row.teacher else ""


def _number(value: Any) -> str:
    return NONE if value is None else f"{value:.2f}"
