"""Certified thresholds, and the operating point by which a run accepts predictions."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from kdjax import selective
from kdjax.errors import InputError
from kdjax.evaluation.predictions import Predictions
from kdjax.selective.certificates import LEAST_ACCEPTED

# Risks that are certified in addition to the requested one, to show the coverage that each costs.
# Each of these certificates holds on its own with probability 1 - delta; those that hold together
# are certified at a smaller delta, see `certify`.
RISKS = (0.1, 0.05, 0.02, 0.01, 0.005)
LTT = "learn_then_test"
# Coverage on dev, in %, of the threshold for measurements of a run without a certified one.
FALLBACK_COVERAGE = "90"
CERTIFIERS = {"sgr": selective.sgr, LTT: selective.learn_then_test}

# What every page, table and card says about certificates.
CHOICE = (
    "A certificate holds for a run, a risk and a delta that were fixed before the calibration "
    "split was seen: if one of S certified runs or risks is chosen by its certificate or its test "
    "results, certify at delta / S."
)
# Teachers that kdjax has not trained, by `kind`.
_EXTERNAL_TEACHERS = {"onnx": "ONNX file", "logits": "logits in", "weights": "weights in"}

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
        combination: coefficients of the score `combination`; None: equal weights.
    """

    score: str
    pnorm: float
    threshold: float
    source: str
    guarantee: Mapping[str, Any] | None
    combination: tuple[float, float, float] | None = None

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
        return selective.scores_with_pnorm(self.pnorm, self.combination)[self.score]

    def accepts(self, confidence: Any) -> Any:
        """Returns whether each confidence [n], a numpy or JAX array, is accepted, bool [n].

        float32 confidences are compared as in float64, though JAX rounds the threshold to float32.
        """
        if confidence.dtype == np.float64:
            return confidence >= self.threshold
        rounded = np.float32(self.threshold)
        above = np.nextafter(rounded, np.float32(np.inf))
        return confidence >= (above if float(rounded) < self.threshold else rounded)


def certify(
    calibration: Sample, test: Sample, *, risk: float, delta: float, runs: int = 1
) -> dict[str, Any]:
    """Certifies thresholds on a calibration split and evaluates them on test.

    A certificate holds for a run and a risk that were chosen before the calibration split was
    seen. To choose afterwards among several certificates, all of them have to hold together: by
    the union bound, S certificates at delta / S do with probability at least 1 - delta.

    Args:
        calibration: sample that was used for nothing else.
        test: sample of the test split.
        risk: the requested risk, in (0, 1).
        delta: in (0, 1), the probability that a certificate may fail.
        runs: S >= 1, the number of runs among which one may be chosen by its certificate, its
            coverage or its test results.

    Returns:
        `risk`, `delta`, `examples` of the calibration split, and `certificates`: one entry per
        risk, the largest first, with `sgr` and `learn_then_test`; each of these has `threshold`
        (None if no threshold can be certified), `coverage` on the calibration split,
        `risk_bound`, `test_coverage` and `test_error`. `runs`; `all_runs`, the certificate of
        learn_then_test at the requested risk and delta / S, with that `delta`, which holds for all
        runs together; `simultaneous`, `delta` / (S L) for L risks, and `certificates`, the same
        entries at this delta with `learn_then_test` alone: these hold for all risks and all runs
        together.

    Raises:
        ValueError: for a risk or delta out of range, runs < 1, or confidences with NaN.
    """
    if runs < 1:
        raise InputError(f"runs {runs}: must be at least 1")
    risks = sorted({*RISKS, risk}, reverse=True)

    def certificate(certifier: str, target: float, level: float) -> dict[str, float | None]:
        return _on_test(CERTIFIERS[certifier](*calibration, risk=target, delta=level), test)

    entries = [
        {"risk": target, **{name: certificate(name, target, delta) for name in CERTIFIERS}}
        for target in risks
    ]
    shared, smallest = delta / runs, delta / (runs * len(risks))
    return {
        "risk": risk,
        "delta": delta,
        "examples": len(calibration[1]),
        "certificates": entries,
        "runs": runs,
        "all_runs": {"delta": shared, **certificate(LTT, risk, shared)},
        "simultaneous": {
            "delta": smallest,
            "certificates": [
                {"risk": target, LTT: certificate(LTT, target, smallest)} for target in risks
            ],
        },
    }


def external_teacher_note(results: Mapping[str, Any]) -> str:
    """Returns what a certificate assumes about a teacher that kdjax has not trained.

    Args:
        results: content of `results.json`.

    Returns:
        A sentence; empty if the run has trained its teacher, or has none.
    """
    source = results.get("external_teacher")
    if source is None:
        return ""
    return (
        f"The teacher ({_EXTERNAL_TEACHERS[source['kind']]} {source['file']}) was not trained by "
        "kdjax and may have seen the calibration images: a certificate then assumes that this "
        "has not influenced the threshold."
    )


def least_examples(risk: float, delta: float) -> int:
    """Returns how many accepted examples without an error certify a risk: (1 - r)^k <= delta."""
    return max(LEAST_ACCEPTED, math.ceil(math.log(delta) / math.log1p(-risk)))


def requested_certificate(guarantee: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the certificate that a run uses: of learn_then_test, at the requested risk."""
    (entry,) = (entry for entry in guarantee["certificates"] if entry["risk"] == guarantee["risk"])
    return entry[LTT]


def certify_again(
    results: Mapping[str, Any],
    calibration: Predictions,
    test: Predictions,
    *,
    risk: float | None = None,
    delta: float | None = None,
    runs: int | None = None,
) -> dict[str, Any]:
    """Returns the guarantee of a run for another risk or delta; see `certify`.

    Args:
        results: content of `results.json`.
        calibration: logits [n, m+1] and labels of the calibration split.
        test: the same of the test split.
        risk: instead of the run's.
        delta: instead of the run's.
        runs: among which one may be chosen, instead of the run's.
    """
    score = scores_of(results)[results["best_score"]]
    samples = ((score(split.logits), selective.is_correct(*split)) for split in (calibration, test))
    requested = results["guarantee"]
    return certify(
        *samples,
        risk=requested["risk"] if risk is None else risk,
        delta=requested["delta"] if delta is None else delta,
        runs=requested.get("runs", 1) if runs is None else runs,
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
    combination = combination_of(results)
    return OperatingPoint(score, results["pnorm"], threshold, source, guarantee, combination)


def combination_of(results: Mapping[str, Any]) -> tuple[float, float, float] | None:
    """Returns the coefficients of `combination`; None in results that have none."""
    coefficients = results.get("combination")
    return tuple(coefficients) if coefficients else None


def scores_of(results: Mapping[str, Any]) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Returns the scores by name with the parameters of a run, logits [n, m+1] -> [n]; numpy.

    Args:
        results: content of `results.json`.
    """
    return selective.numpy_scores(results["pnorm"], combination_of(results))


def _on_test(certificate: selective.Certificate, test: Sample) -> dict[str, float | None]:
    coverage, error = selective.accept_at(*test, certificate.threshold)
    return {
        "threshold": certificate.threshold if np.isfinite(certificate.threshold) else None,
        "coverage": certificate.coverage,
        "risk_bound": certificate.risk_bound,
        "test_coverage": coverage,
        "test_error": None if np.isnan(error) else error,
    }
