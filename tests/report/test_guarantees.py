"""Certificates from calibration, and what they are said to give on test."""

import numpy as np
import pytest

from kdjax import selective
from kdjax.errors import InputError
from kdjax.report import guarantees


def sample(n, seed):
    """Confidences u and predictions that are right with probability u: risk falls as u rises."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(size=n)
    return confidence, rng.uniform(size=n) < confidence


CALIBRATION, TEST = sample(2000, 0), sample(500, 1)


@pytest.fixture(scope="module")
def found():
    return guarantees.guarantee(CALIBRATION, TEST, risk=0.15, delta=0.05)


def test_the_risk_asked_for_takes_its_place_in_the_ladder(found):
    risks = [entry["risk"] for entry in found["certificates"]]
    assert risks == sorted({0.15, *guarantees.LADDER}, reverse=True)
    assert (found["risk"], found["delta"], found["examples"]) == (0.15, 0.05, 2000)
    again = guarantees.guarantee(CALIBRATION, TEST, risk=0.05, delta=0.05)
    assert [entry["risk"] for entry in again["certificates"]] == list(guarantees.LADDER)


@pytest.mark.parametrize("certify", [selective.sgr, selective.learn_then_test])
def test_thresholds_come_from_calibration_and_are_judged_on_test(found, certify):
    confidence, right = TEST
    for entry in found["certificates"]:
        expected = certify(*CALIBRATION, risk=entry["risk"], delta=0.05)
        got = entry[certify.__name__]
        accepted = confidence >= expected.threshold
        assert got["coverage"] == expected.coverage
        assert got["risk_bound"] == expected.risk_bound
        assert got["test_coverage"] == np.mean(accepted)
        if np.isfinite(expected.threshold):
            assert got["threshold"] == expected.threshold
            assert got["test_error"] == np.mean(~right[accepted])
        else:
            assert (got["threshold"], got["test_error"]) == (None, None)


def test_the_threshold_of_a_run_is_that_of_learn_then_test_at_its_risk(found):
    expected = selective.learn_then_test(*CALIBRATION, risk=0.15)
    assert np.isfinite(expected.threshold)
    assert guarantees.operating(found)["threshold"] == expected.threshold


@pytest.mark.parametrize(("risk", "delta"), [(0, 0.1), (1, 0.1), (0.1, 0), (0.1, 1)])
def test_a_promise_out_of_range_is_refused(risk, delta):
    with pytest.raises(InputError, match=r"must lie in \(0, 1\)"):
        guarantees.guarantee(CALIBRATION, TEST, risk=risk, delta=delta)
