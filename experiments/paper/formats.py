"""The comparison as Markdown, CSV and LaTeX."""

import csv
import io
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.paper import claims, collect
from experiments.paper.table import (
    COMPARED,
    Cells,
    Row,
    differences,
    judged,
    pairs,
    per_metric,
    read,
    references,
)

CSV_COLUMNS = ("data", "setting", *Row._fields, "split", "metric", "seeds", "mean", "deviation")


def markdown(out: pathlib.Path) -> str:
    """Returns the tables of all result files in a folder, as Markdown."""
    groups, records = read(out)
    parts = [claims.section(groups)]
    for (data, setting), rows in groups.items():
        jobs = [r for r in records if (r["job"]["data"], r["job"]["setting"]) == (data, setting)]
        parts += [f"## {data}, setting {setting}", _teachers(jobs), _metrics(rows)]
        parts += [_differences(rows, reference) for reference in references(rows)]
        parts.append(
            "Commands:\n\n```text\n" + "\n".join(sorted({r["command"] for r in jobs})) + "\n```"
        )
    return "\n\n".join(parts) + "\n"


def _teachers(records: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table of the teachers: accuracy, and their errors on the training images."""
    lines = [
        "| teacher | seed | test accuracy % | wrong on train | wrong on train % |",
        "|---|---|---|---|---|",
    ]
    for record in records:
        teacher = record["teacher"]
        if not teacher:
            continue
        train = teacher["correction"]
        lines.append(
            f"| {record['job']['teacher']} | {record['job']['seed']} | "
            f"{100 * teacher['test']['accuracy']:.2f} | {train['wrong']:,} of "
            f"{train['examples']:,} | {100 * train['wrong'] / train['examples']:.2f} |"
        )
    return "\n".join(lines)


def _metrics(rows: Mapping[Row, Cells]) -> str:
    """Returns the table of metrics on dev and test: mean and standard deviation over seeds."""
    values = {
        row: {split: per_metric(cells, split) for split in collect.SPLITS}
        for row, cells in rows.items()
    }
    names = [
        (split, name) for split in collect.SPLITS for name in next(iter(values.values()))[split]
    ]
    lines = [
        _line([*row, *(mean_sd(values[row][split][name]) for split, name in names)])
        for row in sorted(rows, key=lambda row: float(np.mean(values[row]["dev"]["AURC x 1000"])))
    ]
    heads = [*Row._fields, *(f"{split} {name}" for split, name in names)]
    return "\n".join([_line(heads), "|" + "---|" * len(heads), *lines])


def _differences(rows: Mapping[Row, Cells], reference: Row) -> str:
    """Returns the paired differences of all rows with the reference's views on test."""
    title = f"{reference.method}{f' ({reference.teacher})' if reference.teacher else ''}"
    lines = [
        f"Differences from {title} on test, both with views {reference.views}: mean over seeds, "
        "[95 % interval over test images], ± standard deviation over seeds",
        "",
        _line(["method", "teacher", *COMPARED]),
        "|" + "---|" * (2 + len(COMPARED)),
    ]
    for row in judged(rows):
        if row == reference:
            continue
        cells = [
            f"{np.mean(estimate):+.2f} [{low:+.2f}, {high:+.2f}] ± {_deviation(estimate):.2f}"
            for estimate, low, high in differences(pairs(rows, row, reference)).values()
        ]
        lines.append(f"| {row.method} | {row.teacher} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def mean_sd(values: Sequence[float]) -> str:
    """Returns mean and standard deviation, such as `6.02 ± 0.11`; of one value the value."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"


def _deviation(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def as_csv(out: pathlib.Path) -> str:
    """Returns every metric of every network, one a line: mean and deviation over seeds."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for group, rows in read(out)[0].items():
        for row in sorted(rows):
            for split in collect.SPLITS:
                for name, values in per_metric(rows[row], split).items():
                    deviation = np.std(values, ddof=1) if len(values) > 1 else ""
                    spread = (len(values), np.mean(values), deviation)
                    writer.writerow([*group, *row, split, name, *spread])
    return text.getvalue()


def latex(out: pathlib.Path) -> str:
    """Returns a table of methods x metrics on test for each data set and setting (booktabs).

    Mirror views, the score that was chosen on dev; the best mean of a column is bold.
    """
    return "\n".join(_tabular(*group, rows) for group, rows in read(out)[0].items())


def _tabular(data: str, setting: str, rows: Mapping[Row, Cells]) -> str:
    values = {row: per_metric(rows[row], "test") for row in judged(rows)}
    names = list(next(iter(values.values())))
    best = {
        name: _best(name, [float(np.mean(each[name])) for each in values.values()])
        for name in names
    }
    lines = [
        _latex_line(
            [row.method, row.teacher, *(_latex_cell(each[name], best[name]) for name in names)]
        )
        for row, each in values.items()
    ]
    return "\n".join(
        [
            f"% {data}, setting {setting}: mean \\pm standard deviation over seeds, test",
            "\\begin{tabular}{ll" + "r" * len(names) + "}",
            "\\toprule",
            _latex_line(["method", "teacher", *names]),
            "\\midrule",
            *lines,
            "\\bottomrule",
            "\\end{tabular}",
            "",
        ]
    )


def _best(name: str, means: Sequence[float]) -> float:
    return max(means) if name.startswith("accuracy") else min(means)


def _latex_cell(values: Sequence[float], best: float) -> str:
    text = mean_sd(values).replace("±", "\\pm")
    return f"$\\mathbf{{{text}}}$" if float(np.mean(values)) == best else f"${text}$"


def _latex_line(cells: Iterable[str]) -> str:
    escaped = (cell.replace("_", "\\_").replace("%", "\\%") for cell in cells)
    return " & ".join(escaped) + r" \\"
