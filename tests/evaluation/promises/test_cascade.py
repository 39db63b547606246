"""The promise on student and teacher together, against its definition and exact bounds."""

import json
import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats
from support import cascades

from kdjax.evaluation import promises
from kdjax.evaluation.promises import Extras, cascade

SIZE = 1000


def whole(evidence, split, threshold):
    """Returns the share passed on and the number of wrong answers, one image after the other."""
    outputs, others = getattr(evidence, split), evidence.extras.teacher[split]
    threshold = math.inf if threshold is None else threshold
    wrong = passed_on = 0
    for row, label in enumerate(outputs.labels):
        logits = outputs.logits[row, :3]
        if logits.max() - logits.min() < threshold:
            logits, passed_on = others.logits[row], passed_on + 1
        wrong += logits.argmax() != label
    return passed_on / len(outputs.labels), wrong


def upper_bound(errors, n, delta):
    return stats.beta.ppf(1 - delta, errors + 1, n - errors)


@pytest.fixture(scope="module")
def evidence():
    return cascades.evidence(SIZE)


@pytest.fixture(scope="module")
def values(evidence):
    return cascade.compute(evidence)


def test_every_point_has_the_counts_and_the_cost_of_its_threshold(evidence, values):
    points = [values["certificate"]["point"], values["own"], *values["rows"]]
    for point in points:
        shares = {}
        for split, figures in (("calibration", point), ("test", point["test"])):
            shares[split], wrong = whole(evidence, split, point["threshold"])
            assert (figures["errors"], figures["risk"]) == (wrong, wrong / SIZE)
            assert_allclose(figures["passed_on"], shares[split])
            assert_allclose(figures["multiply_adds"], 100_000 + shares[split] * 1_000_000)


def test_certified_share_is_cheaper_than_the_teacher_and_keeps_the_risk(evidence, values):
    point = values["certificate"]["point"]
    assert point["risk_bound"] == evidence.risk == 0.05
    assert 0.2 < point["passed_on"] < 0.6
    # The next threshold on dev cannot be certified any more.
    looser = max(value for value in values["thresholds"] if value < point["threshold"])
    _, wrong = whole(evidence, "calibration", looser)
    assert stats.binom.cdf(wrong, SIZE, 0.05) > 0.05
    assert stats.binom.cdf(point["errors"], SIZE, 0.05) <= 0.05


def test_bounds_of_the_table_hold_together(values):
    rows = values["rows"]
    assert (rows[0]["passed_on"], rows[-1]["passed_on"]) == (0, 1)
    assert rows[-1]["threshold"] is None
    for row in rows:
        expected = upper_bound(row["errors"], SIZE, 0.05 / len(rows))
        assert_allclose(row["risk_bound"], expected, rtol=1e-9)


@pytest.mark.parametrize("source", ["certificate", "none", "given", "dev, 90 % coverage"])
def test_bound_at_the_own_threshold_allows_for_its_choice_on_calibration(source):
    threshold = math.inf if source == "none" else 3.0
    own = cascade.compute(cascades.evidence(SIZE, threshold=threshold, source=source))["own"]
    exact = upper_bound(own["errors"], SIZE, 0.05)
    if source in ("certificate", "none"):
        assert own["risk_bound"] > exact + 0.002
    else:
        assert_allclose(own["risk_bound"], exact, rtol=1e-9)


@pytest.mark.parametrize(
    "extras",
    [Extras(), Extras(fallback=cascades.FALLBACK), Extras({"dev": 1}, cascades.FALLBACK)],
)
def test_without_the_predictions_of_a_teacher_there_is_no_cascade(evidence, extras):
    assert cascade.compute(evidence._replace(extras=extras)) is None


def test_thresholds_of_the_classes_have_no_bound_of_their_own(evidence):
    changed = evidence._replace(class_thresholds=(1.0, 2.0, 3.0))
    values = cascade.compute(changed)
    assert values["own"] is None and values["certificate"]["point"] is not None
    assert not any("exactly" in text for text in cascade.statement(values).sentences)


def statement_of(**options):
    values = cascade.compute(cascades.evidence(**options))
    return cascade.statement(json.loads(json.dumps(values, allow_nan=False)))


def test_statement_says_what_is_promised_and_what_it_costs(values):
    statement = statement_of()
    point = values["certificate"]["point"]
    share, cost = 100 * point["passed_on"], point["multiply_adds"]
    assert f"passes about {share:.1f} % on to the teacher" in statement.sentences[0]
    assert "at most 5 % are wrong, with 95 % certainty" in statement.sentences[0]
    assert f"costs {cost / 1000:.0f} k multiply-adds" in statement.sentences[1]
    assert f"{cost / 1e4:.0f} % of the teacher alone (1.00 M)" in statement.sentences[1]
    assert "exactly what the student does not accept" in statement.sentences[2]
    assert "This limit is not one of the table" in statement.sentences[2]
    assert "kdjax predict --fallback=TEACHER --threshold" in statement.sentences[3]
    own, row = values["own"], values["rows"][0]
    assert statement.table.rows[0][4] == f"{row['multiply_adds'] / 1e4:.0f} %" == "10 %"
    assert f"at most {np.ceil(1e4 * own['risk_bound']) / 100:.2f} %" in statement.sentences[2]
    assert statement.scope.startswith("Each sentence holds alone, with a probability of at least 9")
    assert "All rows of the table hold together" in statement.scope
    assert [len(row) for row in statement.table.rows] == [6] * len(values["rows"])
    assert (statement.table.rows[0][-1], statement.table.rows[-1][-1]) == ("all", "none")


def test_dear_student_and_unknown_costs_are_said():
    fallback = {**cascades.FALLBACK, "multiply_adds": 100, "student_multiply_adds": 200}
    changed = cascades.evidence()
    dear = changed._replace(extras=changed.extras._replace(fallback=fallback))
    values = cascade.compute(dear)
    share = 200 + 100 * values["certificate"]["point"]["passed_on"]
    assert f": {share:.0f} % of the teacher alone" in cascade.statement(values).sentences[1]
    fallback |= {"multiply_adds": None, "weights_sha256": None, "file": "teacher.onnx"}
    unknown = changed._replace(extras=changed.extras._replace(fallback=fallback))
    unknown = cascade.compute(unknown)
    statement = cascade.statement(unknown)
    assert "is not known, because the teacher is given as a file" in statement.sentences[1]
    assert {row[3:5] for row in statement.table.rows} == {("not known", "not known")}


def test_student_that_needs_no_teacher_is_said():
    statement = statement_of(student=0.01)
    assert "may answer every image by itself" in statement.sentences[0]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            {"teacher": 0.2, "student": 0.4, "confidence": lambda values: -values.max(axis=1)},
            "the teacher itself is wrong on ",
        ),
        ({"teacher": 0.6, "student": 0.3}, "even with the best share passed on, "),
        ({"n": 40, "teacher": 0.0}, "40 calibration images are too few to show it, even without"),
    ],
)
def test_impossible_certificate_is_a_result_with_its_reason(options, reason):
    statement = statement_of(**options)
    (sentence,) = statement.sentences
    assert sentence.startswith("At most 5 % wrong of all answers cannot be promised by passing")
    assert f": {reason}" in sentence and statement.table is None
    assert ("least limit" in sentence) == ("too few" not in sentence)


def test_impossible_certificate_names_the_least_bound_of_the_rows():
    values = cascade.compute(cascades.evidence(teacher=0.6, student=0.3))
    least = min(
        stats.beta.ppf(1 - 0.05 / 7, row["errors"] + 1, SIZE - row["errors"])
        for row in values["rows"]
    )
    assert len(values["rows"]) == 7
    (sentence,) = cascade.statement(values).sentences
    assert sentence.endswith(f"can be promised is {np.ceil(1e4 * least) / 100:.2f} %.")


def test_registry_computes_and_states_the_cascade(evidence, values):
    computed = promises.PROMISES["cascade"].compute(evidence)
    assert computed == values
    (statement,) = promises.statements({"promises": {"cascade": values}})
    assert statement.title == "Student and teacher together"


def test_right_predictions_of_a_teacher_are_counted(evidence):
    teacher = evidence.extras.teacher["test"]
    assert np.mean(cascade.is_right(teacher)) == pytest.approx(0.98, abs=0.02)
