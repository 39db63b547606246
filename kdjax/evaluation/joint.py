"""A risk and a coverage that are certified together, as values for JSON."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kdjax import selective
from kdjax.evaluation.predictions import accepts, counts
from kdjax.selective import Pair

# Confidence [n] and whether each prediction is correct, bool [n].
Sample = tuple[np.ndarray, np.ndarray]


def measure(
    calibration: Sample,
    test: Sample,
    *,
    risk: float,
    coverage: float,
    delta: float,
    totals: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Certifies a risk and a coverage together, and evaluates the thresholds on test.

    Args:
        calibration: sample that was used for nothing else.
        test: sample of the test split.
        risk: requested, in (0, 1).
        coverage: requested, in [0, 1); 0: none.
        delta: probability that any of the bounds fails, in (0, 1).
        totals: numbers of images of calibration and test, if a gate stops some that are not in the
            samples.

    Returns:
        `risk`, `coverage` and `delta`; `examples`, the number of calibration images; `both`,
        whether both were certified; `at_risk` and `at_coverage`, the pairs of
        `selective.joint_certificate`, or None: each has `threshold`, the bounds `risk` and
        `coverage`, and for `calibration` and `test` the numbers of `images`, of those that are
        `accepted`, and of `errors` among these.
    """
    numbers = totals or (len(calibration[1]), len(test[1]))
    certificate = selective.joint_certificate(
        *calibration, risk=risk, coverage=coverage, delta=delta, total=numbers[0]
    )

    def values(pair: Pair | None) -> dict[str, Any] | None:
        if pair is None:
            return None
        confidence, correct = test
        on_test = counts(accepts(confidence, pair.threshold), correct)
        return {
            "threshold": pair.threshold,
            "risk": pair.risk,
            "coverage": pair.coverage,
            "calibration": {"images": numbers[0], "accepted": pair.accepted, "errors": pair.errors},
            "test": {**on_test, "images": numbers[1]},
        }

    return {
        "risk": risk,
        "coverage": coverage,
        "delta": delta,
        "examples": numbers[0],
        "both": certificate.both,
        "at_risk": values(certificate.at_risk),
        "at_coverage": values(certificate.at_coverage),
    }


def certificate(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the certificate of a run with both bounds, see `certification.certify`.

    Args:
        values: of `measure`.

    Returns:
        None if not both were certified.
    """
    if not values["both"]:
        return None
    pair = values["at_risk"]
    calibration, test = pair["calibration"], pair["test"]
    return {
        "threshold": pair["threshold"],
        "coverage": calibration["accepted"] / calibration["images"],
        "risk_bound": pair["risk"],
        "test_coverage": test["accepted"] / test["images"],
        "test_error": test["errors"] / test["accepted"] if test["accepted"] else None,
        "least_coverage": pair["coverage"],
    }
