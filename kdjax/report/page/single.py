"""The report of one run."""

import functools
import operator
import pathlib
import warnings
from typing import Any

import numpy as np

from kdjax import selective
from kdjax.config import leaves
from kdjax.data import Split
from kdjax.report.page import evidence, figures, gallery, html, runs, tables, words
from kdjax.report.page.runs import Run
from kdjax.report.page.verdict import verdict


def write(run: Run, test: Split | None = None, *, out: pathlib.Path | None = None) -> pathlib.Path:
    """Writes the report of a finished run.

    Args:
        run: as `runs.read` returns it.
        test: the images of the galleries; without them, or with others than the run's, there are
            none.
        out: the file [report.html in the workdir].

    Returns:
        The file.

    Raises:
        InputError: if the file cannot be written, or shift.json is damaged.
    """
    path = out or run.folder / "report.html"
    html.save(path, "single.html.jinja", _content(run, _images(run, test)))
    return path


def _images(run: Run, test: Split | None) -> np.ndarray | None:
    if test is not None and not np.array_equal(test.labels, run.test.labels):
        warnings.warn("the test images at hand are not the run's: no galleries", stacklevel=3)
        return None
    return test.images if test else None


def _content(run: Run, images: np.ndarray | None) -> dict[str, Any]:
    """What the template lays out."""
    intervals = figures.intervals(run)
    response = run.confidence["softmax_response"]
    return {
        "run": run,
        "words": words,
        "verdict": verdict(run),
        "score": tables.score(run),
        "tables": {
            "errors": tables.errors(run, intervals),
            "certificates": run.guarantee and tables.certificates(run, run.guarantee),
            "thresholds": tables.thresholds(run),
            "ranking": tables.ranking(run),
            "fields": _fields(run.identity["config"]),
        },
        "risk_coverage": figures.risk_coverage(run, intervals),
        "reliability": figures.reliability(run),
        "bins": evidence.BINS,
        "ece": selective.expected_calibration_error(response, run.right),
        "histograms": figures.histograms(run),
        "correction": _correction(run),
        "confusion": _confusion(run),
        "shift": _shift(run),
        "training": figures.training(run),
        "galleries": None if images is None else _galleries(run, images),
        "versions": html.versions(),
    }


def _correction(run: Run) -> dict[str, Any] | None:
    """How often the teacher was wrong on train; None where there was none."""
    found = run.results.get("correction")
    if found is None:
        return None
    method = run.identity["config"]["objective"]["method"]
    most = [
        f"{run.classes[i]} for {run.classes[j]} ({count:,} images)"
        for i, j, count in found["pairs"][:3]
    ]
    return {
        **found,
        "method": method,
        "adjusted": method.startswith("ka"),
        "in_words": most and words.listed(most),
        "tables": [
            tables.corrected(run, found),
            tables.pairs(run.classes, found, "What it takes them for, most frequent first"),
        ],
    }


def _shift(run: Run) -> dict[str, Any] | None:
    """How the run takes shifted test images and other data; None where that was not tried."""
    found = runs.shift(run.folder)
    if found is None:
        return None
    return {
        **found,
        "figure": figures.shift(found) if found["shifts"] else None,
        "table": tables.shifted(found),
    }


def _confusion(run: Run) -> list[dict[str, Any]]:
    """A matrix or, of many classes, the most frequent pairs; of all images and of the answered."""
    groups = {
        "Answering every test image": np.ones(len(run.right), bool),
        "Among those that it answers": run.accepted,
    }
    readable = len(run.classes) <= tables.MATRIX_CLASSES
    return [
        {
            "title": f"{title}: {(rows & ~run.right).sum():,} of {rows.sum():,} wrong",
            "matrix": tables.matrix(run, rows) if readable else None,
            "pairs": tables.confused(run, rows, f"Most frequent mistakes. {title}"),
        }
        for title, rows in groups.items()
        if rows.any()
    ]


def _galleries(run: Run, images: np.ndarray) -> dict[str, Any]:
    mistakes = gallery.mistakes(run, images)
    return {
        "abstained": gallery.abstained(run, images),
        "mistakes": mistakes,
        "answered": sum(one.answered for one in mistakes),
    }


def _fields(config: dict[str, Any]) -> tables.Table:
    """Every field of the config with its value, by dotted name."""
    values = [
        [name, str(functools.reduce(operator.getitem, name.split("."), config))]
        for name in leaves(config)
    ]
    return tables.Table("config.json", ["field", "value"], values)
