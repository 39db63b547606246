"""What a model card says for monitoring."""

import json

import numpy as np
import pytest
from scipy.stats import binomtest

from kdjax.export import card, monitoring

CALIBRATION = {"accepted": 160, "images": 200}
TEST = {"accepted": 300, "images": 400}


def card_of(**changes):
    return {
        **dict.fromkeys(card.FIELDS),
        "threshold": 0.5,
        "certificate": {"risk": 0.02, "delta": 0.1, "examples": 200},
        "operating_point": {"figures": {"calibration": CALIBRATION, "test": TEST}, "bound": None},
        **changes,
    }


def exact(counts, delta):
    test = binomtest(counts["accepted"], counts["images"], alternative="greater")
    return pytest.approx(test.proportion_ci(1 - delta).low)


def test_risk_is_that_of_the_certificate_and_coverage_a_bound_for_every_threshold():
    bounds = monitoring.bounds(card_of())
    assert bounds["risk"] == {"bound": 0.02, "delta": 0.1}
    coverage = bounds["coverage"]
    assert coverage == {
        "bound": exact(CALIBRATION, 0.1 / 200),
        "delta": 0.1,
        "split": "calibration",
        **CALIBRATION,
    }


def test_a_threshold_that_was_not_chosen_on_calibration_has_a_closer_bound():
    point = {"figures": {"calibration": CALIBRATION}, "bound": {"risk": 0.1, "delta": 0.2}}
    bounds = monitoring.bounds(card_of(certificate=None, operating_point=point))
    assert bounds["risk"] is None
    assert (bounds["coverage"]["bound"], bounds["coverage"]["delta"]) == (
        exact(CALIBRATION, 0.2),
        0.2,
    )


@pytest.mark.parametrize("several", [{"class_thresholds": [0.5, None]}, {"gate": {"name": "g"}}])
def test_the_bound_of_several_thresholds_comes_from_test(several):
    coverage = monitoring.bounds({**card_of(), **several})["coverage"]
    assert (coverage["split"], coverage["bound"]) == ("test", exact(TEST, 0.1))


def test_a_promised_coverage_is_watched_instead_of_a_bound():
    states = dict.fromkeys(("both", "used", "certified"), True)
    joint = {"coverage": 0.75, "delta": 0.05, "at_risk": {"coverage": 0.78}, **states}
    promised = monitoring.bounds(card_of(promises={"joint": joint}))["coverage"]
    assert promised == {"bound": 0.78, "delta": 0.05, "split": "calibration"}
    # Such as that of an export with another threshold, or with thresholds of its classes.
    for other in ({"both": False}, {"coverage": 0.0}, {"used": False}, {"certified": False}):
        coverage = monitoring.bounds(card_of(promises={"joint": joint | other}))["coverage"]
        assert coverage["bound"] == exact(CALIBRATION, 0.1 / 200)


@pytest.mark.parametrize(
    "changes",
    [
        {"threshold": None},
        {"operating_point": None},
        {
            "operating_point": {
                "figures": {"calibration": {"accepted": 0, "images": 9}},
                "bound": None,
            }
        },
    ],
)
def test_nothing_is_said_about_a_coverage_that_is_unknown(changes):
    assert monitoring.bounds(card_of(**changes))["coverage"] is None


def test_confidences_of_calibration_are_grouped_by_those_of_dev():
    rng = np.random.default_rng(0)
    dev, calibration = rng.normal(size=(2, 500)).astype(np.float32)
    stored = monitoring.monitoring(card_of(), dev, calibration)
    json.dumps(stored, allow_nan=False)
    reference = monitoring.reference_of(stored)
    assert sum(reference.counts) == 500 and len(reference.edges) == 63
    counts, _ = np.histogram(calibration, [-np.inf, *reference.edges, np.inf])
    assert list(reference.counts) == counts.tolist()
    assert abs(np.mean(dev < reference.edges[31]) - 0.5) < 0.01
    equal = monitoring.monitoring(card_of(), np.ones(5), calibration)
    assert equal["drift"] is None and monitoring.reference_of(equal) is None
    assert monitoring.reference_of(None) is None
