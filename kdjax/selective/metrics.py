"""Metrics of selective classification, exact under ties; float64 numpy.

n predictions are accepted from the most confident down. errors(k) is the number of errors among
the first k, and risk(k) = errors(k) / k is the selective risk. Predictions of equal confidence form
a tie group. Every metric is its expectation over random orders within the tie groups, so the order
of the rows does not matter. Confidences may be infinite.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdjax.selective import ranking, validation


class Curve(NamedTuple):
    """Risk-coverage curve: a point for each distinct confidence, strictest threshold first.

    Attributes:
        coverage: accepted fraction, `[u]`, increasing to 1.
        risk: selective risk, the error rate among the accepted predictions, `[u]`.
        threshold: accepting `confidence >= threshold` gives the point, `[u]`, decreasing.
    """

    coverage: NDArray[np.float64]
    risk: NDArray[np.float64]
    threshold: NDArray[np.float64]


def _least_count(fraction: float, total: int) -> int:
    """Returns the smallest k with k / total >= fraction.

    Quotients are compared because a product rounds: 19 / 20 == 0.95, but 0.55 * 100 > 55.
    """
    return 1 + int(np.searchsorted(np.arange(1, total + 1) / total, fraction))


def risk_coverage_curve(confidence: ArrayLike, correct: ArrayLike) -> Curve:
    """Selective risk and coverage at every distinct threshold.

    coverage = k / n and risk = errors(k) / k at the last k of each tie group, because a threshold
    accepts a tie group completely or not at all.

    Args:
        confidence: `[n]`, higher = more confident.
        correct: `[n]`, boolean or 0 and 1.

    Returns:
        The curve, with u points for u distinct confidences.

    Raises:
        ValueError: for n = 0, unequal lengths, NaN, or a `correct` that is not boolean.
        TypeError: for a dtype that is not real.

    Source: El-Yaniv, Wiener, "On the Foundations of Noise-free Selective Classification",
    JMLR 2010.
    """
    accepted, errors, threshold = ranking.tie_groups(confidence, correct)
    return Curve(accepted[1:] / accepted[-1], errors[1:] / accepted[1:], threshold)


def aurc(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Area under the risk-coverage curve (AURC), as the mean risk over all n coverages.

    AURC = (1/n) sum_{k=1..n} risk(k), the convention of Geifman and El-Yaniv. The trapezoidal rule
    over coverage, or a sum over distinct thresholds, gives other numbers for small n.

    Args:
        confidence: `[n]`, higher = more confident.
        correct: `[n]`, boolean or 0 and 1.

    Returns:
        AURC in [0, 1], not multiplied by 1000.

    Raises:
        ValueError: for n = 0, unequal lengths, NaN, or a `correct` that is not boolean.
        TypeError: for a dtype that is not real.

    Source: Geifman, Uziel, El-Yaniv, ICLR 2019, arXiv 1805.08206.
    """
    return ranking.aurc(ranking.tie_groups(confidence, correct))


def e_aurc(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Excess AURC (E-AURC) over a perfect ranking of the same predictions.

    E-AURC = AURC - (1/n) sum_k max(0, k - c) / k, with c correct predictions; exact at finite n.
    For large n the second term tends to e + (1 - e) ln(1 - e), with e the error rate.

    Args:
        confidence: `[n]`, higher = more confident.
        correct: `[n]`, boolean or 0 and 1.

    Returns:
        E-AURC in [0, 1); exactly 0 if every correct prediction ranks above every wrong one.

    Raises:
        ValueError: for n = 0, unequal lengths, NaN, or a `correct` that is not boolean.
        TypeError: for a dtype that is not real.

    Source: Geifman, Uziel, El-Yaniv, ICLR 2019, arXiv 1805.08206.
    """
    # `correct` used as a confidence is a perfect ranking.
    return aurc(confidence, correct) - aurc(correct, correct)


def augrc(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Area under the generalized risk-coverage curve (AUGRC): mean rate of accepted errors.

    The area under errors(k) / n over coverage k / n, by the trapezoidal rule from (0, 0)
    = (1 - AUROC_f) acc (1 - acc) + (1 - acc)^2 / 2, with acc the accuracy.

    Args:
        confidence: `[n]`, higher = more confident.
        correct: `[n]`, boolean or 0 and 1.

    Returns:
        AUGRC in [0, 1/2], not multiplied by 1000.

    Raises:
        ValueError: for n = 0, unequal lengths, NaN, or a `correct` that is not boolean.
        TypeError: for a dtype that is not real.

    Source: Traub et al., "Overcoming Common Flaws in the Evaluation of Selective Classification
    Systems", NeurIPS 2024, arXiv 2407.01032.
    """
    return ranking.augrc(ranking.tie_groups(confidence, correct))


def auroc(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Probability that a correct prediction ranks above a wrong one (AUROC_f).

    P(c_correct > c_wrong) + P(c_correct = c_wrong) / 2: the AUROC of failure detection.

    Args:
        confidence: `[n]`, higher = more confident.
        correct: `[n]`, boolean or 0 and 1.

    Returns:
        AUROC_f in [0, 1]; nan if all predictions are correct or all are wrong.

    Raises:
        ValueError: for n = 0, unequal lengths, NaN, or a `correct` that is not boolean.
        TypeError: for a dtype that is not real.

    Source: Hendrycks, Gimpel, ICLR 2017, arXiv 1610.02136.
    """
    accepted, errors, _ = ranking.tie_groups(confidence, correct)
    hits = accepted - errors
    pairs = float(hits[-1]) * float(errors[-1])
    return float(np.trapezoid(hits, errors)) / pairs if pairs else float("nan")


def fpr_at_tpr(confidence: ArrayLike, correct: ArrayLike, *, tpr: float = 0.95) -> float:
    """Fraction of wrong predictions accepted when a fraction `tpr` of the correct ones is.

    errors(k) / errors(n) at the smallest k that accepts j correct predictions; j is the least count
    with j / c >= tpr, for c correct predictions in total. If the j-th of them is the i-th of the R
    correct ones in a tie group, each wrong one in the group precedes it with probability
    i / (R + 1).

    Args:
        confidence: `[n]`, higher = more confident.
        correct: `[n]`, boolean or 0 and 1.
        tpr: in (0, 1].

    Returns:
        The false positive rate in [0, 1]; nan if all predictions are correct or all are wrong.

    Raises:
        ValueError: for n = 0, unequal lengths, NaN, a `correct` that is not boolean, or a tpr
            outside (0, 1].
        TypeError: for a dtype that is not real.

    Source: Liang, Li, Srikant, "ODIN", ICLR 2018, arXiv 1706.02690.
    """
    fraction = validation.fraction("tpr", tpr)
    accepted, errors, _ = ranking.tie_groups(confidence, correct)
    hits = accepted - errors
    if not hits[-1] or not errors[-1]:
        return float("nan")
    needed = _least_count(fraction, int(hits[-1]))
    end = np.searchsorted(hits, needed)
    start = end - 1
    share = (needed - hits[start]) / (hits[end] - hits[start] + 1)
    return float((errors[start] + share * (errors[end] - errors[start])) / errors[-1])


def error_at_coverage(
    confidence: ArrayLike, correct: ArrayLike, coverages: ArrayLike
) -> NDArray[np.float64]:
    """Selective risk at given coverages: the error rate among the most confident predictions.

    E risk(round(c n)), halves to even; if the count splits a tie group, the expectation is over
    random orders within it.

    Args:
        confidence: `[n]`, higher = more confident.
        correct: `[n]`, boolean or 0 and 1.
        coverages: c, any shape, in (0, 1], each accepting at least one prediction.

    Returns:
        Error rates in [0, 1], of the shape of `coverages`.

    Raises:
        ValueError: for n = 0, unequal lengths, NaN, a `correct` that is not boolean, or a coverage
            outside (0, 1] or too small to accept one of n predictions.
        TypeError: for a dtype that is not real.

    Source: Geifman, El-Yaniv, NIPS 2017, arXiv 1705.08500.
    """
    groups = ranking.tie_groups(confidence, correct)
    return ranking.expected_risk(groups, ranking.accepted_at(coverages, int(groups.accepted[-1])))


def coverage_at_risk(
    confidence: ArrayLike, correct: ArrayLike, risks: ArrayLike
) -> NDArray[np.float64]:
    """Largest coverage of a threshold with at most a given selective risk on this sample.

    max {coverage : risk <= r} over the points of `risk_coverage_curve`, which are complete tie
    groups. It describes this sample and is no guarantee for new data.

    Args:
        confidence: `[n]`, higher = more confident.
        correct: `[n]`, boolean or 0 and 1.
        risks: r, any shape, in [0, 1].

    Returns:
        Coverages in [0, 1], of the shape of `risks`; 0 if no threshold reaches the risk.

    Raises:
        ValueError: for n = 0, unequal lengths, NaN, a `correct` that is not boolean, or a risk
            outside [0, 1].
        TypeError: for a dtype that is not real.

    Source: Geifman, El-Yaniv, NIPS 2017, arXiv 1705.08500.
    """
    curve = risk_coverage_curve(confidence, correct)
    bounds = validation.decimals("risks", risks)
    validation.require((bounds >= 0) & (bounds <= 1), bounds, "risks must lie in [0, 1]")
    coverages = [
        np.max(curve.coverage, where=curve.risk <= bound, initial=0.0) for bound in bounds.flat
    ]
    return np.array(coverages, np.float64).reshape(bounds.shape)


def threshold_at_coverage(confidence: ArrayLike, *, coverage: float) -> float:
    """Threshold with the smallest coverage of a sample that is at least a requested one.

    Half-way between the k-th largest confidence and the next smaller one, so that rounding of a
    confidence does not change a decision; k is the least count with k / n >= coverage. If all are
    accepted, a little below the lowest. Choose it on the development split.

    Args:
        confidence: `[n]`, higher = more confident.
        coverage: in (0, 1].

    Returns:
        The threshold: `#(confidence >= t) / n >= coverage`, and the same predictions are accepted
        as with the largest threshold of this property.

    Raises:
        ValueError: for n = 0, NaN, or a coverage outside (0, 1].
        TypeError: for a dtype that is not real.

    Source: Geifman, El-Yaniv, NIPS 2017, arXiv 1705.08500.
    """
    values, counts = np.unique(validation.confidences(confidence), return_counts=True)
    accepted = np.cumsum(counts[::-1])
    count = _least_count(validation.fraction("coverage", coverage), int(accepted[-1]))
    return ranking.threshold_after(values[::-1], 1 + int(np.searchsorted(accepted, count)))


def accept_at(confidence: ArrayLike, correct: ArrayLike, threshold: float) -> tuple[float, float]:
    """Coverage and selective risk of a fixed threshold on this sample.

    coverage = #(confidence >= t) / n; error = the error rate among these accepted predictions.

    Args:
        confidence: `[n]`, higher = more confident.
        correct: `[n]`, boolean or 0 and 1.
        threshold: t. An infinite one accepts infinite confidences.

    Returns:
        Coverage in [0, 1] and error in [0, 1]; the error is nan if nothing is accepted.

    Raises:
        ValueError: for n = 0, unequal lengths, NaN, a `correct` that is not boolean, or more than
            one threshold.
        TypeError: for a dtype that is not real.

    Source: Geifman, El-Yaniv, NIPS 2017, arXiv 1705.08500.
    """
    confidence, correct = validation.sample(confidence, correct)
    bound = validation.number("threshold", threshold)
    validation.require(not np.isnan(bound), bound, "threshold must not be NaN")
    accepted = confidence >= bound
    error = float(np.mean(~correct[accepted])) if accepted.any() else float("nan")
    return float(np.mean(accepted)), error
