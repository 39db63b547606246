"""The promise on the errors among all accepted images, which the threshold of a run rests on."""

import math
from collections.abc import Mapping
from typing import Any

from kdjax.evaluation.certification import CERTIFICATE, CLASS_CERTIFICATES
from kdjax.evaluation.predictions import counts
from kdjax.evaluation.promises import words
from kdjax.evaluation.promises.base import Evidence, Promise, Statement
from kdjax.selective import binomial

TITLE = "Errors among the accepted images"
# `kind` of the promise: certified before the threshold was known; a bound on the risk of a
# threshold that was chosen without the calibration split; or none.
CERTIFIED, BOUND, NONE = "certified", "bound", "none"


def compute(evidence: Evidence) -> dict[str, Any]:
    """Returns what is promised about the errors, and what the model does on two splits.

    Returns:
        `kind`, see above; `risk`, the promised one, None if nothing is; `requested`, the requested
        one; `delta`; `runs`; `threshold`, None if nothing is accepted or if each class has its own;
        for `calibration` and `test` the numbers of `images`, of those that are `accepted`, and of
        `errors` among these.
    """
    on = {split: _counts(evidence, split) for split in ("calibration", "test")}
    kind = _kind(evidence.source, on["calibration"]["accepted"])
    risk = evidence.risk if kind == CERTIFIED else None
    if kind == BOUND:
        accepted, errors = (on["calibration"][name] for name in ("accepted", "errors"))
        risk = binomial.upper_bound(errors, accepted, evidence.delta)
    shared = evidence.class_thresholds is None and math.isfinite(evidence.threshold)
    return {
        "kind": kind,
        "risk": risk,
        "requested": evidence.risk,
        "delta": evidence.delta,
        "runs": evidence.runs,
        "threshold": evidence.threshold if shared else None,
        **on,
    }


def _kind(source: str, accepted: int) -> str:
    if source in (CERTIFICATE, CLASS_CERTIFICATES):
        return CERTIFIED
    return BOUND if accepted else NONE


def _counts(evidence: Evidence, split: str) -> dict[str, int]:
    _, correct = evidence.sample(split)
    return {**counts(evidence.accepted(split), correct), "images": evidence.images(split)}


def statement(values: Mapping[str, Any]) -> Statement:
    """Returns what is promised about the errors among accepted images."""
    delta, images = values["delta"], values["calibration"]["images"]
    scope = words.alone(delta)
    if values["kind"] == NONE:
        nothing = (
            f"Nothing is promised, and the model accepts no image: its results on the {images:,} "
            "calibration images do not show that at most "
            f"{words.exact_percent(values['requested'])} of accepted images would be wrong."
        )
        return Statement(TITLE, (nothing,), scope)
    risk = (
        words.exact_percent(values["risk"])
        if values["kind"] == CERTIFIED
        else words.percent_up(values["risk"])
    )
    sentences = (
        f"Of the new images that the model accepts, at most {risk} get a wrong class.",
        f"As delivered, it accepted {words.share(values['test'])} test images. "
        f"{words.errors(values['test'])}",
        *_choice(values["runs"]),
    )
    return Statement(TITLE, sentences, scope)


def _choice(runs: int) -> tuple[str, ...]:
    if runs == 1:
        return ()
    return (
        f"This model is one of {runs} that were trained together (the students). If you picked it "
        "by its promises or test results, this limit does not count: choose a row of the table "
        f"'Limits that hold together' below instead, all of which hold for "
        f"{words.all_of(runs, 'models')}. If you picked it in another way, such as by the "
        "development split, this limit counts.",
    )


PROMISE = Promise(compute, statement)
