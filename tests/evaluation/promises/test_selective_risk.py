"""The promise on the errors among accepted images."""

import numpy as np
import pytest
from scipy import stats
from support import evidence as evidences

from kdjax.evaluation import promises
from kdjax.evaluation.predictions import accepts
from kdjax.evaluation.promises import selective_risk

CALIBRATION, TEST = evidences.draw(800, 0), evidences.draw(500, 1)


def numbers(split, threshold):
    kept = split.logits[:, 0] >= threshold
    errors = int(np.sum(kept & (split.labels != 0)))
    return {"images": len(kept), "accepted": int(kept.sum()), "errors": errors}


def compute(**fields):
    return selective_risk.compute(evidences.of(CALIBRATION, TEST, **fields))


@pytest.mark.parametrize("source", ["certificate", "certificate of each class"])
def test_a_certificate_promises_the_requested_risk(source):
    values = compute(threshold=1.5, source=source)
    assert (values["kind"], values["risk"], values["delta"]) == ("certified", 0.05, 0.1)
    assert values["threshold"] == 1.5
    assert values["calibration"] == numbers(CALIBRATION, 1.5)
    assert values["test"] == numbers(TEST, 1.5)


def test_another_threshold_promises_the_bound_of_its_errors_on_calibration():
    values = compute(threshold=1.2, source="dev, 80 % coverage")
    split = numbers(CALIBRATION, 1.2)
    bound = stats.beta.isf(0.1, split["errors"] + 1, split["accepted"] - split["errors"])
    assert values["kind"] == "bound" and values["risk"] == pytest.approx(bound, rel=1e-9)
    sentence = selective_risk.statement(values).sentences[0]
    assert f"at most {np.ceil(10000 * bound) / 100:.2f} %" in sentence


def test_a_threshold_between_neighbouring_float32_confidences_accepts_the_upper_one_only():
    lower = np.float32(3)
    upper = np.nextafter(lower, np.float32(np.inf))
    confidence = np.repeat([upper, lower], 100)
    split = evidences.outputs(confidence, np.repeat([True, False], 100))
    middle = (float(lower) + float(upper)) / 2
    evidence = evidences.of(split, split, threshold=middle, source="dev, 50 % coverage")
    values = selective_risk.compute(evidence._replace(confidence=lambda logits: logits[:, 0]))
    assert values["test"] == {"images": 200, "accepted": 100, "errors": 0}
    assert accepts(confidence, middle).tolist() == [True] * 100 + [False] * 100


def test_a_model_that_accepts_nothing_promises_nothing():
    values = compute()
    assert (values["kind"], values["risk"], values["threshold"]) == ("none", None, None)
    (sentence,) = selective_risk.statement(values).sentences
    assert sentence.startswith("Nothing is promised") and "800 calibration images" in sentence


def test_the_statement_has_the_promise_and_the_measurement():
    values = compute(threshold=1.5, source="certificate")
    found = selective_risk.statement(values)
    split = numbers(TEST, 1.5)
    assert found.sentences[0] == (
        "Of the new images that the model accepts, at most 5 % get a wrong class."
    )
    assert f"{split['accepted']} of 500" in found.sentences[1]
    assert f"{split['errors']} of them were wrong" in found.sentences[1]
    assert found.scope == "Holds alone, with a probability of at least 90 %"
    assert len(found.sentences) == 2


def test_one_of_several_students_must_be_chosen_without_a_look():
    found = selective_risk.statement(compute(threshold=1.5, source="certificate", runs=3))
    assert "one of 3 that were trained together" in found.sentences[-1]
    assert "a row of the table 'Limits that hold together'" in found.sentences[-1]
    assert "hold for all 3 models" in found.sentences[-1]


def test_thresholds_of_the_classes_decide_if_there_are_any():
    thresholds = (1.875, 0.0, 0.0)
    values = compute(threshold=0.0, source="certificate of each class", class_thresholds=thresholds)
    assert values["test"] == numbers(TEST, 1.875) and values["threshold"] is None
    assert promises.PROMISES["selective_risk"] is selective_risk.PROMISE
