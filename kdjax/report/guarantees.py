"""From a calibration split to certificates, and what their thresholds then give on test."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kdjax import selective

# Certified beside the risk that a run asks for, so that a user sees what each would cost. Each
# certificate holds on its own with probability 1 - delta, not all of them together.
LADDER = (0.1, 0.05, 0.02, 0.01, 0.005)
CERTIFIERS = {"sgr": selective.sgr, "learn_then_test": selective.learn_then_test}


def guarantee(
    calibration: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    *,
    risk: float,
    delta: float,
) -> dict[str, Any]:
    """Returns what `results.json` holds of certified thresholds.

    Args:
        calibration: confidence [n] and correct [n] of examples that nothing was chosen by.
        test: the same of the test split, where the thresholds are judged.
        risk: the target, in (0, 1).
        delta: in (0, 1), the probability that a certificate may fail.

    Returns:
        `risk`, `delta`, `examples` of the calibration split, and `certificates`: one entry a risk
        of the ladder, the largest first, with `sgr` and `learn_then_test`; each of these has
        `threshold` (None: no threshold can be certified), `coverage` on the calibration split,
        `risk_bound`, `test_coverage` and `test_error`.

    Raises:
        ValueError: for a risk or delta out of range, or confidences with NaN.
    """
    entries = [
        {
            "risk": each,
            **{
                name: _judged(certify(*calibration, risk=each, delta=delta), test)
                for name, certify in CERTIFIERS.items()
            },
        }
        for each in sorted({*LADDER, risk}, reverse=True)
    ]
    return {
        "risk": risk,
        "delta": delta,
        "examples": len(calibration[1]),
        "certificates": entries,
    }


def operating(found: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the certificate that a run stands by: learn_then_test's at the risk asked for."""
    (entry,) = (one for one in found["certificates"] if one["risk"] == found["risk"])
    return entry["learn_then_test"]


def _judged(
    certificate: selective.Certificate, test: tuple[np.ndarray, np.ndarray]
) -> dict[str, float | None]:
    coverage, error = selective.accept_at(*test, certificate.threshold)
    return {
        "threshold": certificate.threshold if np.isfinite(certificate.threshold) else None,
        "coverage": certificate.coverage,
        "risk_bound": certificate.risk_bound,
        "test_coverage": coverage,
        "test_error": None if np.isnan(error) else error,
    }
