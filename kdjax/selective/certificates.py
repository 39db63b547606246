"""Thresholds with a bound on the risk of new predictions, from exact binomial tails.

Assumptions of both procedures: the calibration sample was used for nothing else (training, choice
of a checkpoint or score), it is i.i.d. with the new data, and the true risk does not fall as the
threshold is lowered. Then, with probability at least 1 - delta over calibration samples, the error
rate of new predictions with `confidence >= threshold` is at most `risk_bound`. The coverage is
that of the calibration sample. The assumption on the risk is needed because the thresholds are
taken from the sample; thresholds fixed before the sample was drawn would not need it.

A threshold lies half-way between the least confident accepted prediction, the k-th, and the next
one. Given the confidence s of the next one, the k accepted predictions are i.i.d. above s, so that
the binomial tail bounds the risk of the threshold s; that of a higher one is not larger.
"""

import bisect
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr

from kdjax.selective import binomial, ranking, validation

# `learn_then_test` starts where `TOLERATED_ERRORS` errors would still pass. Starting where a single
# error already fails would often certify nothing.
LEAST_ACCEPTED = 30
TOLERATED_ERRORS = 10
BLOCK = 1 << 14  # thresholds whose p-values are computed together


class Certificate(NamedTuple):
    """A threshold with a bound on its risk; the threshold is infinite if none is certified.

    Attributes:
        threshold: accept `confidence >= threshold`; half-way between two confidences of the
            calibration sample, see `ranking.threshold_after`; infinite if none is certified.
        coverage: accepted fraction of the calibration sample; 0 if none is certified.
        risk_bound: bound on the true selective risk; 1 if none is certified.
    """

    threshold: float
    coverage: float
    risk_bound: float


def sgr(
    confidence: ArrayLike, correct: ArrayLike, *, risk: float, delta: float = 0.05
) -> Certificate:
    """Selection with guaranteed risk (SGR): binary search for the loosest certified threshold.

    For each of the at most K = ceil(log2 n) thresholds that the search tries, with k accepted
    predictions, b = max {b : P(Bin(k, b) <= errors(k)) >= delta / K}; the threshold is certified
    if b <= r. The last certified threshold is returned, which is also the loosest one.

    Args:
        confidence: `[n]`, finite or -inf, higher = more confident.
        correct: `[n]`, boolean or 0 and 1.
        risk: r in (0, 1), the target.
        delta: in (0, 1), the probability that the certificate may fail.

    Returns:
        The certificate; its `risk_bound` is b.

    Raises:
        ValueError: for n = 0, unequal lengths, NaN, infinite confidence, a `correct` that is not
            boolean, or a risk or delta outside (0, 1).
        TypeError: for a dtype that is not real.

    Source: Geifman, El-Yaniv, "Selective Classification for Deep Neural Networks", NIPS 2017,
    arXiv 1705.08500. The original returns the last threshold tried, even if it is not certified.
    """
    target, level = validation.probability("risk", risk), validation.probability("delta", delta)
    groups = finite_tie_groups(confidence, correct)
    steps = max(1, math.ceil(math.log2(groups.accepted[-1])))

    def bound(end: int) -> float:
        errors, accepted = int(groups.errors[end]), int(groups.accepted[end])
        return binomial.upper_bound(errors, accepted, level / steps)

    # K comparisons distinguish 2^K outcomes; one of them is that no threshold is certified.
    ends = range(1, min(groups.threshold.size, 2**steps - 1) + 1)
    last = bisect.bisect_left(ends, True, key=lambda end: bound(end) > target)
    return _certificate(groups, last, bound(last))


def learn_then_test(
    confidence: ArrayLike, correct: ArrayLike, *, risk: float, delta: float = 0.05
) -> Certificate:
    """Fixed-sequence Learn then Test: from the strictest threshold to the first that fails.

    p(k) = P(Bin(k, r) <= errors(k)) for k accepted predictions. Thresholds are certified in order
    while p(k) <= delta; delta is not split because the order is fixed. The sequence starts at the
    least k >= 30 where 10 errors would pass, or at floor(n / 4) if that is smaller, but never
    below 30, nor where not even 0 errors would pass. The start depends on n, r and delta only.

    Args:
        confidence: `[n]`, finite or -inf, higher = more confident.
        correct: `[n]`, boolean or 0 and 1.
        risk: r in (0, 1), the target.
        delta: in (0, 1), the probability that the certificate may fail.

    Returns:
        The certificate of the loosest certified threshold; its `risk_bound` is r.

    Raises:
        ValueError: for n = 0, unequal lengths, NaN, infinite confidence, a `correct` that is not
            boolean, or a risk or delta outside (0, 1).
        TypeError: for a dtype that is not real.

    Source: Angelopoulos et al., "Learn then Test", arXiv 2110.01052.
    """
    target, level = validation.probability("risk", risk), validation.probability("delta", delta)
    return fixed_sequence(confidence, correct, risk=target, level=level).certificate(level)


class FixedSequence(NamedTuple):
    """The thresholds of a sample in the order in which Learn then Test certifies them.

    Attributes:
        groups: counts at the end of each tie group of the sample.
        start: index in `groups.accepted` of the first threshold that is tested.
        doubtful: indices in `groups.accepted` of the thresholds that may fail at some level from
            the lowest on, `[s]`, increasing; up to the first one that fails at the highest level.
        worst: the largest p-value up to each of them, `[s]`, rising.
        risk: that is certified.
    """

    groups: ranking.TieGroups
    start: int
    doubtful: NDArray[np.int64]
    worst: NDArray[np.float64]
    risk: float

    @property
    def largest(self) -> float:
        """The largest p-value, or 0 if all thresholds pass at the lowest level."""
        return float(self.worst[-1]) if self.worst.size else 0.0

    def certificate(self, level: float) -> Certificate:
        """Returns the certificate of the loosest threshold that is certified at a level.

        Args:
            level: between the lowest and the highest level of the sequence.
        """
        failing = self.doubtful[np.searchsorted(self.worst, level, side="right") :]
        end = int(failing[0]) if failing.size else self.groups.accepted.size
        return _certificate(self.groups, end - 1 if end > self.start else 0, self.risk)


def fixed_sequence(
    confidence: ArrayLike,
    correct: ArrayLike,
    *,
    risk: float,
    level: float,
    highest: float | None = None,
) -> FixedSequence:
    """Returns the thresholds that `learn_then_test` tests at delta = `level`, with their p-values.

    Args:
        confidence: `[n]`, finite or -inf, higher = more confident.
        correct: `[n]`, boolean or 0 and 1.
        risk: r in (0, 1).
        level: in (0, 1), the lowest level, which determines the first threshold: it depends on n, r
            and `level` only.
        highest: the highest level at which the sequence is tested; None: `level`.

    Raises:
        ValueError: for n = 0, unequal lengths, NaN, infinite confidence, or a `correct` that is not
            boolean.
        TypeError: for a dtype that is not real.
    """
    groups = finite_tie_groups(confidence, correct)
    return sequence_of_groups(groups, risk=risk, level=level, highest=highest)


def sequence_of_groups(
    groups: ranking.TieGroups, *, risk: float, level: float, highest: float | None = None
) -> FixedSequence:
    """Returns the same as `fixed_sequence`, from the counts of `finite_tie_groups`."""
    first = _first_count(int(groups.accepted[-1]), risk, level)
    start = int(np.searchsorted(groups.accepted, first))
    doubtful, p_values = _doubtful(groups, start, risk, level, highest or level)
    return FixedSequence(groups, start, doubtful, np.maximum.accumulate(p_values), risk)


def _doubtful(
    groups: ranking.TieGroups, start: int, risk: float, level: float, highest: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Returns `doubtful` of `FixedSequence` and their p-values.

    With more errors p(k) rises, and with more accepted predictions it falls. So a block of
    thresholds passes if all of them have few enough errors for its first one, and among thresholds
    with equal errors only the first one is in doubt.
    """
    found, p_values = [np.empty(0, np.int64)], [np.empty(0)]
    for low in range(start, groups.accepted.size, BLOCK):
        accepted, errors = (counts[low : low + BLOCK] for counts in groups[:2])
        passing = _passing_errors(int(accepted[0]), risk, level)
        rows = np.flatnonzero((errors > passing) & (np.diff(errors, prepend=-1) > 0))
        found.append(low + rows)
        p_values.append(bdtr(errors[rows], accepted[rows], risk))
        if np.any(p_values[-1] > highest):
            break
    return np.concatenate(found), np.concatenate(p_values)


def _passing_errors(accepted: int, risk: float, level: float) -> int:
    """Returns the most errors with a p-value of at most `level`; -1 if not even 0 have it."""
    counts = range(accepted + 1)
    return bisect.bisect_left(counts, True, key=lambda e: bool(bdtr(e, accepted, risk) > level)) - 1


def finite_tie_groups(confidence: ArrayLike, correct: ArrayLike) -> ranking.TieGroups:
    """Returns the counts of a sample whose confidences are finite or -inf.

    Raises:
        ValueError: for n = 0, unequal lengths, NaN, infinite confidence, or a `correct` that is not
            boolean.
        TypeError: for a dtype that is not real.
    """
    groups = ranking.tie_groups(confidence, correct)
    # An infinite threshold means that nothing is accepted.
    rule = "confidence must be below infinity"
    validation.require(groups.threshold < np.inf, groups.threshold, rule)
    return groups


def _first_count(n: int, risk: float, delta: float) -> int:
    """Returns the least number of accepted predictions to test; above n if none can pass."""
    counts = range(LEAST_ACCEPTED, n + 1)

    def least_passing(errors: int) -> int:
        return LEAST_ACCEPTED + bisect.bisect_left(
            counts, True, key=lambda count: bool(bdtr(errors, count, risk) <= delta)
        )

    return max(least_passing(0), min(least_passing(TOLERATED_ERRORS), n // 4))


def _certificate(groups: ranking.TieGroups, end: int, bound: float) -> Certificate:
    """Returns the certificate for the first `end` tie groups; 0: nothing is certified."""
    if end == 0:
        return Certificate(threshold=math.inf, coverage=0.0, risk_bound=1.0)
    coverage = float(groups.accepted[end] / groups.accepted[-1])
    return Certificate(ranking.threshold_after(groups.threshold, end), coverage, bound)


def final_level(sequences: Sequence[FixedSequence], delta: float) -> float:
    """Returns delta / (number of sequences that Holm's method leaves), delta if it leaves none."""
    largest = np.sort([sequence.largest for sequence in sequences])
    shares = delta / np.arange(len(largest), 0, -1)
    completed = int(np.sum(np.logical_and.accumulate(largest <= shares)))
    return delta / max(1, len(largest) - completed)
