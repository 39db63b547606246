"""A bound on the risk and one on the coverage that hold together.

The threshold t is taken from the sample, and so are its two bounds. They hold together because each
of the statements below can only be false in an event that does not depend on the choice of t. With
n examples, k(t) of them accepted, and true coverage C(t) = P(confidence >= t):

1. Coverage at least c, fixed beforehand. Let k_c be the least k with P(Bin(n, c) >= k) <= a. Claim
   C(t) >= c wherever k(t) >= k_c. Let t_c be the supremum of the thresholds with C >= c. If
   C(t) < c then t > t_c, so that all accepted examples have a confidence above t_c. The number N of
   all examples above t_c is binomial with a probability of at most c, and k(t) <= N. A false claim
   needs N >= k_c, which has a probability of at most a, however t was chosen. (k >= k_c says that
   the lower bound of Clopper and Pearson for k of n is at least c. Without a c that was fixed
   beforehand, that bound would not hold for a threshold chosen from the sample.)
2. Coverage at least k(t) / n - d for every t at once, with d the quantile of the one-sided
   Kolmogorov-Smirnov statistic: P(sup_t (k(t) / n - C(t)) >= d) = a. The distribution of the
   statistic is exact for confidences without ties (Smirnov 1944), and with ties it is smaller. For
   large n, where it takes long to compute, d = sqrt(ln(1 / a) / (2 n)), which is less than 1 %
   larger, is used instead (Massart 1990).
3. Risk at most r at the threshold of `learn_then_test`, see `certificates`.
4. Risk at the threshold that accepts the k_c most confident examples: k_c depends on n, c and a
   only, so that the bound of Clopper and Pearson from the errors among them holds.

By the union bound, all statements hold together with probability at least 1 - delta if their shares
a add up to delta. Statements 3 and 4 assume that the risk does not fall as the threshold is
lowered; 1 and 2 assume nothing but independent examples of the same distribution.
"""

import bisect
import functools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import bdtrc, smirnovi

from kdjax.errors import InputError
from kdjax.selective import binomial, certificates, ranking, validation
from kdjax.selective.certificates import Certificate

EXACT_UP_TO = 20_000  # examples for which the exact statistic is used


class Shares(NamedTuple):
    """How delta is divided among the four statements; the fields add up to it.

    Attributes:
        risk: of the risk at the certified threshold.
        coverage: of the coverage that was requested.
        band: of the coverage at the certified threshold.
        risk_at_coverage: of the risk at the threshold for the requested coverage.
    """

    risk: float
    coverage: float
    band: float
    risk_at_coverage: float


class Pair(NamedTuple):
    """A threshold with a bound on its risk and one on its coverage.

    Attributes:
        threshold: accept `confidence >= threshold`.
        risk: upper bound on the true selective risk.
        coverage: lower bound on the true coverage.
        accepted: number of accepted examples of the sample.
        errors: number of errors among them.
    """

    threshold: float
    risk: float
    coverage: float
    accepted: int
    errors: int


class JointCertificate(NamedTuple):
    """Whether a risk and a coverage can be certified together, and else what can.

    Attributes:
        both: whether `at_risk` has both what was requested.
        at_risk: the pair with the requested risk and the largest coverage; None if no threshold
            can be certified.
        at_coverage: the pair with the requested coverage and the smallest risk; None if none was
            requested, or if the sample is too small for it.
        risk: requested.
        coverage: requested; 0: none.
        delta: probability that any bound of the two pairs fails.
    """

    both: bool
    at_risk: Pair | None
    at_coverage: Pair | None
    risk: float
    coverage: float
    delta: float

    @property
    def threshold(self) -> float:
        """The loosest threshold with both bounds; infinite if there is none."""
        return self.at_risk.threshold if self.both and self.at_risk else math.inf


def joint_certificate(
    confidence: ArrayLike,
    correct: ArrayLike,
    *,
    risk: float,
    coverage: float = 0.0,
    delta: float = 0.05,
    total: int | None = None,
) -> JointCertificate:
    """A threshold with a selective risk of at most r and a coverage of at least c.

    P(risk(t) <= r and coverage(t) >= c) >= 1 - delta for the returned threshold t, the loosest one
    that `learn_then_test` certifies at its share of delta, if it accepts at least k_c examples,
    with k_c the least k with P(Bin(n, c) >= k) <= its share. If it accepts fewer, not both can be
    certified, and the result has the pairs that can: the requested risk with the largest coverage,
    and the requested coverage with the smallest risk. Both pairs hold together, so that one of them
    may be chosen after a look at the two. The text of `kdjax.selective.joint` has the proof.

    With a requested coverage, risk and coverage get delta / 3 each, and the bounds that only the
    pairs need delta / 6 each; without one, risk and coverage get delta / 2 each.

    Args:
        confidence: `[n]`, finite or -inf, higher = more confident.
        correct: `[n]`, boolean or 0 and 1.
        risk: r in (0, 1).
        coverage: c in [0, 1); 0: none is requested, and the result has the largest one at r. `both`
            is then whether r alone can be certified.
        delta: in (0, 1), the probability that any of the bounds fails.
        total: number of examples, if some were never accepted for another reason and are not in the
            sample; their share counts as not covered. None: n.

    Returns:
        The certificate.

    Raises:
        ValueError: for n = 0, unequal lengths, NaN, infinite confidence, a `correct` that is not
            boolean, a risk, coverage or delta out of range, or `total` < n.
        TypeError: for a dtype that is not real.

    Example:
        >>> correct = [True] * 900 + [True, False] * 50
        >>> result = joint_certificate(range(1000, 0, -1), correct, risk=0.02, coverage=0.85)
        >>> result.both, result.at_risk.accepted
        (True, 919)

    Sources: Angelopoulos et al., "Learn then Test", arXiv 2110.01052; Clopper, Pearson, Biometrika
    1934; Smirnov, "Approximate laws of distribution of random variables from empirical data",
    Uspekhi Mat. Nauk 1944; Massart, Annals of Probability 1990.
    """
    target, level = validation.probability("risk", risk), validation.probability("delta", delta)
    least = validation.share("coverage", coverage)
    parts = shares(level, is_requested=bool(least))
    sequence = certificates.fixed_sequence(confidence, correct, risk=target, level=parts.risk)
    groups = sequence.groups
    examples = _total(total, int(groups.accepted[-1]))
    needed = least_accepted(examples, least, parts.coverage) if least else 0
    loosest = sequence.certificate(parts.risk)
    accepted = round(loosest.coverage * int(groups.accepted[-1]))
    both = accepted >= max(1, needed)
    at_risk = _at_risk(groups, loosest, accepted, examples, parts.band)
    if at_risk and both:
        at_risk = at_risk._replace(coverage=max(least, at_risk.coverage))
    at_coverage = _at_coverage(groups, needed, least, parts.risk_at_coverage) if least else None
    return JointCertificate(both, at_risk, at_coverage, target, least, level)


@functools.lru_cache(maxsize=256)
def least_accepted(total: int, coverage: float, delta: float) -> int:
    """Returns the least k with P(Bin(total, coverage) >= k) <= delta; total + 1 if none has it."""
    counts = range(1, total + 1)
    return 1 + bisect.bisect_left(
        counts, True, key=lambda count: bool(bdtrc(count - 1, total, coverage) <= delta)
    )


def _total(total: int | None, sample: int) -> int:
    if total is None:
        return sample
    if validation.integer("total", total, least=1) < sample:
        raise InputError(f"total {total}: the sample has {sample} examples")
    return total


def shares(delta: float, *, is_requested: bool) -> Shares:
    """Returns how delta is divided.

    Args:
        delta: probability that any of the bounds fails.
        is_requested: whether a coverage is requested.
    """
    if not is_requested:
        return Shares(delta / 2, 0.0, delta / 2, 0.0)
    return Shares(delta / 3, delta / 3, delta / 6, delta / 6)


def _at_risk(
    groups: ranking.TieGroups, loosest: Certificate, accepted: int, total: int, delta: float
) -> Pair | None:
    """Returns the pair of the certified threshold; None if there is none."""
    if not accepted:
        return None
    bound = max(0.0, accepted / total - _band(total, delta))
    end = int(np.searchsorted(groups.accepted, accepted))
    return Pair(loosest.threshold, loosest.risk_bound, bound, accepted, int(groups.errors[end]))


@functools.lru_cache(maxsize=256)
def _band(total: int, delta: float) -> float:
    """Returns the d that sup_t (k(t) / n - C(t)) exceeds with probability at most delta."""
    if total <= EXACT_UP_TO:
        return float(smirnovi(total, delta))
    return math.sqrt(-math.log(delta) / (2 * total))  # for delta <= 1/2, as all shares are


def _at_coverage(
    groups: ranking.TieGroups, needed: int, coverage: float, delta: float
) -> Pair | None:
    """Returns the pair of the threshold that accepts `needed` examples; None if there are fewer."""
    end = int(np.searchsorted(groups.accepted, needed))
    if end == groups.accepted.size:
        return None
    accepted, errors = int(groups.accepted[end]), int(groups.errors[end])
    bound = binomial.upper_bound(errors, accepted, delta)
    threshold = ranking.threshold_after(groups.threshold, end)
    return Pair(threshold, bound, coverage, accepted, errors)
