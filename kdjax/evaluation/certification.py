"""Certified thresholds, and the operating point by which a run accepts predictions."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from kdjax import selective
from kdjax.errors import InputError
from kdjax.evaluation import gate as gates
from kdjax.evaluation import joint
from kdjax.evaluation.gate import Gate, least_float32
from kdjax.evaluation.predictions import Predictions
from kdjax.runtime import atomic_io
from kdjax.selective.certificates import LEAST_ACCEPTED

# Risks that are certified in addition to the requested one, to show the coverage that each costs.
# Each of these certificates holds on its own with probability 1 - delta; those that hold together
# are certified at a smaller delta, see `certify`.
RISKS = (0.1, 0.05, 0.02, 0.01, 0.005)
LTT = "learn_then_test"
# `OperatingPoint.source` of a certificate, and of one for each predicted class.
CERTIFICATE, CLASS_CERTIFICATES = "certificate", "certificate of each class"
NOTHING = "none"  # the source if nothing is accepted
CHOSEN_ON_CALIBRATION = (CERTIFICATE, NOTHING)
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
    """The rule by which a run accepts a prediction: confidence >= threshold, and the gate passes.

    Attributes:
        score: the name of the confidence score.
        pnorm: p of the score `max_logit_pnorm`.
        threshold: the lowest accepted confidence; infinite if nothing is accepted.
        source: `certificate`, `certificate of each class`, `dev, <coverage> % coverage`, or `none`
            if nothing is accepted.
        guarantee: the certified thresholds, see `certify`; with thresholds of the classes also
            `by_class`, see `promises.by_class.compute`; None without a calibration split.
        combination: coefficients of the score `combination`; None: equal weights.
        class_thresholds: the lowest accepted confidence of each predicted class, infinite where
            none is accepted; None: `threshold` for all.
        gate: stops images that are unlike those of training; None: there is none.
    """

    score: str
    pnorm: float
    threshold: float
    source: str
    guarantee: Mapping[str, Any] | None
    combination: tuple[float, float, float] | None = None
    class_thresholds: tuple[float, ...] | None = None
    gate: Gate | None = None

    @property
    def certified(self) -> bool:
        """Whether the threshold, or that of each class, is certified."""
        return self.source in (CERTIFICATE, CLASS_CERTIFICATES)

    @property
    def certificate(self) -> dict[str, Any]:
        """The certificate of the requested risk, see `certify`; empty without a guarantee.

        Not of thresholds of the classes, which `guarantee["by_class"]` has.
        """
        return requested_certificate(self.guarantee) if self.guarantee else {}

    @property
    def confidence(self) -> Callable[[Any], jax.Array]:
        """The confidence score, logits [n, m+1] -> [n]; JAX can trace it."""
        return selective.scores_with_pnorm(self.pnorm, self.combination)[self.score]

    @property
    def numpy_confidence(self) -> Callable[[np.ndarray], np.ndarray]:
        """The confidence score from and to numpy arrays, as where thresholds are chosen."""
        return selective.numpy_scores(self.pnorm, self.combination)[self.score]

    def accepts(self, confidence: Any, predicted: Any = None) -> Any:
        """Returns whether each prediction is accepted, bool [n], if its image passes the gate.

        float32 confidences are compared as in float64, though JAX rounds a threshold to float32.

        Args:
            confidence: [n], a numpy or JAX array.
            predicted: classes [n]; only needed if the classes have thresholds of their own.

        Raises:
            ValueError: without `predicted` if that is needed.
        """
        exact = confidence.dtype == np.float64
        if self.class_thresholds is None:
            return confidence >= (self.threshold if exact else least_float32(self.threshold))
        if predicted is None:
            raise InputError("each class has a threshold of its own: give the predicted classes")
        thresholds = np.array(
            [value if exact else least_float32(value) for value in self.class_thresholds]
        )
        # One column for each class, because exported files need no gather then.
        is_class = predicted[:, None] == np.arange(len(thresholds), dtype=np.int32)[None]
        return ((confidence[:, None] >= thresholds[None]) & is_class).any(axis=1)

    def decide(self, split: Predictions) -> np.ndarray:
        """Returns whether the prediction of each image of a split is accepted, bool [n]."""
        predicted = selective.predicted_classes(split.logits)
        accepted = self.accepts(self.numpy_confidence(split.logits), predicted)
        return accepted if self.gate is None else accepted & self.gate.passed(split)


def certify(
    calibration: Sample,
    test: Sample,
    *,
    risk: float,
    delta: float,
    runs: int = 1,
    totals: tuple[int, int] | None = None,
    coverage: float = 0.0,
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
        totals: numbers of images of calibration and test, if the samples are those that pass the
            gate: a coverage is then one of all images.
        coverage: in [0, 1), to be certified together with the risk; 0: none.

    Returns:
        `risk`, `delta`, `examples` of the calibration split, and `certificates`: one entry per
        risk, the largest first, with `sgr` and `learn_then_test`; each of these has `threshold`
        (None if no threshold can be certified), `coverage` on the calibration split,
        `risk_bound`, `test_coverage` and `test_error`. `runs`; `all_runs`, the certificate of
        learn_then_test at the requested risk and delta / S, with that `delta`, which holds for all
        runs together. With a coverage also `coverage`, and `joint`, see `joint.measure`. All risks
        together are certified by `promises.ladder`.

    Raises:
        ValueError: for a risk or delta out of range, runs < 1, or confidences with NaN.
    """
    if runs < 1:
        raise InputError(f"runs {runs}: must be at least 1")
    risks = sorted({*RISKS, risk}, reverse=True)
    images = totals or (len(calibration[1]), len(test[1]))
    passed = len(calibration[1]) / images[0], len(test[1]) / images[1]

    def certificate(certifier: str, target: float, level: float) -> dict[str, float | None]:
        return _on_test(CERTIFIERS[certifier](*calibration, risk=target, delta=level), test, passed)

    entries = [
        {"risk": target, **{name: certificate(name, target, delta) for name in CERTIFIERS}}
        for target in risks
    ]
    return {
        "risk": risk,
        "delta": delta,
        "examples": len(calibration[1]),
        "certificates": entries,
        "runs": runs,
        "all_runs": {"delta": delta / runs, **certificate(LTT, risk, delta / runs)},
        **_with_coverage(calibration, test, images, risk=risk, coverage=coverage, delta=delta),
    }


def _with_coverage(
    calibration: Sample, test: Sample, totals: tuple[int, int], **requested: float
) -> dict[str, Any]:
    """Returns the requested coverage and its certificate; empty if none is requested."""
    if not requested["coverage"]:
        return {}
    measured = joint.measure(calibration, test, **requested, totals=totals)
    return {"coverage": requested["coverage"], "joint": measured}


def seen_images_note(results: Mapping[str, Any]) -> str:
    """Returns what a certificate assumes about networks that may have seen calibration images.

    Args:
        results: content of `results.json`.

    Returns:
        Sentences about a teacher that kdjax has not trained, and about weights from elsewhere with
        which the training started; empty if there are neither.
    """
    notes = []
    if source := results.get("external_teacher"):
        notes.append(
            f"The teacher ({_EXTERNAL_TEACHERS[source['kind']]} {source['file']}) was not trained "
            "by kdjax and may have seen the calibration images: a certificate then assumes that "
            "this has not influenced the threshold."
        )
    if weights := results.get("initial_weights"):
        notes.append(
            f"The training started with the weights {weights}, which may have been trained on the "
            "calibration images: a certificate is valid only if they were not."
        )
    return " ".join(notes)


def least_examples(risk: float, delta: float) -> int:
    """Returns how many accepted examples without an error certify a risk: (1 - r)^k <= delta."""
    return max(LEAST_ACCEPTED, math.ceil(math.log(delta) / math.log1p(-risk)))


def sample_of(score: Callable[[np.ndarray], np.ndarray], split: Predictions) -> Sample:
    """Returns the confidences [n] of a score, logits [n, m+1] -> [n], and what is correct."""
    return score(split.logits), split.correct


def requested_certificate(guarantee: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the certificate that a run uses: of learn_then_test, at the requested risk.

    If a coverage was requested, too, and both could be certified, it is the one of both.
    """
    if (requested := guarantee.get("joint")) and (both := joint.certificate(requested)):
        return both
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
    score, gate = scores_of(results)[results["best_score"]], gates.gate_of(results)
    requested = results["guarantee"]
    return certify(
        *(sample_of(score, gates.kept(gate, split)) for split in (calibration, test)),
        totals=(len(calibration.labels), len(test.labels)),
        risk=requested["risk"] if risk is None else risk,
        delta=requested["delta"] if delta is None else delta,
        runs=requested.get("runs", 1) if runs is None else runs,
        coverage=requested.get("coverage", 0.0),
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
        threshold, source = certified, CERTIFICATE
    elif fallback_coverage is not None:
        chosen = results["scores"][score]["thresholds"][fallback_coverage]
        threshold = chosen["threshold"]
        source = f"dev, {coverage_on_dev(fallback_coverage, chosen)} % coverage"
    else:
        threshold, source = math.inf, NOTHING
    return OperatingPoint(
        score,
        results["pnorm"],
        threshold,
        source,
        guarantee,
        combination_of(results),
        gate=gates.gate_of(results),
    )


def coverage_on_dev(requested: str, chosen: Mapping[str, Any]) -> str:
    """Returns the coverage on dev of a threshold in `results.json`, in %, as text.

    Args:
        requested: its key in `thresholds`.
        chosen: its value there, with `dev_coverage` if the gate passes less than requested.
    """
    return f"{100 * chosen['dev_coverage']:.3g}" if "dev_coverage" in chosen else requested


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


def _on_test(
    certificate: selective.Certificate, test: Sample, passed: tuple[float, float]
) -> dict[str, float | None]:
    coverage, error = selective.accept_at(*test, certificate.threshold)
    return {
        "threshold": atomic_io.finite_or_none(certificate.threshold),
        "coverage": certificate.coverage * passed[0],
        "risk_bound": certificate.risk_bound,
        "test_coverage": coverage * passed[1],
        "test_error": atomic_io.finite_or_none(error),
    }
