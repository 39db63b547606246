"""What a confidence is worth on a sample: exact under ties, float64 numpy.

n predictions are accepted from the most confident down; errors(k) counts the wrong ones among the
first k, risk(k) = errors(k) / k. Predictions of equal confidence form a plateau. Every metric is
its expectation over random orders within the plateaus, so row order never matters. Infinite
confidences are allowed.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdjax.selective import ranking, samples


class Curve(NamedTuple):
    """Risk-coverage curve: one point a distinct confidence, from the strictest threshold.

    Attributes:
        coverage: accepted fraction, `[u]`, rising to 1.
        risk: fraction of the accepted that is wrong, `[u]`.
        threshold: accepting `confidence >= threshold` gives that point, `[u]`, falling.
    """

    coverage: NDArray[np.float64]
    risk: NDArray[np.float64]
    threshold: NDArray[np.float64]


def _least_count(fraction: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Smallest k with k / total >= fraction; as a quotient 19 of 20 is 0.95 to the last bit."""
    return 1 + np.searchsorted(np.arange(1, total + 1) / total, fraction)


def risk_coverage_curve(confidence: ArrayLike, correct: ArrayLike) -> Curve:
    """Risk and coverage at every threshold that tells predictions apart.

    coverage = k / n and risk = errors(k) / k at the last k of each plateau: no threshold stops
    within one.

    Args:
        confidence: `[n]`, higher = more confident.
        correct: `[n]`, boolean or 0 and 1.

    Returns:
        The curve, u points for u distinct confidences.

    Raises:
        ValueError: for n = 0, two lengths, NaN, or a `correct` that is not boolean.
        TypeError: for a dtype that is not real.

    Source: El-Yaniv, Wiener, "On the Foundations of Noise-free Selective Classification",
    JMLR 2010.
    """
    accepted, errors, threshold = ranking.plateaus(confidence, correct)
    return Curve(accepted[1:] / accepted[-1], errors[1:] / accepted[1:], threshold)


def aurc(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Area under the risk-coverage curve, as the mean risk over all n coverages.

    AURC = (1/n) sum_{k=1..n} risk(k): the convention of Geifman and El-Yaniv. Trapezoids over
    coverage, or a sum over thresholds only, give other numbers for small n.

    Args:
        confidence: `[n]`, higher = more confident.
        correct: `[n]`, boolean or 0 and 1.

    Returns:
        AURC in [0, 1], not multiplied by 1000.

    Raises:
        ValueError: for n = 0, two lengths, NaN, or a `correct` that is not boolean.
        TypeError: for a dtype that is not real.

    Source: Geifman, Uziel, El-Yaniv, ICLR 2019, arXiv 1805.08206.
    """
    return ranking.aurc(ranking.plateaus(confidence, correct))


def e_aurc(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Excess of AURC over a perfect ranking of the same predictions.

    E-AURC = AURC - (1/n) sum_k max(0, k - right) / k, exact at finite n;
    e + (1 - e) ln(1 - e), e the error rate, is the limit of the second term for large n.

    Args:
        confidence: `[n]`, higher = more confident.
        correct: `[n]`, boolean or 0 and 1.

    Returns:
        E-AURC in [0, 1), exactly 0 where every right prediction outranks every wrong one.

    Raises:
        ValueError: for n = 0, two lengths, NaN, or a `correct` that is not boolean.
        TypeError: for a dtype that is not real.

    Source: Geifman, Uziel, El-Yaniv, ICLR 2019, arXiv 1805.08206.
    """
    # Being right, taken as a confidence, is a perfect ranking.
    return aurc(confidence, correct) - aurc(correct, correct)


def augrc(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Area under the generalized risk-coverage curve: the mean risk of an undetected failure.

    The area under errors(k) / n over coverage k / n, by trapezoids from (0, 0)
    = (1 - AUROC_f) acc (1 - acc) + (1 - acc)^2 / 2, acc the accuracy.

    Args:
        confidence: `[n]`, higher = more confident.
        correct: `[n]`, boolean or 0 and 1.

    Returns:
        AUGRC in [0, 1/2], not multiplied by 1000.

    Raises:
        ValueError: for n = 0, two lengths, NaN, or a `correct` that is not boolean.
        TypeError: for a dtype that is not real.

    Source: Traub et al., "Overcoming Common Flaws in the Evaluation of Selective Classification
    Systems", NeurIPS 2024, arXiv 2407.01032.
    """
    return ranking.augrc(ranking.plateaus(confidence, correct))


def auroc(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Probability that a right prediction outranks a wrong one (AUROC_f, failure detection).

    P(c_right > c_wrong) + P(c_right = c_wrong) / 2.

    Args:
        confidence: `[n]`, higher = more confident.
        correct: `[n]`, boolean or 0 and 1.

    Returns:
        AUROC_f in [0, 1]; nan where all predictions are right or all are wrong.

    Raises:
        ValueError: for n = 0, two lengths, NaN, or a `correct` that is not boolean.
        TypeError: for a dtype that is not real.

    Source: Hendrycks, Gimpel, ICLR 2017, arXiv 1610.02136.
    """
    accepted, errors, _ = ranking.plateaus(confidence, correct)
    right = accepted - errors
    pairs = float(right[-1]) * float(errors[-1])
    return float(np.trapezoid(right, errors)) / pairs if pairs else float("nan")


def fpr_at_tpr(confidence: ArrayLike, correct: ArrayLike, *, tpr: float = 0.95) -> float:
    """Fraction of wrong predictions accepted once a fraction `tpr` of the right ones is.

    errors(k) / wrong at the smallest k that accepts j right predictions, j the least count with
    j / right >= tpr. Where the j-th is the i-th of R right ones in a plateau, each wrong one of
    that plateau comes before it with probability i / (R + 1).

    Args:
        confidence: `[n]`, higher = more confident.
        correct: `[n]`, boolean or 0 and 1.
        tpr: in (0, 1].

    Returns:
        The false positive rate in [0, 1]; nan where all predictions are right or all are wrong.

    Raises:
        ValueError: for n = 0, two lengths, NaN, a `correct` that is not boolean, or a tpr outside
            (0, 1].
        TypeError: for a dtype that is not real.

    Source: Liang, Li, Srikant, "ODIN", ICLR 2018, arXiv 1706.02690.
    """
    fraction = samples.fractions("tpr", tpr)
    accepted, errors, _ = ranking.plateaus(confidence, correct)
    right = accepted - errors
    if not right[-1] or not errors[-1]:
        return float("nan")
    needed = _least_count(fraction, int(right[-1]))
    end = np.searchsorted(right, needed)
    start = end - 1
    share = (needed - right[start]) / (right[end] - right[start] + 1)
    return float((errors[start] + share * (errors[end] - errors[start])) / errors[-1])


def error_at_coverage(
    confidence: ArrayLike, correct: ArrayLike, coverages: ArrayLike
) -> NDArray[np.float64]:
    """Error rate among the most confident predictions, at given coverages.

    E risk(round(c n)), halves to even; where that cuts a plateau, ties are broken at random.

    Args:
        confidence: `[n]`, higher = more confident.
        correct: `[n]`, boolean or 0 and 1.
        coverages: c, any shape, in (0, 1], each accepting at least one prediction.

    Returns:
        Error rates in [0, 1], of the shape of `coverages`.

    Raises:
        ValueError: for n = 0, two lengths, NaN, a `correct` that is not boolean, or a coverage
            outside (0, 1] or too small to accept one of n predictions.
        TypeError: for a dtype that is not real.

    Source: Geifman, El-Yaniv, NIPS 2017, arXiv 1705.08500.
    """
    counts = ranking.plateaus(confidence, correct)
    return ranking.expected_risk(counts, ranking.accepted_at(coverages, int(counts.accepted[-1])))


def coverage_at_risk(
    confidence: ArrayLike, correct: ArrayLike, risks: ArrayLike
) -> NDArray[np.float64]:
    """Largest coverage that a threshold can give with at most a given risk on this sample.

    max {coverage : risk <= r} over the points of `risk_coverage_curve`, whole plateaus only: a
    coverage that a threshold can realize. It holds on this sample and guarantees nothing beyond.

    Args:
        confidence: `[n]`, higher = more confident.
        correct: `[n]`, boolean or 0 and 1.
        risks: r, any shape, in [0, 1].

    Returns:
        Coverages in [0, 1], of the shape of `risks`; 0 where no threshold reaches the risk.

    Raises:
        ValueError: for n = 0, two lengths, NaN, a `correct` that is not boolean, or a risk outside
            [0, 1].
        TypeError: for a dtype that is not real.

    Source: Geifman, El-Yaniv, NIPS 2017, arXiv 1705.08500.
    """
    curve = risk_coverage_curve(confidence, correct)
    bounds = samples.floats("risks", risks)
    samples.require((bounds >= 0) & (bounds <= 1), bounds, "risks must lie in [0, 1]")
    return np.where(curve.risk <= bounds[..., None], curve.coverage, 0).max(axis=-1)


def threshold_at_coverage(confidence: ArrayLike, *, coverage: float) -> float:
    """Largest threshold that accepts at least a given fraction of a sample.

    max {t : #(confidence >= t) / n >= coverage}: the k-th largest confidence, k the least count
    with k / n >= coverage. Choose it on the development split.

    Args:
        confidence: `[n]`, higher = more confident.
        coverage: in (0, 1].

    Returns:
        The threshold, one of the confidences.

    Raises:
        ValueError: for n = 0, NaN, or a coverage outside (0, 1].
        TypeError: for a dtype that is not real.

    Source: Geifman, El-Yaniv, NIPS 2017, arXiv 1705.08500.
    """
    ranks = np.sort(samples.confidences(confidence))
    return float(ranks[-_least_count(samples.fractions("coverage", coverage), ranks.size)])


def accept_at(confidence: ArrayLike, correct: ArrayLike, threshold: float) -> tuple[float, float]:
    """What a fixed threshold, chosen elsewhere, gives on this sample.

    coverage = #(confidence >= t) / n, error = the wrong fraction of those.

    Args:
        confidence: `[n]`, higher = more confident.
        correct: `[n]`, boolean or 0 and 1.
        threshold: t.

    Returns:
        Coverage in [0, 1] and error in [0, 1]; the error is nan where nothing is accepted.

    Raises:
        ValueError: for n = 0, two lengths, NaN, or a `correct` that is not boolean.
        TypeError: for a dtype that is not real.

    Source: Geifman, El-Yaniv, NIPS 2017, arXiv 1705.08500.
    """
    confidence, correct = samples.paired(confidence, correct)
    bound = samples.floats("threshold", threshold)
    samples.require(~np.isnan(bound), bound, "threshold must not be NaN")
    accepted = confidence >= bound
    error = float(np.mean(~correct[accepted])) if accepted.any() else float("nan")
    return float(np.mean(accepted)), error
