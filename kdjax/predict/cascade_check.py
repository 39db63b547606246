"""Certifies a cascade of two exported models on labelled images, and tests what was promised."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kdjax import selective
from kdjax.data import own
from kdjax.evaluation.promises import words
from kdjax.evaluation.promises.cascade import SHARES, point_values
from kdjax.evaluation.promises.words import exact_percent, percent_up
from kdjax.predict import promise_check, verdicts
from kdjax.predict.cascade import Cascade, load_cascade
from kdjax.predict.cascade_rule import cost_of, score_of
from kdjax.predict.model import BATCH_SIZE, Prediction
from kdjax.selective import CascadePoint, binomial
from kdjax.selective.cascade import LOWEST, threshold_text

ACCEPTED = "accepted"  # in place of a threshold: the student answers what it accepts


class CascadeAnswers(NamedTuple):
    """What student and fallback say about n labelled images.

    Attributes:
        labels: int [n], numbers of the student's classes; `promise_check.UNKNOWN` for others.
        unknown: number of images by the name of each class that the models do not have.
        asked: predictions of the student for all images.
        others: predictions of the fallback for all images, in the order of the student's classes.
    """

    labels: np.ndarray
    unknown: Mapping[str, int]
    asked: Prediction
    others: Prediction

    @property
    def sample(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores of the student, and whether student and fallback are correct, `[n]` each."""
        return (
            score_of(self.asked),
            self.asked.classes == self.labels,
            self.others.classes == self.labels,
        )


def check(
    path: str | os.PathLike[str],
    fallback: str | os.PathLike[str],
    images: str,
    *,
    risk: float | None = None,
    delta: float = 0.05,
    threshold: str | float | None = None,
    fallback_abstains: bool = False,
    split: str | None = None,
    count_unknown: bool = False,
    strict: bool = False,
    batch_size: int = BATCH_SIZE,
    fallback_batch_size: int | None = None,
) -> dict[str, Any]:
    """Bounds the risk of a cascade on labelled images, and finds its cheapest certified threshold.

    Args:
        path: folder of the student.
        fallback: folder of the model that answers the rest.
        images: `folder:PATH`, `csv:FILE` or `npz:FILE`, as for training. The bounds hold if they
            were used for nothing else.
        risk: of all answers, to be tested and certified; None: what the student's card promises.
        delta: probability that a bound, the certificate or the test fails, in (0, 1).
        threshold: see `kdjax.predict.load_cascade`.
        fallback_abstains: likewise.
        split: use the images of this split only.
        count_unknown: see `promise_check.check`.
        strict: likewise.
        batch_size: largest number of images in a batch of the student, >= 1.
        fallback_batch_size: the same of the fallback; None: that of the student.

    Returns:
        See `report`.

    Raises:
        InputError: for invalid arguments, images that cannot be read, models with different
            classes, or unknown classes.
    """
    location = promise_check.parse(images, risk=risk, delta=delta)
    cascade = load_cascade(
        path,
        fallback,
        threshold=threshold,
        fallback_abstains=fallback_abstains,
        batch_size=batch_size,
        fallback_batch_size=fallback_batch_size,
    )
    answers = ask(cascade, location, split=split, count_unknown=count_unknown, strict=strict)
    return report(cascade, answers, risk=risk, delta=delta)


def ask(
    cascade: Cascade,
    location: own.Location,
    *,
    split: str | None = None,
    count_unknown: bool = False,
    strict: bool = False,
) -> CascadeAnswers:
    """Asks both models about all images.

    Args:
        cascade: the models.
        location: of the images, of `promise_check.parse`.
        split: use the images of this split only.
        count_unknown: see `promise_check.label_numbers`.
        strict: refuse images that cannot be read, instead of leaving them out.

    Raises:
        InputError: see `check`.
    """
    student, fallback = cascade.student, cascade.fallback
    labelled = own.read_labelled(location, student.image_shape, student.resize, strict=strict)
    same = (fallback.image_shape, fallback.resize) == (student.image_shape, student.resize)
    resized = (
        labelled
        if same
        else own.read_labelled(location, fallback.image_shape, fallback.resize, strict=strict)
    )
    chosen = promise_check.choose(
        labelled, student.card["classes"], split=split, count_unknown=count_unknown
    )
    asked, others = (
        promise_check.predict(model, images, chosen.rows)
        for model, images in ((student, labelled.images), (fallback, resized.images))
    )
    return CascadeAnswers(chosen.labels, chosen.unknown, asked, cascade.in_order(others))


def report(
    cascade: Cascade, answers: CascadeAnswers, *, risk: float | None, delta: float
) -> dict[str, Any]:
    """Returns what was measured, certified and refuted, as values for JSON.

    Args:
        cascade: the models with their rule.
        answers: of `ask`.
        risk: of all answers; None: what the student's card promises. With a gate this is about the
            images that pass it, and so is the test.
        delta: in (0, 1).

    Returns:
        The fields of `promise_check.report`, of all answers that are tested, whoever gave them; and
        `cascade`, of all answers: `fallback_certified` and `note`, see `cascade_rule.Rule`;
        `point`, at the threshold of the rule: `student_answers` (`accepted`: what it accepts;
        otherwise the threshold, as `selective.cascade.threshold_text` writes it), `passed_on`,
        `answered`, `errors`, `risk`, `risk_bound`, `multiply_adds` and `speed_up`; errors of
        `student_alone` and `fallback_alone`; `certificate`, with its `risk`, of the cheapest
        certified `point` or the `reason` why there is none; and `rows`, points whose bounds hold
        together.
    """
    promised = cascade.rule.promised
    requested = risk if risk is not None else promised.risk if promised else None
    by_student = cascade.rule.answers(answers.asked)
    predicted = np.where(by_student, answers.asked.classes, answers.others.classes)
    accepted = np.ones_like(by_student)
    if cascade.fallback_abstains:
        accepted = by_student | answers.others.accepted
    outcome = promise_check.Outcome(answers.labels, predicted, accepted, answers.unknown)
    classes = cascade.student.card["classes"]
    # The promise of the card is about the images that pass the gate.
    stopped = answers.asked.outlier if risk is None and promised else None
    tested = outcome if stopped is None else outcome._replace(accepted=accepted & ~stopped)
    values = promise_check.report(tested, classes, risk=requested, delta=delta)
    _, student_right, fallback_right = answers.sample
    whole = {
        "fallback_certified": cascade.rule.certified,
        "note": cascade.rule.note,
        "point": _rule_values(cascade, by_student, outcome, delta),
        "student_alone": int(np.sum(~student_right)),
        "fallback_alone": int(np.sum(~fallback_right)),
        **_certified(cascade, answers, requested, delta),
    }
    return {
        **values,
        "verdict": verdict(values, requested, gated=stopped is not None),
        "cascade": whole,
    }


def _rule_values(
    cascade: Cascade, by_student: np.ndarray, outcome: promise_check.Outcome, delta: float
) -> dict[str, Any]:
    passed_on, answered = float(np.mean(~by_student)), int(np.sum(outcome.accepted))
    errors = int(np.sum(outcome.accepted & ~outcome.correct))
    threshold = cascade.rule.threshold
    cost = cascade.cost(passed_on)
    return {
        "student_answers": ACCEPTED if threshold is None else threshold_text(threshold),
        "passed_on": passed_on,
        "answered": float(np.mean(outcome.accepted)),
        "errors": errors,
        "risk": errors / answered if answered else None,
        "risk_bound": binomial.upper_bound(errors, answered, delta),
        "multiply_adds": cost and cost["multiply_adds"],
        "speed_up": cost and cost["speed_up"],
    }


def _certified(
    cascade: Cascade, answers: CascadeAnswers, risk: float | None, delta: float
) -> dict[str, Any]:
    """Returns `certificate` and `rows` of `report`."""
    thresholds = thresholds_of(cascade.student.card)
    costs = {
        "student_multiply_adds": cost_of(cascade.student.card),
        "multiply_adds": cost_of(cascade.fallback.card),
    }
    accepted = answers.others.accepted if cascade.fallback_abstains else None
    options: dict[str, Any] = {"delta": delta, "fallback_accepted": accepted}

    def values(point: CascadePoint) -> dict[str, Any]:
        return point_values(point, costs)

    certificate = None
    if risk is not None:
        result = selective.cascade_certificate(
            *answers.sample, thresholds=thresholds, risk=risk, **options
        )
        point = result.point and values(result.point)
        first = values(result.first)
        certificate = {"risk": risk, "point": point, "reason": result.reason, "first": first}
    few = _spread(thresholds)
    bounds = selective.cascade_bounds(*answers.sample, thresholds=few, **options)
    return {"certificate": certificate, "rows": list(map(values, bounds))}


def thresholds_of(card: Mapping[str, Any]) -> np.ndarray:
    """Returns the thresholds that can be certified on any images, from a card: those of dev.

    Args:
        card: of the student; one of an earlier version gives only its own threshold.

    Returns:
        float64 [t], decreasing, from infinity to `LOWEST`.
    """
    cascade = (card.get("promises") or {}).get("cascade")
    drift = (card.get("monitoring") or {}).get("drift")
    known: Sequence[float] = ()
    if cascade:
        known = cascade["thresholds"]
    elif drift:
        known = drift["edges"]
    elif card["threshold"] is not None:
        known = [card["threshold"]]
    finite = [value for value in known if math.isfinite(value)]
    return np.unique(np.array([np.inf, *finite, LOWEST]))[::-1]


def _spread(thresholds: np.ndarray) -> np.ndarray:
    """Returns one of the thresholds for each of `SHARES`, which they divide evenly."""
    last = thresholds.size - 1
    return thresholds[list(dict.fromkeys(round((1 - share) * last) for share in SHARES))]


def verdict(values: Mapping[str, Any], risk: float | None, *, gated: bool = False) -> str:
    """Returns in words what holds of the answers that are tested.

    Args:
        values: of `promise_check.report`.
        risk: that is tested; None: nothing was promised.
        gated: whether only the answers to images that pass the student's gate are tested.
    """
    answered, errors, delta = (values[name] for name in ("accepted", "errors", "delta"))
    images = "image that passes the gate" if gated else "image"
    if not answered:
        return f"no {images} was answered, so nothing is known about the risk of the whole"
    to_images = " to images that pass the gate" if gated else ""
    share = words.measured(values["risk"])
    measured = f"{errors:,} of {answered:,} answers{to_images} are wrong ({share})"
    risk_bound = binomial.upper_bound(errors, answered, delta)
    bound = (
        f"with {exact_percent(1 - delta)} certainty at most {percent_up(risk_bound)} of "
        f"{'these' if gated else 'all'} answers are wrong, on images like these"
    )
    if risk is None:
        return f"no promise to test, --risk gives one: {measured}; {bound}"
    if values["refuted"]:
        return verdicts.refuted(measured, risk, values["p_value"])
    if risk_bound <= risk:
        return f"certified: {measured}; {bound}"
    return f"{verdicts.not_refuted(measured, risk)}, but does not prove it: {bound}"
