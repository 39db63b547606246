"""The operating point of an exported model, by a risk, a coverage or a threshold."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from kdjax import selective
from kdjax.errors import InputError, unknown_name_error
from kdjax.evaluation.certification import (
    CLASS_CERTIFICATES,
    NOTHING,
    OperatingPoint,
    certify_again,
    combination_of,
    operating_point,
    scores_of,
)
from kdjax.evaluation.gate import gate_of, gated, kept
from kdjax.evaluation.predictions import Predictions, accepts, counts
from kdjax.evaluation.promises import by_class
from kdjax.evaluation.summary import ABSTENTION_SCORES
from kdjax.selective import binomial, validation
from kdjax.selective.scales import LOG_FORMS

GIVEN = "given"  # `OperatingPoint.source` of a threshold that the user has given


class PointRequest(NamedTuple):
    """What a user requests of an operating point; at most one of risk, coverage and threshold.

    Attributes:
        risk: to be certified, in (0, 1), instead of the run's.
        delta: in (0, 1), the probability that the certificate, or the bound on the risk of another
            threshold, may fail, instead of the run's.
        coverage: fraction of dev that is accepted, in (0, 1]; without a certificate.
        threshold: the lowest accepted confidence; without a certificate.
        score: name of the confidence score, instead of the run's; for a probability that
            saturates, such as `softmax_response`, its log-odds are used, unless a threshold is
            given.
        classwise: certify a threshold for each predicted class, see `selective.classwise`.
    """

    risk: float | None = None
    delta: float | None = None
    coverage: float | None = None
    threshold: float | None = None
    score: str | None = None
    classwise: bool = False

    @property
    def certified(self) -> bool:
        """Whether a certificate is requested, rather than a coverage or a threshold."""
        return self.coverage is None and self.threshold is None


def check_request(request: PointRequest) -> None:
    """Checks a request before anything is computed.

    Raises:
        InputError: for values that exclude each other or are out of range.
    """
    values = {name: getattr(request, name) for name in ("risk", "coverage", "threshold")}
    given = [f"--{name}={value:g}" for name, value in values.items() if value is not None]
    if request.classwise and not request.certified:
        raise InputError(
            f"--classwise and {given[-1]} exclude each other: the thresholds of the classes come "
            "from a certificate; give --risk, or nothing for that of the run"
        )
    if len(given) > 1:
        raise InputError(
            f"{' and '.join(given)} exclude each other: each of them determines the threshold; "
            "give one"
        )
    for name in ("risk", "delta"):
        if getattr(request, name) is not None:
            validation.probability(name, getattr(request, name))
    if request.coverage is not None and not 0 < request.coverage <= 1:
        hint = f"; {request.coverage:g} % is {request.coverage / 100:g}"
        raise InputError(
            f"coverage {request.coverage:g}: must lie in (0, 1]"
            f"{hint if 1 < request.coverage <= 100 else ''}"
        )
    if request.threshold is not None and not math.isfinite(request.threshold):
        raise InputError(f"threshold {request.threshold:g}: must be a finite number")


def requested_point(
    results: Mapping[str, Any], outputs: Mapping[str, Predictions], request: PointRequest
) -> OperatingPoint:
    """Returns the operating point that a request determines.

    A certificate comes from calibration. The threshold of a coverage comes from dev: half-way
    between two confidences, as a certified one (see `selective.threshold_at_coverage`). Test is
    used for nothing but the figures of the certificates.

    Args:
        results: content of `results.json`.
        outputs: logits [n, m+1] and labels of dev, calibration and test.
        request: of the user.

    Raises:
        InputError: for a request that `check_request` refuses, an unknown score, one that reads
            the abstention output of a network that was trained without it, or a threshold that
            accepts no image of dev.
    """
    check_request(request)
    results = {**results, "best_score": _score(results, request)}
    if request.certified:
        guarantee = certify_again(
            results,
            outputs["calibration"],
            outputs["test"],
            risk=request.risk,
            delta=request.delta,
        )
        point = operating_point({**results, "guarantee": guarantee})
        return _classwise(point, outputs) if request.classwise else point
    score, gate = results["best_score"], gate_of(results)
    on_dev = gated(gate, scores_of(results)[score](outputs["dev"].logits), outputs["dev"])
    if request.coverage is not None:
        threshold = selective.threshold_at_coverage(on_dev, coverage=request.coverage)
        if not math.isfinite(threshold):
            raise InputError(
                f"coverage {request.coverage:g}: the gate passes "
                f"{np.mean(np.isfinite(on_dev)):.4g} of dev; give at most that"
            )
        source = f"dev, {100 * request.coverage:g} % coverage"
    else:
        threshold, source = _given_threshold(request.threshold, score, on_dev), GIVEN
    combination = combination_of(results)
    return OperatingPoint(score, results["pnorm"], threshold, source, None, combination, gate=gate)


def _classwise(point: OperatingPoint, outputs: Mapping[str, Predictions]) -> OperatingPoint:
    """Returns an operating point with a certified threshold for each predicted class.

    Args:
        point: with the score, and a `guarantee` of the requested risk and delta.
        outputs: logits [n, m+1] and labels of calibration and test.
    """
    guarantee = dict(point.guarantee or {})
    values = by_class.certify(
        kept(point.gate, outputs["calibration"]),
        kept(point.gate, outputs["test"]),
        point.numpy_confidence,
        risk=guarantee["risk"],
        delta=guarantee["delta"],
    )
    thresholds = tuple(
        math.inf if threshold is None else threshold for threshold in values["threshold"]
    )
    least = min(thresholds)
    return point._replace(
        threshold=least,
        source=CLASS_CERTIFICATES if math.isfinite(least) else NOTHING,
        guarantee={**guarantee, "by_class": values},
        class_thresholds=thresholds,
    )


def _score(results: Mapping[str, Any], request: PointRequest) -> str:
    """Returns the requested score: in the log domain, unless the user gives a threshold."""
    available, name = results["scores"], request.score
    if name is None:
        best: str = results["best_score"]
        # A threshold is then a probability, which people see.
        saturating = {form: score for score, form in LOG_FORMS.items()}
        return best if request.threshold is None else saturating.get(best, best)
    if name in available:
        return name
    trained = any(score in available for score in ABSTENTION_SCORES)
    if name in selective.SCORES and (trained or name not in ABSTENTION_SCORES):
        return name if request.threshold is not None else LOG_FORMS.get(name, name)
    if name in selective.SCORES:
        raise InputError(
            f"score {name!r} reads the abstention output, which this run has not trained; valid: "
            f"{', '.join(sorted(available))}"
        )
    short = [score for score, form in LOG_FORMS.items() if form in available]
    raise unknown_name_error("score", name, [*available, *short])


def _given_threshold(threshold: float | None, score: str, on_dev: np.ndarray) -> float:
    assert threshold is not None
    if not accepts(on_dev, threshold).any():
        raise InputError(
            f"threshold {threshold:g} accepts no image of dev: there {score} lies between "
            f"{on_dev.min():.6g} and {on_dev.max():.6g}"
        )
    return threshold


def acceptance(point: OperatingPoint, split: Predictions) -> dict[str, Any]:
    """Returns what an operating point accepts of a split.

    Args:
        point: the operating point.
        split: logits [n, m+1] and labels.

    Returns:
        The numbers of `images`, `accepted` images and `errors` among these; `coverage`, the
        accepted fraction; `error`, the selective risk, None if nothing is accepted.
    """
    numbers = counts(point.decide(split), split.correct)
    images, accepted, errors = (numbers[name] for name in ("images", "accepted", "errors"))
    return {
        **numbers,
        "coverage": accepted / images,
        "error": errors / accepted if accepted else None,
    }


def risk_bound(accepted: Mapping[str, Any], delta: float) -> float | None:
    """Returns the exact upper bound on the risk of a threshold, at confidence 1 - delta.

    It holds if score and threshold were chosen without the split.

    Args:
        accepted: of `acceptance`, on the calibration split.
        delta: in (0, 1).

    Returns:
        The bound of Clopper and Pearson; None if nothing is accepted.
    """
    if not accepted["accepted"]:
        return None
    return binomial.upper_bound(accepted["errors"], accepted["accepted"], delta)
