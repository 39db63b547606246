"""Coverage and selective risk by class, from predictions."""

import json
import math

import numpy as np
import pytest
from scipy.special import softmax
from support import sample_runs

from kdjax.evaluation import per_class
from kdjax.evaluation.certification import OperatingPoint
from kdjax.evaluation.predictions import Predictions

NAMES = sample_runs.CLASSES
TEST = sample_runs.split(200, 0)


def results(certified):
    """Returns the part of `results.json` that determines the operating point."""
    return {
        "best_score": "margin",
        "pnorm": 2.0,
        "scores": {"margin": {"thresholds": {"90": {"threshold": 0.25}}}},
        "guarantee": {
            "risk": 0.1,
            "certificates": [{"risk": 0.1, "learn_then_test": {"threshold": certified}}],
        },
    }


def margins(logits):
    top = np.sort(softmax(logits[:, :-1].astype(np.float64), axis=1))
    return top[:, -1] - top[:, -2]


@pytest.mark.parametrize(
    ("certified", "threshold", "source", "promised"),
    [(0.75, 0.75, "certificate", 0.1), (None, 0.25, "dev, 90 % coverage", None)],
)
def test_classes_are_counted_at_the_operating_point(certified, threshold, source, promised):
    classes = per_class.per_class(results(certified), TEST, NAMES)
    assert (classes["threshold"], classes["threshold_from"]) == (threshold, source)
    assert (classes["risk"], classes["level"], classes["classes"]) == (promised, 0.95, list(NAMES))
    accepted, predicted = margins(TEST.logits) >= threshold, TEST.logits[:, :-1].argmax(axis=1)
    for grouping, codes in (("true", TEST.labels), ("predicted", predicted)):
        for index in range(len(NAMES)):
            kept = (codes == index) & accepted
            errors = (kept & (predicted != TEST.labels)).sum()
            rates = {name: values[index] for name, values in classes[grouping].items()}
            counts = [rates[count] for count in ("examples", "accepted", "errors")]
            assert counts == [(codes == index).sum(), kept.sum(), errors]
            assert rates["coverage"] == kept.sum() / (codes == index).sum()
            assert rates["risk_low"] <= rates["risk"] == errors / kept.sum() <= rates["risk_high"]
    json.dumps(classes, allow_nan=False)


def test_if_nothing_is_accepted_no_class_is_flagged():
    point = OperatingPoint("margin", 2.0, math.inf, "none", None)
    classes = per_class.at_operating_point(point, TEST, NAMES)
    assert classes["threshold"] is None and classes["warnings"] == []
    assert classes["true"]["coverage"] == [0.0] * 4
    assert classes["true"]["risk"] == [None] * 4
    json.dumps(classes, allow_nan=False)


def test_a_class_that_is_rarely_accepted_and_then_wrong_has_warnings():
    """As in a run on Fashion-MNIST: 1.4 % of the shirts are accepted, all of them wrongly."""
    labels = np.repeat([0, 1], 1000).astype(np.int32)
    logits = np.zeros((2000, 3), np.float32)
    logits[:1014, 0] = 9.0  # all of class a, and 14 of class b, which are taken for class a
    logits[1014:, 1] = 0.1  # the others of class b are recognized, but not with confidence
    shuffled = np.random.default_rng(0).permutation(2000)
    test = Predictions(logits[shuffled], labels[shuffled])
    point = OperatingPoint("margin", 2.0, 0.5, "certificate", {"risk": 0.05})
    classes = per_class.at_operating_point(point, test, ["a", "b"])
    assert classes["true"]["accepted"] == [1000, 14]
    assert classes["warnings"] == [
        "14 of 1,000 images of class b are accepted (1.4 %), of all 50.7 %",
        "14 of 14 accepted images of class b are wrong (100.0 %): significantly more than the "
        "limit of 5 %",
        "0 of 986 predictions of class b are accepted (0.0 %), of all 50.7 %",
    ]


def test_a_finished_run_has_its_classes(finished_run):
    classes = finished_run.results["per_class"]
    assert classes["classes"] == [str(digit) for digit in range(10)]
    assert sum(classes["true"]["examples"]) == finished_run.results["test"]["examples"]
    assert finished_run.results["teacher"]["per_class"]["predicted"]["examples"]
