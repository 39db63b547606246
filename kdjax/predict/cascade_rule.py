"""Which images the student of a cascade answers, and what its card promises about the whole."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from kdjax.errors import InputError
from kdjax.export import card as cards
from kdjax.predict.model import Prediction
from kdjax.selective.cascade import LOWEST, threshold_text

ALL, NONE = "all", "none"  # of `--threshold`
CHECK = "kdjax check --model=STUDENT --fallback=FALLBACK LABELLED_IMAGES certifies this pair"


class CascadePromise(NamedTuple):
    """What the card of the student promises about all answers.

    Attributes:
        risk: at most this share of all answers is wrong.
        delta: probability that this does not hold.
    """

    risk: float
    delta: float


class Rule(NamedTuple):
    """Which images the student answers.

    Attributes:
        threshold: those with at least this score; infinite: none; None: those that it accepts.
        certified: whether the fallback is the one with which the student was certified.
        promised: about all answers; None: nothing.
        note: a line that says so.
    """

    threshold: float | None
    certified: bool
    promised: CascadePromise | None
    note: str

    def answers(self, prediction: Prediction) -> np.ndarray:
        """Returns which images the student answers, bool [n]."""
        if self.threshold is None:
            return prediction.accepted
        return score_of(prediction) >= self.threshold


def score_of(prediction: Prediction) -> np.ndarray:
    """Returns the scores that are compared with a threshold, float64 [n].

    In float64, because a float32 threshold may lie on the other side of a score; -inf for an image
    that the gate of the student stops, so that it is passed on at every threshold.
    """
    score = prediction.score.astype(np.float64)
    return score if prediction.outlier is None else np.where(prediction.outlier, -np.inf, score)


def rule_of(
    student: Mapping[str, Any],
    fallback: Mapping[str, Any],
    threshold: str | float | None = None,
    *,
    fallback_abstains: bool = False,
) -> Rule:
    """Returns the rule of a cascade.

    Args:
        student: card of the student.
        fallback: card of the fallback.
        threshold: see `kdjax.predict.load_cascade`.
        fallback_abstains: whether the fallback may abstain: the promise is about a fallback that
            answers everything that it gets.

    Raises:
        InputError: for an invalid threshold.
    """
    given = parse_threshold(threshold)
    cascade = (student.get("promises") or {}).get("cascade")
    if difference := _difference(cascade, fallback):
        nothing = f"{difference}: nothing is promised about all answers together; {CHECK}"
        return Rule(given, False, None, nothing)
    assert cascade is not None
    point, chosen = _point(cascade, given)
    exact = given if point is None or chosen is None else chosen
    known = "the fallback is the one with which the student was certified"
    if point is None:
        return Rule(exact, True, None, f"{known}, but not at this threshold; {CHECK}")
    if fallback_abstains:
        return Rule(exact, True, None, f"{known}, but as one that does not abstain; {CHECK}")
    promised = CascadePromise(point["risk_bound"], cascade["delta"])
    gate = student["promises"].get("gate") or {}
    of_gate = "" if gate.get("threshold") is None else " (of the images that pass the gate)"
    return Rule(exact, True, promised, f"{known}: {_promise(promised, point)}{of_gate}")


def parse_threshold(threshold: str | float | None) -> float | None:
    """Returns a threshold as a number: `all` is the lowest, `none` is infinite.

    Raises:
        InputError: for another text, or NaN.
    """
    named = {ALL: LOWEST, NONE: math.inf}
    if threshold is None or threshold in named:
        return None if threshold is None else named[str(threshold)]
    try:
        value = float(threshold)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise InputError(f"threshold {threshold!r}: must be a number, '{ALL}' or '{NONE}'")
    return max(value, LOWEST)


def _difference(cascade: Mapping[str, Any] | None, fallback: Mapping[str, Any]) -> str:
    """Returns how the fallback differs from the certified one; empty if it does not."""
    if cascade is None:
        return "the student was not certified with a fallback"
    certified = cascade["fallback"]
    views = (fallback.get("views") or {}).get("name", "none")
    other = "the fallback is not the one with which the student was certified"
    if certified["weights_sha256"] is None:
        return f"{other}, which was given as the file {certified['file']!r}"
    if certified["weights_sha256"] != fallback.get("weights_sha256"):
        return other
    if certified["views"] != views:
        return f"{other}: it averages over the views {views!r}, not {certified['views']!r}"
    if certified["dtype"] != "float32":
        return f"{other}: that one computed in {certified['dtype']}, the exported one in float32"
    return ""


def _point(
    cascade: Mapping[str, Any], given: float | None
) -> tuple[Mapping[str, Any] | None, float | None]:
    """Returns the certified point of a threshold, and its exact threshold; None: not certified."""
    certified, own_point = cascade["certificate"]["point"], cascade["own"]
    if given is None:
        # Without a certified threshold the student answers what it accepts.
        return (certified, _exact(certified)) if certified else (own_point, None)
    # A row first: whoever chose it after a look at the table has only the bound of the table.
    for point in filter(None, (*cascade["rows"], certified, own_point)):
        exact = _exact(point)
        # Tables show six digits.
        if exact == given or threshold_text(point["threshold"]) == f"{given:.6g}":
            return point, exact
    return None, None


def _exact(point: Mapping[str, Any]) -> float:
    threshold = point["threshold"]
    return math.inf if threshold is None else float(threshold)


def _promise(promised: CascadePromise, point: Mapping[str, Any]) -> str:
    # Imported here because it loads all promises, which prediction without a promise does not need.
    from kdjax.evaluation.promises import words

    return (
        f"of all answers at most {words.limit(promised.risk)} are wrong, with "
        f"{words.exact_percent(1 - promised.delta)} certainty; {words.percent(point['passed_on'])} "
        "of the calibration images were passed on"
    )


def cost_of(card: Mapping[str, Any]) -> float | None:
    """Returns the multiply-adds of an image over all views, from a card; None: not stated."""
    stage = "teacher" if card["format"] == cards.WITHOUT_ABSTENTION else "student"
    entry = (card.get("cost") or {}).get(stage)
    return None if entry is None else float(entry["multiply_adds"])
