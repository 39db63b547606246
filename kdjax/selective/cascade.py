"""A cascade: the student answers what it is confident of, a fallback answers the rest.

At a threshold t, the cascade predicts what the student predicts if its confidence is at least t,
and what the fallback predicts otherwise. The fallback is a teacher or any other classifier. It
answers every example, unless it abstains as well. The risk of the whole is the error rate of all
answers, whoever gave them.

Assumptions: the calibration sample is i.i.d. with the new data and was used for nothing else, and
the thresholds were fixed before it was seen, see `cascade_thresholds`. Nothing is assumed about the
risk as a function of the threshold: it may rise and fall, and the fallback may be worse than the
student. For a threshold that was chosen on the calibration sample, see `cascade_bound_anywhere`.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr

from kdjax.errors import InputError
from kdjax.selective import binomial, ranking, validation

FEW_EXAMPLES, TOO_MANY_ERRORS = "few_examples", "too_many_errors"
# The last threshold of `cascade_thresholds`: JSON has it, and every finite float32 is above.
LOWEST = float(np.finfo(np.float32).min)

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


class CascadePoint(NamedTuple):
    """A cascade at one threshold, on a sample of n examples.

    Attributes:
        threshold: the student answers `confidence >= threshold`; infinite: it answers nothing.
        passed_on: share of the examples that the fallback gets.
        answered: share with an answer; 1 unless the fallback abstains.
        errors: number of wrong answers.
        risk: errors among the answers; nan without an answer.
        risk_bound: upper bound on the true risk of the whole.
        cost: of an example, student + passed_on * fallback.
    """

    threshold: float
    passed_on: float
    answered: float
    errors: int
    risk: float
    risk_bound: float
    cost: float


class CascadeCertificate(NamedTuple):
    """The result of `cascade_certificate`.

    Attributes:
        point: the certified threshold with the least cost; None if none is certified.
        reason: why none is: `few_examples`, not even a sample without an error would do;
            `too_many_errors` at the first threshold. Empty if one is certified.
        first: the first threshold that was tested, with the exact upper bound on its risk.
    """

    point: CascadePoint | None
    reason: str
    first: CascadePoint


def cascade_thresholds(confidence: ArrayLike, *, count: int = 100) -> Floats:
    """Thresholds from "the student answers nothing" to "the student answers everything".

    They pass on shares 1, (count - 1) / count, ..., 0 of the sample, as far as ties allow it, and
    lie half-way between two confidences. The sample is another one than that of the certificate,
    such as a development split.

    Args:
        confidence: `[n]`, finite or -inf, higher = more confident; labels are not needed.
        count: number of steps, >= 1.

    Returns:
        `[t]`, t <= count + 1, decreasing; the first is infinite, the last is `LOWEST`.

    Raises:
        ValueError: for n = 0, NaN, infinite confidence, or a count below 1.
        TypeError: for a dtype that is not real.

    Example:
        >>> cascade_thresholds([1, 2, 3, 4], count=2)[:2].tolist()
        [inf, 2.5]
    """
    values, steps = validation.confidences(confidence), validation.integer("count", count, least=1)
    validation.require(values < np.inf, values, "confidence must be below infinity")
    levels, sizes = np.unique(values, return_counts=True)
    accepted = np.cumsum(sizes[::-1])
    wanted = np.arange(1, steps) * values.size / steps
    ends = np.unique(np.searchsorted(accepted, wanted - 1e-9) + 1)
    inner = [ranking.threshold_after(levels[::-1], end) for end in ends[ends < levels.size]]
    return np.array([np.inf, *inner, LOWEST])


def cascade_start(
    confidence: ArrayLike,
    correct: ArrayLike,
    fallback_correct: ArrayLike,
    *,
    thresholds: ArrayLike,
) -> float:
    """Returns the threshold with the fewest errors of the whole; of several the strictest.

    On another sample than that of the certificate it is where `cascade_certificate` best starts:
    the student may be better than the fallback on what it is confident of.

    Args:
        confidence: of the student, `[n]`, higher = more confident.
        correct: whether the student is, `[n]`, boolean or 0 and 1.
        fallback_correct: whether the fallback is, `[n]`, likewise.
        thresholds: `[t]`, decreasing, see `cascade_thresholds`.

    Raises:
        ValueError: for n = 0, unequal lengths, NaN, values that are not boolean, or thresholds that
            do not decrease.
        TypeError: for a dtype that is not real.
    """
    counts = _count(confidence, correct, fallback_correct, _decreasing(thresholds), None)
    return float(counts.thresholds[counts.errors.argmin()])


def cascade_certificate(
    confidence: ArrayLike,
    correct: ArrayLike,
    fallback_correct: ArrayLike,
    *,
    thresholds: ArrayLike,
    risk: float,
    delta: float = 0.05,
    student_cost: float = 0.0,
    fallback_cost: float = 1.0,
    fallback_accepted: ArrayLike | None = None,
) -> CascadeCertificate:
    """Certifies the risk of a cascade, and finds the cheapest certified threshold.

    p(t) = P(Bin(a(t), r) <= errors(t)), with the number a(t) of answers and of errors among them,
    by student and fallback together. Fixed-sequence Learn then Test: the thresholds are certified
    in their order, from the most expensive one, while p(t) <= delta. With probability at least
    1 - delta over calibration samples, the risk of the whole is at most r at every certified
    threshold. At an infinite threshold it is the fallback's own risk: with a fallback that errs too
    often, nothing is certified.

    Args:
        confidence: of the student, `[n]`, higher = more confident.
        correct: whether the student is, `[n]`, boolean or 0 and 1.
        fallback_correct: whether the fallback is, `[n]`, likewise.
        thresholds: `[t]`, decreasing, fixed before the sample was seen, see `cascade_thresholds`;
            without those above `cascade_start` more may be certified.
        risk: r in (0, 1), of all answers.
        delta: in (0, 1), the probability that the certificate may fail.
        student_cost: of an example, such as the multiply-adds of the student, >= 0.
        fallback_cost: the same of the fallback, for the examples that are passed on to it.
        fallback_accepted: whether the fallback answers, `[n]`, by a rule that was fixed before;
            None: always. The risk is then that among the answers, the selective risk.

    Returns:
        The certificate; its `point` has `risk_bound` r.

    Raises:
        ValueError: for n = 0, unequal lengths, NaN, values that are not boolean, thresholds that do
            not decrease, a risk or delta outside (0, 1), or a negative cost.
        TypeError: for a dtype that is not real.

    Source: Angelopoulos et al., "Learn then Test", arXiv 2110.01052.
    """
    target, level = validation.probability("risk", risk), validation.probability("delta", delta)
    costs = _costs(student_cost, fallback_cost)
    counts = _count(
        confidence, correct, fallback_correct, _decreasing(thresholds), fallback_accepted
    )
    p_values = np.where(counts.answered > 0, bdtr(counts.errors, counts.answered, target), 1.0)
    certified = int(np.sum(np.logical_and.accumulate(p_values <= level)))
    first = _point(counts, 0, _upper_bound(counts, 0, level), costs)
    if not certified:
        few = (1 - target) ** int(counts.answered[0]) > level
        return CascadeCertificate(None, FEW_EXAMPLES if few else TOO_MANY_ERRORS, first)
    return CascadeCertificate(_point(counts, certified - 1, target, costs), "", first)


def cascade_bounds(
    confidence: ArrayLike,
    correct: ArrayLike,
    fallback_correct: ArrayLike,
    *,
    thresholds: ArrayLike,
    delta: float = 0.05,
    student_cost: float = 0.0,
    fallback_cost: float = 1.0,
    fallback_accepted: ArrayLike | None = None,
) -> tuple[CascadePoint, ...]:
    """Upper bounds on the risk of a cascade at fixed thresholds, which hold together.

    b(t) = max {b : P(Bin(a(t), b) <= errors(t)) >= delta / T} for T thresholds: with probability at
    least 1 - delta all of them hold, so that any may be chosen afterwards. For one threshold it is
    the bound of Clopper and Pearson. The thresholds, in any order, were fixed before the sample was
    seen.

    Args:
        confidence: of the student, `[n]`, higher = more confident.
        correct: whether the student is, `[n]`, boolean or 0 and 1.
        fallback_correct: whether the fallback is, `[n]`, likewise.
        thresholds: `[t]`, in any order.
        delta: in (0, 1), the probability that any of the bounds may fail.
        student_cost: of an example, >= 0.
        fallback_cost: the same of the fallback, for the examples that are passed on to it.
        fallback_accepted: whether the fallback answers, `[n]`, see `cascade_certificate`.

    Returns:
        A point for each threshold, in their order.

    Raises:
        ValueError: for n = 0, unequal lengths, NaN, values that are not boolean, no threshold, a
            delta outside (0, 1), or a negative cost.
        TypeError: for a dtype that is not real.

    Example:
        >>> (point,) = cascade_bounds([3, 2, 1], [1, 1, 0], [0, 1, 1], thresholds=[1.5])
        >>> point.errors, round(point.risk_bound, 4), round(point.passed_on, 4)
        (0, 0.6316, 0.3333)
    """
    level = validation.probability("delta", delta)
    costs, cuts = _costs(student_cost, fallback_cost), _thresholds(thresholds)
    counts = _count(confidence, correct, fallback_correct, cuts, fallback_accepted)
    return tuple(
        _point(counts, index, _upper_bound(counts, index, level / cuts.size), costs)
        for index in range(cuts.size)
    )


def cascade_bound_anywhere(
    confidence: ArrayLike,
    correct: ArrayLike,
    fallback_correct: ArrayLike,
    *,
    threshold: float,
    thresholds: ArrayLike,
    delta: float = 0.05,
    student_cost: float = 0.0,
    fallback_cost: float = 1.0,
) -> CascadePoint:
    """Upper bound on the risk of a cascade that holds for all thresholds at the same time.

    The threshold may have been chosen on the same sample, as a certified one of
    `learn_then_test` was. The fixed thresholds g_0 > ... > g_T divide the axis into T intervals.
    In that of the threshold, an example with a confidence within it counts as an error if student
    or fallback is wrong, the others as usual: the number of these errors bounds that of every
    threshold in the interval. Its bound of Clopper and Pearson is taken at delta / T.

    Args:
        confidence: see `cascade_certificate`, and so are the others.
        correct: likewise.
        fallback_correct: likewise.
        threshold: of the student, between the first and the last of `thresholds`.
        thresholds: `[T + 1]`, decreasing, fixed before the sample was seen, at least two; see
            `cascade_thresholds`.
        delta: likewise.
        student_cost: likewise.
        fallback_cost: likewise.

    Raises:
        ValueError, TypeError: see `cascade_certificate`.
    """
    level, costs = validation.probability("delta", delta), _costs(student_cost, fallback_cost)
    fixed = _decreasing(thresholds)
    if fixed.size < 2 or not fixed[-1] <= threshold <= fixed[0]:
        raise InputError(f"threshold {threshold:g}: must lie between two of the given thresholds")
    below = min(max(int(np.sum(fixed >= threshold)), 1), fixed.size - 1)
    counts = _count(confidence, correct, fallback_correct, np.array([threshold]), None)
    ranks, wrong = validation.sample(confidence, np.logical_not(correct))
    fallback_wrong = ~validation.booleans("fallback_correct", fallback_correct, shape=ranks.shape)
    by_student, by_fallback = ranks >= fixed[below - 1], ranks < fixed[below]
    errors = int(np.sum((wrong & ~by_fallback) | (fallback_wrong & ~by_student)))
    bound = binomial.upper_bound(errors, ranks.size, level / (fixed.size - 1))
    return _point(counts, 0, bound, costs)


def threshold_text(threshold: float | None) -> str:
    """Returns a threshold of the student with six digits, or who answers everything.

    Args:
        threshold: None or infinite: `none`, the student answers nothing; `LOWEST`: `all`.
    """
    if threshold is None or threshold == np.inf:
        return "none"
    return "all" if threshold <= LOWEST else f"{threshold:.6g}"


class _CascadeCounts(NamedTuple):
    """Numbers of examples at each threshold, `[t]` each, of `examples`."""

    thresholds: Floats
    passed_on: Counts
    answered: Counts
    errors: Counts
    examples: int


def _count(
    confidence: ArrayLike,
    correct: ArrayLike,
    fallback_correct: ArrayLike,
    thresholds: Floats,
    fallback_accepted: ArrayLike | None,
) -> _CascadeCounts:
    ranks, right = validation.sample(confidence, correct)
    # At an infinite threshold the student answers nothing, whatever its confidence.
    validation.require(ranks < np.inf, ranks, "confidence must be below infinity")
    wrong = ~validation.booleans("fallback_correct", fallback_correct, shape=ranks.shape)
    accepted = np.ones_like(wrong)
    if fallback_accepted is not None:
        accepted = validation.booleans("fallback_accepted", fallback_accepted, shape=ranks.shape)
    order = np.argsort(ranks, kind="stable")
    passed_on = np.searchsorted(ranks[order], thresholds)

    def below(flags: NDArray[np.bool_]) -> Counts:
        """Returns the number of flagged examples below each threshold."""
        return np.concatenate(([0], np.cumsum(flags[order])))[passed_on]

    unanswered = below(~accepted)
    errors = below(wrong & accepted) + np.sum(~right) - below(~right)
    return _CascadeCounts(thresholds, passed_on, ranks.size - unanswered, errors, ranks.size)


def _point(
    counts: _CascadeCounts, index: int, bound: float, costs: tuple[float, float]
) -> CascadePoint:
    passed_on = float(counts.passed_on[index] / counts.examples)
    answered, errors = int(counts.answered[index]), int(counts.errors[index])
    return CascadePoint(
        threshold=float(counts.thresholds[index]),
        passed_on=passed_on,
        answered=answered / counts.examples,
        errors=errors,
        risk=errors / answered if answered else float("nan"),
        risk_bound=bound,
        cost=costs[0] + passed_on * costs[1],
    )


def _upper_bound(counts: _CascadeCounts, index: int, level: float) -> float:
    return binomial.upper_bound(int(counts.errors[index]), int(counts.answered[index]), level)


def _thresholds(thresholds: ArrayLike) -> Floats:
    values = validation.nonempty("thresholds", thresholds, ndim=1)
    validation.require(~np.isnan(values), values, "thresholds must not be NaN")
    return values


def _decreasing(thresholds: ArrayLike) -> Floats:
    values = _thresholds(thresholds)
    validation.require(values[1:] < values[:-1], values[1:], "thresholds must decrease")
    return values


def _costs(student: float, fallback: float) -> tuple[float, float]:
    for name, cost in (("student_cost", student), ("fallback_cost", fallback)):
        if not 0 <= cost < np.inf:
            raise InputError(f"{name} {cost:g}: must be at least 0")
    return float(student), float(fallback)
