"""The promise on student and teacher together: every image is answered, by one of the two."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdjax import selective
from kdjax.evaluation import cost_table
from kdjax.evaluation.certification import CHOSEN_ON_CALIBRATION
from kdjax.evaluation.predictions import SPLITS, Predictions
from kdjax.evaluation.promises import words
from kdjax.evaluation.promises.base import Evidence, Promise, Statement, Table
from kdjax.runtime import atomic_io
from kdjax.selective import CascadePoint, cascade

TITLE = "Student and teacher together"
# Shares of the dev images that are passed on in the rows of the table; its bounds hold together.
SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)

# Confidence, and whether student and fallback are correct.
Sample = tuple[np.ndarray, np.ndarray, np.ndarray]


def compute(evidence: Evidence) -> dict[str, Any] | None:
    """Returns the certificate of the cascade and its bounds; None without a teacher's predictions.

    Returns:
        `risk`, `delta`, `examples`; `fallback`, see `evaluation.fallback.describe`; `thresholds`,
        the finite ones that are tested, from dev; `certificate`: its cheapest certified `point`, or
        None with the `reason`, and the `first` one; `own`, the point at the threshold of the run,
        with a bound that holds wherever it was chosen, None with a threshold for each class;
        `rows`, points whose bounds hold together. A point has the fields of
        `selective.CascadePoint` without `cost`, `multiply_adds` and `test`. A threshold is None
        where the student answers nothing.
    """
    teacher, fallback = evidence.extras.teacher, evidence.extras.fallback
    if not teacher or not fallback or not set(SPLITS) <= teacher.keys():
        return None
    dev, calibration, test = (
        (*evidence.sample(split), is_right(teacher[split])) for split in SPLITS
    )
    grid = selective.cascade_thresholds(dev[0])
    result = _certify(dev, calibration, grid, evidence)
    own_point = _own(calibration, grid, evidence)
    rows = selective.cascade_bounds(
        *calibration, thresholds=_row_thresholds(grid, dev[0]), delta=evidence.delta
    )

    def values(point: CascadePoint | None) -> dict[str, Any] | None:
        return None if point is None else point_values(point, fallback, test)

    return {
        "risk": evidence.risk,
        "delta": evidence.delta,
        "examples": len(calibration[0]),
        "fallback": dict(fallback),
        "thresholds": [value for value in grid.tolist() if math.isfinite(value)],
        "certificate": {
            "point": values(result.point),
            "reason": result.reason,
            "first": values(result.first),
        },
        "own": values(own_point),
        "rows": [values(point) for point in rows],
    }


def is_right(outputs: Predictions) -> np.ndarray:
    """Returns whether each prediction of a teacher is correct, bool [n]."""
    return np.asarray(selective.predict(outputs.logits, abstention=False)) == outputs.labels


def _certify(
    dev: Sample, calibration: Sample, grid: np.ndarray, evidence: Evidence
) -> selective.CascadeCertificate:
    best = selective.cascade_start(*dev, thresholds=grid)
    return selective.cascade_certificate(
        *calibration, thresholds=grid[grid <= best], risk=evidence.risk, delta=evidence.delta
    )


def _own(calibration: Sample, grid: np.ndarray, evidence: Evidence) -> CascadePoint | None:
    if evidence.class_thresholds is not None:
        return None
    threshold = max(evidence.threshold, cascade.LOWEST)
    if evidence.source in CHOSEN_ON_CALIBRATION:
        return selective.cascade_bound_anywhere(
            *calibration, threshold=threshold, thresholds=grid, delta=evidence.delta
        )
    (point,) = selective.cascade_bounds(*calibration, thresholds=[threshold], delta=evidence.delta)
    return point


def _row_thresholds(grid: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Returns a threshold for each of `SHARES` of dev, the loosest first, without repetition."""
    shares = np.array([np.mean(confidence < threshold) for threshold in grid])
    nearest = [int(np.abs(shares - share).argmin()) for share in SHARES]
    return grid[list(dict.fromkeys(nearest))]


def point_values(
    point: CascadePoint, fallback: Mapping[str, Any], test: Sample | None = None
) -> dict[str, Any]:
    """Returns a point as JSON values, with its cost, and what it does on test.

    Args:
        point: the point.
        fallback: with `multiply_adds` and `student_multiply_adds`, or None for these.
        test: a sample on which nothing was chosen.
    """
    values = {name: value for name, value in point._asdict().items() if name != "cost"}
    values["threshold"] = atomic_io.finite_or_none(point.threshold)
    values["risk"] = atomic_io.finite_or_none(point.risk)
    values["multiply_adds"] = multiply_adds(point.passed_on, fallback)
    if test is not None:
        (measured,) = selective.cascade_bounds(*test, thresholds=[point.threshold])
        values["test"] = {
            "examples": len(test[0]),
            "passed_on": measured.passed_on,
            "errors": measured.errors,
            "risk": measured.risk,
            "multiply_adds": multiply_adds(measured.passed_on, fallback),
        }
    return values


def multiply_adds(passed_on: float, fallback: Mapping[str, Any]) -> float | None:
    """Returns student + passed_on * fallback, in multiply-adds of an image; None if not known."""
    student, alone = fallback["student_multiply_adds"], fallback["multiply_adds"]
    return None if student is None or alone is None else student + passed_on * alone


def statement(values: Mapping[str, Any]) -> Statement:
    """Returns what is promised if the teacher answers what the student does not."""
    delta, point = values["delta"], values["certificate"]["point"]
    if point is None:
        return Statement(TITLE, (_not_possible(values),), words.alone(delta))
    sentences = (
        _share_sentence(values, point),
        _cost_sentence(values, point),
        *_own_sentence(values),
        "To use a row of the table, give its last column to kdjax predict --fallback=TEACHER "
        "--threshold: the student answers from this confidence on (all: every image; none: no "
        "image).",
    )
    scope = (
        "Each sentence holds alone, with a probability of at least "
        f"{words.exact_percent(1 - delta)}. All rows of the table hold together, with the same "
        "probability"
    )
    return Statement(TITLE, sentences, scope, _table(values))


def _not_possible(values: Mapping[str, Any]) -> str:
    risk = words.exact_percent(values["risk"])
    images = words.count(values["examples"], "calibration image")
    start = (
        f"At most {risk} wrong of all answers cannot be promised by passing images on to the "
        "teacher, the model from which this one (the student) learned"
    )
    if values["certificate"]["reason"] == cascade.FEW_EXAMPLES:
        return f"{start}: {images} are too few to show it, even without an error."
    first, rows = values["certificate"]["first"], values["rows"]
    wrong = words.percent(first["risk"])
    least = words.percent_up(min(row["risk_bound"] for row in rows))
    cause = f"the teacher itself is wrong on {wrong} of {images}"
    if first["threshold"] is not None:
        alone = words.percent(rows[-1]["risk"])
        cause = (
            f"even with the best share passed on, {wrong} of the answers to {images} are wrong "
            f"({alone} with the teacher alone)"
        )
    return f"{start}: {cause}, and the least limit that can be promised is {least}."


def _share_sentence(values: Mapping[str, Any], point: Mapping[str, Any]) -> str:
    risk = words.exact_percent(values["risk"])
    sure = words.exact_percent(1 - values["delta"])
    if not point["passed_on"]:
        return (
            "The student, which is this model, may answer every image by itself: of all answers, "
            f"at most {risk} are wrong, with {sure} certainty."
        )
    return (
        "The student, which is this model, answers the images of which it is confident and passes "
        f"about {words.percent(point['passed_on'])} on to the teacher, from which it learned, so "
        f"that every image gets an answer. Of all answers, at most {risk} are wrong, with {sure} "
        "certainty."
    )


def _own_sentence(values: Mapping[str, Any]) -> Sequence[str]:
    """Returns what holds if the student answers what it accepts; nothing without a bound."""
    if not (point := values["own"]):
        return ()
    return (
        "If the teacher answers exactly what the student does not accept, "
        f"{words.percent(point['passed_on'])} of the images, then at most "
        f"{words.percent_up(point['risk_bound'])} of all answers are wrong. This limit is not one "
        "of the table: it allows for the way in which the threshold in use was chosen.",
    )


def _cost_sentence(values: Mapping[str, Any], point: Mapping[str, Any]) -> str:
    cost, alone = point["multiply_adds"], values["fallback"]["multiply_adds"]
    if cost is None:
        return "What an image costs is not known, because the teacher is given as a file."
    return (
        f"An image costs {cost_table.with_unit(round(cost))} multiply-adds on average, a measure "
        f"of computing time: {_relative(cost, alone)} of the teacher alone "
        f"({cost_table.with_unit(alone)})."
    )


def _relative(cost: float, alone: float) -> str:
    return f"{100 * cost / alone:.0f} %"


def _table(values: Mapping[str, Any]) -> Table:
    columns = (
        "passed on to the teacher",
        "wrong of all answers, at most",
        "wrong on test",
        "multiply-adds of an image",
        "cost, teacher alone = 100 %",
        "--threshold",
    )
    rows = tuple(_row(values, point) for point in values["rows"])
    return Table("Shares to choose from: any row may be chosen after a look", columns, rows)


def _row(values: Mapping[str, Any], point: Mapping[str, Any]) -> tuple[str, ...]:
    cost, alone = point["multiply_adds"], values["fallback"]["multiply_adds"]
    return (
        words.percent(point["passed_on"]),
        words.percent_up(point["risk_bound"]),
        words.percent(point["test"]["risk"]),
        "not known" if cost is None else cost_table.with_unit(round(cost)),
        "not known" if cost is None else _relative(cost, alone),
        cascade.threshold_text(point["threshold"]),
    )


PROMISE = Promise(compute, statement)
