"""The report of one run."""

import functools
import operator
import pathlib
import warnings
from typing import Any

import numpy as np

from kdjax import selective
from kdjax.config_fields import field_names
from kdjax.data import Split, deployment_views
from kdjax.evaluation.certification import FALLBACK_COVERAGE, operating_point
from kdjax.evaluation.promises.words import listed
from kdjax.models.user_class import short_name
from kdjax.objectives import METHODS
from kdjax.report import teacher
from kdjax.report.page import classes, figures, formatting, gallery, html, promised, runs, tables
from kdjax.report.page.conclusion import conclude
from kdjax.report.page.runs import Run
from kdjax.runs import workdir

MAX_PAIRS = 3  # pairs of confused classes that are named in a sentence


def write(run: Run, test: Split | None = None, *, out: pathlib.Path | None = None) -> pathlib.Path:
    """Writes the report of a finished run.

    Args:
        run: of `runs.read`.
        test: the test split with the images of the galleries; without it, or if its labels are not
            those of the run, the galleries are left out.
        out: the file to write [report.html in the workdir].

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
        warnings.warn("no galleries: the test split is not that of the run", stacklevel=3)
        return None
    return test.images if test else None


def _content(run: Run, images: np.ndarray | None) -> dict[str, Any]:
    """Returns the variables of the template."""
    intervals = figures.intervals(run)
    return {
        "run": run,
        "formatting": formatting,
        "model_name": short_name(run.metadata["config"][run.metadata["stage"]]["model"]),
        "training_note": _training_note(run),
        "conclusion": conclude(run),
        "promised": promised.section(run.results),
        "score": tables.score(run),
        "tables": {
            "selective_risks": tables.selective_risks(run, intervals),
            "certificates": tables.certificates(run) if run.operating_point.guarantee else None,
            "thresholds": tables.thresholds(run),
            "ranking": tables.ranking(run),
            "sizes": tables.size_and_speed(run),
            "fields": _fields(run.metadata["config"]),
        },
        "risk_coverage": figures.risk_coverage(run, intervals),
        "reliability": figures.reliability(run),
        "bins": selective.BINS,
        "ece": selective.expected_calibration_error(run.response, run.correct),
        "histograms": figures.histograms(run),
        "teacher": _teacher(run),
        "classes": classes.section(run),
        "confusion": _confusion(run),
        "shift": _shift(run),
        "training": figures.training(run),
        "galleries": None if images is None else _galleries(run, images),
        "versions": html.versions(),
    }


def _training_note(run: Run) -> str:
    """Returns the method and the teacher of a student in words; empty for a teacher's run."""
    config = run.metadata["config"]
    if "objective" not in config:
        return ""
    method, views = config["objective"]["method"], _views(run)
    if not METHODS[method].needs_teacher:
        return f"method {method}{views}"
    source = run.results.get("external_teacher")
    name = source["file"] if source else short_name(_teacher_model(run))
    folds = len(run.results.get("correction", {}).get("folds", ()))
    disagreement = run.results.get("disagreement")
    if folds:
        name += f" ({folds} folds)"
    elif disagreement:
        name = f"mean of {disagreement['members']} teachers"
    return f"method {method}, teacher {name}{views}"


def _teacher_model(run: Run) -> str:
    """Returns the `teacher.model` of the teacher's config; that of another run has its own."""
    path = run.folder / "teacher"
    metadata = workdir.read_metadata(path) if (path / "config.json").exists() else run.metadata
    model: str = metadata["config"]["teacher"]["model"]
    return model


def _views(run: Run) -> str:
    """Returns over which views the logits are averaged; empty without views."""
    name = run.results.get("views", deployment_views.NONE)
    if name == deployment_views.NONE:
        return ""
    flip = run.metadata["config"]["data"]["flip"]
    return f"; logits averaged over {deployment_views.describe(name, flip=flip)}"


def _teacher(run: Run) -> dict[str, Any] | None:
    """Returns the teacher's errors on train, and their adjustment; None without a teacher."""
    errors = run.results.get("correction")
    if errors is None:
        return None
    objective = run.metadata["config"]["objective"]
    adjusts = METHODS[objective["method"]].adjusts and objective["adjustment"] != "none"
    fold_rows = teacher.fold_rows(errors)
    most_frequent = [
        f"{run.classes[i]} predicted as {run.classes[j]} ({count:,} images)"
        for i, j, count in errors["pairs"][:MAX_PAIRS]
    ]
    return {
        "examples": errors["examples"],
        "errors": errors["wrong"],
        "method": objective["method"],
        "adjustment": objective["adjustment"].replace("_", " ") if adjusts else None,
        "summary": teacher.errors_sentence(run.results),
        "adjusted": teacher.adjusted_sentence(errors) if adjusts else "",
        "disagreement": teacher.disagreement_sentence(run.results.get("disagreement")),
        "folds": tables.Table(teacher.TITLE, teacher.COLUMNS, fold_rows) if fold_rows else None,
        "most_frequent": most_frequent and listed(most_frequent),
        "tables": [
            tables.teacher_errors(run, errors["by_class"]),
            tables.confused_pairs(
                run.classes, errors["pairs"], "Most frequent errors of the teacher on train"
            ),
        ],
    }


def _shift(run: Run) -> dict[str, Any] | None:
    """Returns the metrics on shifted inputs with figure and table; None without a shift.json.

    It is left out with a warning if it was evaluated at another operating point than the run's.
    """
    shifts = runs.read_shift(run.folder)
    if shifts is None:
        return None
    point = operating_point(run.results, fallback_coverage=FALLBACK_COVERAGE)
    gate = point.gate._asdict() if point.gate else None
    evaluated = shifts.get("score", point.score), shifts["threshold"], shifts.get("gate")
    if evaluated != (point.score, point.threshold, gate):
        what = f"threshold {shifts['threshold']:.6g}, and the run now has {point.threshold:.6g}"
        if evaluated[:2] == (point.score, point.threshold):
            what = f"gate {_gate_name(shifts.get('gate'))}, and the run now has {_gate_name(gate)}"
        warnings.warn(
            f"shift.json of {str(run.folder)!r} is left out of the report: it was evaluated at the "
            f"{what}; {workdir.evaluate_command(run.folder)} --shift=... evaluates it again",
            stacklevel=4,
        )
        return None
    return {
        **shifts,
        "threshold_text": tables.shifted_threshold(shifts),
        "figure": figures.shift(shifts) if shifts["shifts"] else None,
        "table": tables.shifted(shifts),
    }


def _gate_name(gate: dict[str, Any] | None) -> str:
    if gate is None:
        return "none"
    if gate["threshold"] is None:
        return f"{gate['name']}, which stops no image"
    return f"{gate['name']} at {gate['threshold']:.6g}"


def _confusion(run: Run) -> list[dict[str, Any]]:
    """Returns the confusions on all and on accepted images; no matrix if it would be too large."""
    groups = {"All test images": np.ones(len(run.correct), bool), "Accepted images": run.accepted}
    has_matrix = len(run.classes) <= tables.MAX_CLASSES
    return [
        {
            "title": f"{title}: {(rows & ~run.correct).sum():,} of {rows.sum():,} wrong",
            "matrix": tables.confusion_matrix(run, rows) if has_matrix else None,
            "pairs": tables.confusions(run, rows, f"{title}: most frequent errors"),
        }
        for title, rows in groups.items()
        if rows.any()
    ]


def _galleries(run: Run, images: np.ndarray) -> dict[str, Any]:
    errors = gallery.errors(run, images)
    return {
        "abstentions": gallery.abstentions(run, images),
        "errors": errors,
        "accepted_errors": sum(image.accepted for image in errors),
    }


def _fields(config: dict[str, Any]) -> tables.Table:
    """Returns every field of the config with its value, by dotted name."""
    values = [
        [name, str(functools.reduce(operator.getitem, name.split("."), config))]
        for name in field_names(config)
    ]
    return tables.Table("config.json", ["field", "value"], values)
