"""The promise on the share of images like those of training that the gate passes."""

from collections.abc import Mapping
from typing import Any

from kdjax.evaluation import gate as gates
from kdjax.evaluation.predictions import SPLITS, Predictions
from kdjax.evaluation.promises import words
from kdjax.evaluation.promises.base import Evidence, Promise, Statement

TITLE = "Images unlike those of training"
# What the other statements of a run with a gate are about.
OTHERS = "for images that pass the gate"


def compute(evidence: Evidence) -> dict[str, Any] | None:
    """Returns what the gate passes, see `gate.measure`; None without a gate."""
    return dict(evidence.gate) if evidence.gate else None


def passing(evidence: Evidence) -> Evidence:
    """Returns the evidence on the images that pass the gate, of which all other promises are.

    The gate is fixed before the calibration split is seen, so that the calibration images that
    pass are independent draws of the images that pass.
    """
    gate = gates.gate_of({"gate": evidence.gate})
    if gate is None or gate.threshold is None:
        return evidence
    splits: dict[str, Predictions] = {split: getattr(evidence, split) for split in SPLITS}
    rows = {split: gate.passed(outputs) for split, outputs in splits.items()}
    kept: dict[str, Any] = {split: outputs.select(rows[split]) for split, outputs in splits.items()}
    return evidence._replace(**kept, extras=evidence.extras.select(rows))


def statement(values: Mapping[str, Any]) -> Statement:
    """Returns which share of images passes the gate."""
    requested = words.exact_percent(values["acceptance"])
    calibration, test = values["calibration"], values["test"]
    if values["threshold"] is None:
        sentence = (
            f"The gate stops no image: {calibration['examples']:,} calibration images, or "
            f"{values['dev']['examples']:,} of dev, are too few to show that it would pass "
            f"{requested} of the images."
        )
        return Statement(TITLE, (sentence,), words.alone(values["delta"]))
    # Rounded down, because it is a lower bound.
    bound = words.percent_down(values["bound"])
    less = ", fewer than were requested" if values["bound"] < values["acceptance"] else ""
    sentences = (
        f"A gate ({values['name']}) stops images that look unlike those of training, however "
        f"confident the model is. At least {bound} of the new images like those of training pass "
        f"it (requested: {requested}){less}. Of the test images, "
        f"{words.percent(test['passed'] / test['examples'])} pass.",
        "How many images of another kind it stops is not promised, because nothing is known about "
        "them.",
        "The other statements are about the images that pass.",
    )
    return Statement(TITLE, sentences, words.alone(values["delta"]))


PROMISE = Promise(compute, statement)
