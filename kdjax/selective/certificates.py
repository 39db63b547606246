"""Thresholds whose risk on new data is bounded with a stated confidence, from exact binomial tails.

What both promise: if the calibration sample was used for nothing else (no training, no choice of
checkpoint or score), is i.i.d. with the data to come, and the true risk does not fall as the
threshold is lowered, then with probability at least 1 - delta over samples the error rate of new
predictions with `confidence >= threshold` is at most `risk_bound`. Coverage is the sample's own.
The last condition stands in for thresholds fixed before the sample was seen.
"""

import bisect
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import bdtr, betainccinv  # scipy.stats has them too, and triples the import

from kdjax.selective import ranking, samples

# Where the sequence of `learn_then_test` starts: a start that one early error fails would end it.
LEAST_ACCEPTED = 30
TOLERATED_ERRORS = 10


class Certificate(NamedTuple):
    """A threshold and what it is certified for; that none can be certified is a result too.

    Attributes:
        threshold: accept `confidence >= threshold`; infinite where none is certified.
        coverage: accepted fraction of the calibration sample; 0 where none is certified.
        risk_bound: bound on the true risk of the accepted; 1 where none is certified.
    """

    threshold: float
    coverage: float
    risk_bound: float


def sgr(
    confidence: ArrayLike, correct: ArrayLike, *, risk: float, delta: float = 0.05
) -> Certificate:
    """Selection with guaranteed risk: a binary search for the loosest threshold that holds.

    b = max {b : P(Bin(k, b) <= errors(k)) >= delta / K}, for each of the K = ceil(log2 n)
    thresholds at most that the search tries, k predictions accepted; b <= r certifies. The last
    one certified is kept, which is also the loosest.

    Args:
        confidence: `[n]`, finite or -inf, higher = more confident.
        correct: `[n]`, boolean or 0 and 1.
        risk: r in (0, 1), the target.
        delta: in (0, 1), the probability that the promise may fail.

    Returns:
        The certificate; its `risk_bound` is b.

    Raises:
        ValueError: for n = 0, two lengths, NaN, infinite confidence, a `correct` that is not
            boolean, or a risk or delta outside (0, 1).
        TypeError: for a dtype that is not real.

    Source: Geifman, El-Yaniv, "Selective Classification for Deep Neural Networks", NIPS 2017,
    arXiv 1705.08500; it returns the last threshold tried, certified or not.
    """
    target, level = samples.probability("risk", risk), samples.probability("delta", delta)
    counts = _counted(confidence, correct)
    steps = max(1, math.ceil(math.log2(counts.accepted[-1])))

    def bound(end: int) -> float:
        return _upper_bound(int(counts.errors[end]), int(counts.accepted[end]), level / steps)

    # K answers tell 2^K outcomes apart, and one of them is that nothing is certified.
    ends = range(1, min(counts.threshold.size, 2**steps - 1) + 1)
    last = bisect.bisect_left(ends, True, key=lambda end: bound(end) > target)
    return _certificate(counts, last, bound(last))


def learn_then_test(
    confidence: ArrayLike, correct: ArrayLike, *, risk: float, delta: float = 0.05
) -> Certificate:
    """Fixed-sequence Learn then Test: from the strictest threshold to the first that fails.

    p(k) = P(Bin(k, r) <= errors(k)) for k accepted predictions; thresholds are certified in order
    while p(k) <= delta, and delta is not split because the order is fixed. The sequence starts at
    the least k >= 30 where 10 errors would pass, or at floor(n / 4) if that is less, but never
    where not even 0 errors would pass: a function of n, r and delta alone.

    Args:
        confidence: `[n]`, finite or -inf, higher = more confident.
        correct: `[n]`, boolean or 0 and 1.
        risk: r in (0, 1), the target.
        delta: in (0, 1), the probability that the promise may fail.

    Returns:
        The certificate of the loosest threshold; its `risk_bound` is r.

    Raises:
        ValueError: for n = 0, two lengths, NaN, infinite confidence, a `correct` that is not
            boolean, or a risk or delta outside (0, 1).
        TypeError: for a dtype that is not real.

    Source: Angelopoulos et al., "Learn then Test", arXiv 2110.01052.
    """
    target, level = samples.probability("risk", risk), samples.probability("delta", delta)
    counts = _counted(confidence, correct)
    first = _first_count(int(counts.accepted[-1]), target, level)
    start = int(np.searchsorted(counts.accepted, first))
    p_values = bdtr(counts.errors[start:], counts.accepted[start:], target)
    certified = int(np.sum(np.logical_and.accumulate(p_values <= level)))
    return _certificate(counts, start + certified - 1 if certified else 0, target)


def _counted(confidence: ArrayLike, correct: ArrayLike) -> ranking.Plateaus:
    counts = ranking.plateaus(confidence, correct)
    rule = "confidence must be below infinity, the threshold that accepts nothing"
    samples.require(counts.threshold < np.inf, counts.threshold, rule)
    return counts


def _upper_bound(errors: int, accepted: int, delta: float) -> float:
    """Largest b with P(Bin(accepted, b) <= errors) >= delta (Clopper, Pearson 1934)."""
    if errors == accepted:
        return 1.0
    return float(betainccinv(errors + 1, accepted - errors, delta))


def _first_count(n: int, risk: float, delta: float) -> int:
    """Least count of accepted predictions to test; where none can pass it exceeds n."""
    counts = np.arange(LEAST_ACCEPTED, n + 1)

    def passes(errors: int) -> int:
        return LEAST_ACCEPTED + int(np.sum(bdtr(errors, counts, risk) > delta))

    return max(passes(0), min(passes(TOLERATED_ERRORS), n // 4))


def _certificate(counts: ranking.Plateaus, end: int, bound: float) -> Certificate:
    """The threshold at the end of the `end`-th plateau, 0 for none."""
    if end == 0:
        return Certificate(threshold=math.inf, coverage=0.0, risk_bound=1.0)
    coverage = float(counts.accepted[end] / counts.accepted[-1])
    return Certificate(float(counts.threshold[end - 1]), coverage, bound)
