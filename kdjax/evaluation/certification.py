"""Certified thresholds, and the operating point by which a run accepts predictions."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from kdjax import selective
from kdjax.evaluation.predictions import Predictions

# Risks that are certified in addition to the requested one, to show the coverage that each costs.
# Each certificate holds on its own with probability 1 - delta, not all of them together.
RISKS = (0.1, 0.05, 0.02, 0.01, 0.005)
CERTIFIERS = {"sgr": selective.sgr, "learn_then_test": selective.learn_then_test}

# Confidence [n] and whether each prediction is correct, bool [n].
Sample = tuple[np.ndarray, np.ndarray]


class OperatingPoint(NamedTuple):
    """The rule by which a run accepts a prediction: confidence >= threshold.

    Attributes:
        score: the name of the confidence score.
        pnorm: p of the score `max_logit_pnorm`.
        threshold: the lowest accepted confidence; infinite if nothing is accepted.
        source: `certificate`, `dev, <coverage> % coverage`, or `none` if nothing is accepted.
        guarantee: the certified thresholds, see `certify`; None without a calibration split.
    """

    score: str
    pnorm: float
    threshold: float
    source: str
    guarantee: Mapping[str, Any] | None

    @property
    def certified(self) -> bool:
        """Whether the threshold is certified."""
        return self.source == "certificate"

    @property
    def certificate(self) -> dict[str, Any]:
        """The certificate of the requested risk, see `certify`; empty without a guarantee."""
        return requested_certificate(self.guarantee) if self.guarantee else {}

    @property
    def confidence(self) -> Callable[[Any], jax.Array]:
        """The confidence score, logits [n, m+1] -> [n]; JAX can trace it."""
        return selective.scores_with_pnorm(self.pnorm)[self.score]

    def accepts(self, confidence: Any) -> Any:
        """Returns whether each confidence [n] is accepted, bool [n]."""
        return confidence >= self.threshold


def certify(calibration: Sample, test: Sample, *, risk: float, delta: float) -> dict[str, Any]:
    """Certifies thresholds on a calibration split and evaluates them on test.

    Args:
        calibration: sample that was used for nothing else.
        test: sample of the test split.
        risk: the requested risk, in (0, 1).
        delta: in (0, 1), the probability that a certificate may fail.

    Returns:
        `risk`, `delta`, `examples` of the calibration split, and `certificates`: one entry per
        risk, the largest first, with `sgr` and `learn_then_test`; each of these has `threshold`
        (None if no threshold can be certified), `coverage` on the calibration split,
        `risk_bound`, `test_coverage` and `test_error`.

    Raises:
        ValueError: for a risk or delta out of range, or confidences with NaN.
    """
    entries = [
        {
            "risk": target,
            **{
                name: _on_test(certifier(*calibration, risk=target, delta=delta), test)
                for name, certifier in CERTIFIERS.items()
            },
        }
        for target in sorted({*RISKS, risk}, reverse=True)
    ]
    return {
        "risk": risk,
        "delta": delta,
        "examples": len(calibration[1]),
        "certificates": entries,
    }


def requested_certificate(guarantee: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the certificate that a run uses: of learn_then_test, at the requested risk."""
    (entry,) = (entry for entry in guarantee["certificates"] if entry["risk"] == guarantee["risk"])
    return entry["learn_then_test"]


def certify_again(
    results: Mapping[str, Any],
    calibration: Predictions,
    test: Predictions,
    *,
    risk: float | None = None,
    delta: float | None = None,
) -> dict[str, Any]:
    """Returns the guarantee of a run for another risk or delta; see `certify`.

    Args:
        results: content of `results.json`.
        calibration: logits [n, m+1] and labels of the calibration split.
        test: the same of the test split.
        risk: instead of the run's.
        delta: instead of the run's.
    """
    score = selective.numpy_scores(results["pnorm"])[results["best_score"]]
    samples = ((score(split.logits), selective.is_correct(*split)) for split in (calibration, test))
    requested = results["guarantee"]
    return certify(
        *samples,
        risk=requested["risk"] if risk is None else risk,
        delta=requested["delta"] if delta is None else delta,
    )


def operating_point(
    results: Mapping[str, Any], *, fallback_coverage: str | None = None
) -> OperatingPoint:
    """Returns the operating point of a run.

    Args:
        results: content of `results.json`, perhaps with the `guarantee` of `certify_again`.
        fallback_coverage: if no threshold is certified, use the one that accepts this percentage
            of dev, a key of `thresholds` in the results; None: accept nothing.
    """
    score, guarantee = results["best_score"], results.get("guarantee")
    certified = requested_certificate(guarantee)["threshold"] if guarantee else None
    if certified is not None:
        threshold, source = certified, "certificate"
    elif fallback_coverage is not None:
        threshold = results["scores"][score]["thresholds"][fallback_coverage]["threshold"]
        source = f"dev, {fallback_coverage} % coverage"
    else:
        threshold, source = math.inf, "none"
    return OperatingPoint(score, results["pnorm"], threshold, source, guarantee)


def _on_test(certificate: selective.Certificate, test: Sample) -> dict[str, float | None]:
    coverage, error = selective.accept_at(*test, certificate.threshold)
    return {
        "threshold": certificate.threshold if np.isfinite(certificate.threshold) else None,
        "coverage": certificate.coverage,
        "risk_bound": certificate.risk_bound,
        "test_coverage": coverage,
        "test_error": None if np.isnan(error) else error,
    }
