"""The promises on risk and coverage together, and on several risks at once."""

import numpy as np
import pytest
from support import evidence as evidences

from kdjax import selective
from kdjax.evaluation import certification, joint
from kdjax.evaluation.promises import joint as joint_promise
from kdjax.evaluation.promises import ladder as ladder_promise

CALIBRATION, TEST = evidences.draw(1500, 0), evidences.draw(500, 1)
RISK, DELTA = 0.05, 0.1


def evidence(**fields):
    return evidences.of(CALIBRATION, TEST, **fields)


def requested(coverage):
    return joint_promise.compute(evidence(settings={"coverage": coverage}))


def sample(split):
    return evidences.margin(split.logits), split.labels == 0


def counts(split, threshold):
    kept = split.logits[:, 0] >= threshold
    return int(kept.sum()), int(np.sum(kept & (split.labels != 0)))


@pytest.mark.parametrize("coverage", [0.0, 0.5, 0.95])
def test_the_pairs_are_those_of_the_certificate_with_their_counts(coverage):
    values = requested(coverage)
    expected = selective.joint_certificate(
        *sample(CALIBRATION), risk=RISK, coverage=coverage, delta=DELTA
    )
    assert values["both"] == expected.both and values["examples"] == 1500
    for name in ("at_risk", "at_coverage"):
        pair, certified = values[name], getattr(expected, name)
        if certified is None:
            assert pair is None
            continue
        for field in ("threshold", "risk", "coverage"):
            assert pair[field] == getattr(certified, field)
        for split, outputs in (("calibration", CALIBRATION), ("test", TEST)):
            accepted, errors = counts(outputs, certified.threshold)
            numbers = {"images": len(outputs.labels), "accepted": accepted, "errors": errors}
            assert pair[split] == numbers


@pytest.mark.parametrize(
    ("threshold", "source", "sentence"),
    [
        ("own", "certificate", "The threshold in use is one for both."),
        (1.0, "certificate", "That takes a slightly stricter threshold than the one in use"),
        (1.0, "given", "That takes another threshold than the one in use."),
    ],
)
def test_the_statement_says_whether_the_model_uses_the_threshold(threshold, source, sentence):
    if threshold == "own":
        threshold = requested(0.5)["at_risk"]["threshold"]
    used = evidence(threshold=threshold, source=source, settings={"coverage": 0.5})
    assert sentence in text(joint_promise.compute(used))[0]


def test_images_that_a_gate_stops_count_as_not_accepted():
    gate = {name: {"examples": n} for name, n in (("calibration", 3000), ("test", 1000))}
    values = joint_promise.compute(evidence(gate=gate, settings={"coverage": 0.6}))
    assert not values["both"] and requested(0.6)["both"]
    assert values["at_risk"]["calibration"]["images"] == 3000
    assert values["at_risk"]["test"]["images"] == 1000


def text(values):
    found = joint_promise.statement(values)
    return " ".join(found.sentences), found.scope


def test_without_a_request_the_possible_coverage_is_stated():
    values = requested(0.0)
    sentences, scope = text(values)
    bound = np.floor(1000 * values["at_risk"]["coverage"]) / 10
    assert "No least share" in sentences and f"at least {bound:.1f} %" in sentences
    assert "both parts hold together, with a probability of at least 90 %" in scope


def test_both_requests_that_can_be_met_are_stated():
    sentences, _ = text(requested(0.5))
    assert "Both requests can be met: at most 5 %" in sentences and "at least 50 %" in sentences
    bound = np.floor(1000 * requested(0.5)["at_risk"]["coverage"]) / 10
    assert bound > 50 and f"even one for at least {bound:.1f} %" in sentences


def test_requests_that_cannot_both_be_met_give_the_two_possible_pairs():
    values = requested(0.95)
    sentences, scope = text(values)
    assert sentences.startswith("Not both")
    risk = np.ceil(10000 * values["at_coverage"]["risk"]) / 100
    assert f"or at most {risk:.2f} % errors with at least 95 % accepted" in sentences
    assert "either may be chosen" in sentences and "all numbers hold together" in scope


def test_of_one_possible_pair_no_choice_is_offered():
    values = requested(0.999)
    sentences, _ = text({**values, "at_coverage": None})
    assert "Possible is: at most 5 % errors with at least" in sentences
    assert "either may be chosen" not in sentences
    sentences, _ = text({**values, "at_coverage": None, "at_risk": None})
    assert sentences.startswith("No share of accepted images can be promised")


# The certificate of a run with a requested coverage.


def certify(coverage):
    return certification.certify(
        sample(CALIBRATION), sample(TEST), risk=RISK, delta=DELTA, coverage=coverage
    )


def test_a_run_uses_the_threshold_for_both_if_there_is_one():
    guarantee = certify(0.5)
    found = certification.requested_certificate(guarantee)
    both = selective.joint_certificate(*sample(CALIBRATION), risk=RISK, coverage=0.5, delta=DELTA)
    accepted, errors = counts(TEST, both.threshold)
    assert found == {
        "threshold": both.threshold,
        "coverage": both.at_risk.accepted / 1500,
        "risk_bound": RISK,
        "test_coverage": accepted / 500,
        "test_error": errors / accepted,
        "least_coverage": max(0.5, both.at_risk.coverage),
    }
    assert guarantee["coverage"] == 0.5 and guarantee["joint"]["both"]


def test_a_run_keeps_to_the_risk_if_not_both_can_be_certified():
    guarantee, without = certify(0.95), certify(0.0)
    assert not guarantee["joint"]["both"] and joint.certificate(guarantee["joint"]) is None
    expected = certification.requested_certificate(without)
    assert certification.requested_certificate(guarantee) == expected
    assert not {"coverage", "joint"} & without.keys()


def test_the_coverage_of_a_run_is_certified_again_with_another_risk():
    results = {
        "best_score": "margin",
        "pnorm": 2.0,
        "guarantee": certify(0.5),
    }
    # Class 0 has the only logit that is not zero, so that the margin is the confidence.
    again = certification.certify_again(results, CALIBRATION, TEST, risk=0.1)
    assert (again["coverage"], again["joint"]["risk"]) == (0.5, 0.1)


# The ladder.


@pytest.fixture(scope="module")
def ladder():
    return ladder_promise.compute(evidence(risk=0.07))


def test_the_ladder_has_the_standard_risks_and_the_requested_one(ladder):
    risks = [rung["risk"] for rung in ladder["rungs"]]
    assert risks == sorted({*certification.RISKS, 0.07}, reverse=True)
    expected = selective.certified_ladder(*sample(CALIBRATION), risks=risks, delta=DELTA)
    assert ladder["level"] == expected.level
    for rung, one in zip(ladder["rungs"], expected.certificates, strict=True):
        threshold = rung["threshold"]
        assert (np.inf if threshold is None else threshold) == one.threshold
        for split, outputs in (("calibration", CALIBRATION), ("test", TEST)):
            accepted, errors = counts(outputs, one.threshold)
            assert (rung[split]["accepted"], rung[split]["errors"]) == (accepted, errors)


def test_each_rung_has_the_certificates_that_hold_alone(ladder):
    for rung in ladder["rungs"]:
        for name, certify_alone in certification.CERTIFIERS.items():
            alone = certify_alone(*sample(CALIBRATION), risk=rung["risk"], delta=DELTA)
            found = rung["alone"][name]
            assert found["bound"] == alone.risk_bound
            assert found["calibration"]["accepted"] == round(1500 * alone.coverage)
        assert (
            rung["alone"]["learn_then_test"]["calibration"]["accepted"]
            >= (rung["calibration"]["accepted"])
        )


def test_the_threshold_that_is_used_is_named():
    alone = selective.learn_then_test(*sample(CALIBRATION), risk=RISK, delta=DELTA).threshold
    for threshold, used in ((alone, True), (np.inf, False), (alone + 0.1, False)):
        values = ladder_promise.compute(evidence(threshold=threshold))
        assert values["alone_used"] == used
        found = ladder_promise.statement(values)
        accepted, _ = counts(CALIBRATION, alone)
        sentence = f"has the threshold that accepts {accepted / 15:.1f} %, see the last column"
        assert (sentence in found.sentences[1]) == used
        assert [row[-1].endswith("% (in use)") for row in found.table.rows][1] == used


def test_a_row_that_only_a_limit_fixed_beforehand_would_have_is_marked():
    small = evidences.draw(300, 0)
    values = ladder_promise.compute(evidences.of(small, TEST, runs=20))
    alone = [rung["alone"]["learn_then_test"]["threshold"] for rung in values["rungs"]]
    trap = [
        rung["threshold"] is None and own is not None and rung["risk"] != RISK
        for rung, own in zip(values["rungs"], alone, strict=True)
    ]
    rows = ladder_promise.statement(values).table.rows
    assert any(trap) and [row[-1].endswith("(only if fixed beforehand)") for row in rows] == trap


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("runs", [1, 7])
def test_the_named_command_accepts_no_more_than_the_row(seed, runs):
    split = evidences.draw(600 + 300 * seed, seed)
    values = ladder_promise.compute(evidences.of(split, TEST, runs=runs))
    level = float(ladder_promise.level(values))
    assert 0.999 * values["level"] <= level <= values["level"] * (1 + 1e-9)
    for rung in values["rungs"]:
        if rung["threshold"] is None:
            continue
        own = selective.learn_then_test(*sample(split), risk=rung["risk"], delta=level)
        assert own.threshold >= rung["threshold"]
    first = next(rung["risk"] for rung in values["rungs"] if rung["threshold"] is not None)
    command = f"kdjax export --risk={first:g} --delta={ladder_promise.level(values)}"
    assert command in ladder_promise.statement(values).sentences[0]


def test_without_a_row_no_command_is_named():
    values = ladder_promise.compute(evidences.of(evidences.draw(20, 0), TEST))
    assert all(rung["threshold"] is None for rung in values["rungs"])
    assert "kdjax export" not in " ".join(ladder_promise.statement(values).sentences)


def test_limits_that_cannot_be_certified_are_not_possible(ladder):
    row = ladder_promise.statement(ladder).table.rows[-1]
    assert ladder["rungs"][-1]["threshold"] is None
    assert row[:4] == ("0.5 %", "not possible", "0.0 %", "nothing accepted")


def test_rungs_of_several_runs_share_delta():
    values = ladder_promise.compute(evidence(runs=4))
    expected = selective.certified_ladder(
        *sample(CALIBRATION), risks=certification.RISKS, delta=DELTA / 4
    )
    assert values["level"] == expected.level and values["runs"] == 4
    found = ladder_promise.statement(values)
    assert "all rows of all 4 models hold together" in found.scope


def test_the_table_says_which_promise_is_which(ladder):
    found = ladder_promise.statement(ladder)
    assert "all rows hold together, with a probability of at least 90 %" in found.scope
    assert "You may pick any row after a look at the table" in found.sentences[0]
    assert "false in more than 10 of 100 cases" in found.sentences[1]
    columns, rows = found.table.columns, found.table.rows
    assert columns[0] == "at most wrong" and columns[-1].startswith("this limit alone")
    assert [row[0] for row in rows][:3] == ["10 %", "7 % *", "5 %"]
    rung = ladder["rungs"][0]
    accepted, errors = (rung["test"][name] for name in ("accepted", "errors"))
    assert rows[0][2] == f"{100 * accepted / 500:.1f} %"
    assert rows[0][3] == f"{100 * errors / accepted:.2f} %"
