"""Promises for each predicted class: against counts from the predictions, and in words."""

import json

import numpy as np
import pytest
from support import sample_runs

from kdjax import selective
from kdjax.evaluation.promises import by_class
from kdjax.evaluation.promises.base import Evidence

NAMES = ("cat", "dog", "bird", "fish")
SIZES = {"dev": 100, "calibration": 1500, "test": 600}


def evidence(draw=sample_runs.split, **changes):
    outputs = {name: draw(size, seed) for seed, (name, size) in enumerate(SIZES.items())}
    fields = {
        "confidence": selective.numpy_scores(2.0)["margin"],
        "threshold": 0.5,
        "source": "certificate",
        "risk": 0.1,
        "delta": 0.05,
        "runs": 1,
        "class_names": NAMES,
        "settings": {},
    }
    return Evidence(**outputs, **{**fields, **changes})


def rare_and_bad(size, seed):
    """Class 3 is never predicted, class 2 rarely, and class 1 is a guess."""
    outputs = sample_runs.split(size, seed)
    rng, logits = np.random.default_rng(seed), outputs.logits.copy()
    logits[:, 3] = -50
    logits[rng.random(size) < 0.99, 2] = -49
    guessed = logits[:, :4].argmax(axis=1) == 1
    labels = np.where(guessed, rng.integers(0, 4, size), logits[:, :4].argmax(axis=1))
    return outputs._replace(logits=logits, labels=labels.astype(np.int32))


def predicted_class(outputs):
    return outputs.logits[:, :-1].argmax(axis=1)


@pytest.mark.slow
@pytest.mark.parametrize("draw", [sample_runs.split, rare_and_bad])
def test_counts_are_those_of_the_predictions_at_each_threshold(draw):
    given = evidence(draw)
    values = by_class.compute(given)
    assert values["names"] == list(NAMES) and values["used"] is False
    assert values["images"] == {"calibration": 1500, "test": 600}
    for split in ("calibration", "test"):
        outputs = getattr(given, split)
        confidence, predicted = given.confidence(outputs.logits), predicted_class(outputs)
        for label, threshold in enumerate(values["threshold"]):
            of_class = predicted == label
            kept = of_class & (confidence >= (np.inf if threshold is None else threshold))
            wrong = kept & (outputs.labels != label)
            assert values[split]["examples"][label] == of_class.sum()
            assert values[split]["accepted"][label] == kept.sum()
            assert values[split]["errors"][label] == wrong.sum()
    assert json.loads(json.dumps(values, allow_nan=False)) == values


def test_thresholds_are_those_of_classwise_on_the_calibration_split():
    given = evidence()
    values = by_class.compute(given)
    outputs = given.calibration
    rule = selective.classwise(
        given.confidence(outputs.logits),
        predicted_class(outputs) == outputs.labels,
        predicted_class(outputs),
        risk=0.1,
        delta=0.05,
    )
    assert values["threshold"] == rule.threshold.tolist() and values["level"] == rule.level


def test_a_class_without_a_certificate_is_named_with_the_reason():
    values = by_class.compute(evidence(rare_and_bad))
    assert [threshold is None for threshold in values["threshold"]] == [False, True, True, True]
    assert values["tested"] == [True, True, False, False]
    first, wrong, few, cost = by_class.statement(values).sentences
    assert "at most 10 % of the new images that are accepted as a class are wrong" in first
    assert first.endswith("for 1 of the 4 classes (cat).")
    assert wrong.startswith("For dog no image would be accepted, because too many calibration")
    assert few.startswith("For bird and fish no image would be accepted, because there are too few")
    # 0.9^39 <= 0.05 / 3 and 0.9^42 <= 0.05 / 4
    assert few.endswith("one more class needs 39, and all 4 together 42 each.")
    count = values["test"]["accepted"][0]
    assert cost.startswith(f"With these thresholds, {count} of 600 ({100 * count / 600:.1f} %)")
    assert "--classwise" in cost


def test_all_classes_and_none_are_said_so():
    statement = by_class.statement(by_class.compute(evidence()))
    assert statement.sentences[0].endswith("for all 4 classes.")
    assert "95 %" in statement.scope and len(statement.sentences) == 2
    nothing = by_class.statement(by_class.compute(evidence(risk=0.001)))
    assert nothing.sentences[0].startswith("For none of the 4 classes could it be shown that at ")
    assert len(nothing.sentences) == 2
    # 0.999^2995 <= 0.05, and 0.999^4380 <= 0.05 / 4
    assert nothing.sentences[1] == (
        "For all 4 classes no image would be accepted, because there are too few calibration "
        "images: even if none is wrong, a single class needs 2,995, and all 4 together 4,380 each."
    )


def test_a_model_that_uses_the_thresholds_says_so():
    given = evidence(class_thresholds=(0.5, 0.6, 0.7, np.inf))
    values = by_class.compute(given)
    first, cost = by_class.statement(values).sentences
    assert values["used"] and first.startswith("The model has a threshold for each class: at most")
    assert cost.startswith("It accepted ")
    confidence = given.confidence(given.test.logits)
    limits = np.array(given.class_thresholds)[predicted_class(given.test)]
    assert given.accepted("test").tolist() == (confidence >= limits).tolist()


def test_many_classes_are_not_all_named():
    names = [f"class {i}" for i in range(100)]
    counts = {"examples": [10] * 100, "accepted": [9] * 100, "errors": [0] * 100}
    values = {
        "risk": 0.02,
        "delta": 0.05,
        "level": 0.0005,
        "names": names,
        "threshold": [0.5] * 60 + [None] * 40,
        "tested": [True] * 70 + [False] * 30,
        "calibration": counts,
        "test": counts,
        "images": {"calibration": 1000, "test": 1000},
        "used": False,
    }
    first, wrong, few, _ = by_class.statement(values).sentences
    assert "60 of the 100 classes" in first and "class 11 and 48 more classes" in first
    assert "class 69" in wrong and "more" not in wrong  # ten names
    assert "class 81 and 18 more classes" in few and max(map(len, (first, few))) < 500
