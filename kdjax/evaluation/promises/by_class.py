"""The promise on the errors among the images that are accepted as one class, for every class."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kdjax import selective
from kdjax.evaluation.predictions import Predictions
from kdjax.evaluation.promises import groupwise, words
from kdjax.evaluation.promises.base import Evidence, Promise, Statement

TITLE = "Errors within each class"


def compute(evidence: Evidence) -> dict[str, Any]:
    """Returns a threshold for each predicted class, and what they do on test.

    Returns:
        See `groupwise.certify`; `names` are those of the classes; `images`: the number of all
        images of calibration and of test, with those that a gate stops; `used`: whether the model
        decides by these thresholds.
    """
    values = certify(
        evidence.calibration,
        evidence.test,
        evidence.confidence,
        risk=evidence.risk,
        delta=evidence.delta,
    )
    return {
        **values,
        "names": list(evidence.class_names),
        "images": {split: evidence.images(split) for split in ("calibration", "test")},
        "used": evidence.class_thresholds is not None,
    }


def certify(
    calibration: Predictions,
    test: Predictions,
    confidence: Callable[[np.ndarray], np.ndarray],
    *,
    risk: float,
    delta: float,
) -> dict[str, Any]:
    """Certifies a threshold for each predicted class, see `groupwise.certify`.

    Args:
        calibration: logits [n, m+1] and labels [n] of a split that was used for nothing else.
        test: the same of the test split.
        confidence: logits [n, m+1] -> [n].
        risk: to be certified in each class.
        delta: probability that the certificate of any class is wrong.
    """

    def sample(split: Predictions) -> groupwise.GroupedSample:
        predicted = selective.predicted_classes(split.logits)
        return confidence(split.logits), split.correct, predicted

    classes = range(calibration.logits.shape[1] - 1)
    return groupwise.certify(sample(calibration), sample(test), classes, risk=risk, delta=delta)


def statement(values: Mapping[str, Any]) -> Statement:
    """Returns for which classes errors can be bounded, and what that costs."""
    names, risk = values["names"], words.exact_percent(values["risk"])
    scope = words.together(values["delta"], "the statements for all classes")
    pairs = zip(names, values["threshold"], strict=True)
    certified = [name for name, threshold in pairs if threshold is not None]
    which = f"for {groupwise.all_or_some(certified, names, 'classes')}"
    without = groupwise.without(values, names, "classes")
    if not certified:
        sentence = (
            f"For none of the {len(names):,} classes could it be shown that at most {risk} of the "
            "images that are accepted as this class are wrong."
        )
        return Statement(TITLE, (sentence, *without), scope)
    promised = f"at most {risk} of the new images that are accepted as a class are wrong, {which}."
    test = {"accepted": sum(values["test"]["accepted"]), "images": values["images"]["test"]}
    if values["used"]:
        first = f"The model has a threshold for each class: {promised}"
        cost = f"It accepted {words.share(test)} test images."
    else:
        first = (
            "A single threshold bounds the errors among all accepted images together: within one "
            f"class more may be wrong. With a threshold for each class, {promised}"
        )
        cost = (
            f"With these thresholds, {words.share(test)} test images are accepted. A model uses "
            "them if it is exported with --classwise."
        )
    return Statement(TITLE, (first, *without, cost), scope)


PROMISE = Promise(compute, statement)
