"""Coverage and selective risk of groups of examples, such as classes; float64 numpy."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdjax.selective import binomial, validation

LEVEL = 0.95  # of the intervals
# Coverage up to which a group counts as (nearly) never accepted.
RARE_COVERAGE = 0.05
# Probability, over all groups, that a group is flagged by chance.
FLAG_DELTA = 0.05

Floats = NDArray[np.float64]


class GroupRates(NamedTuple):
    """Coverage and selective risk of g groups of examples, `[g]` each.

    Attributes:
        examples: number of examples.
        accepted: how many of them are accepted.
        errors: how many of the accepted ones are wrong.
        coverage: accepted / examples; nan without examples.
        coverage_low: lower end of the exact interval of the coverage; 0 without examples.
        coverage_high: upper end; 1 without examples.
        risk: errors / accepted; nan if none is accepted.
        risk_low: lower end of the exact interval of the risk; 0 if none is accepted.
        risk_high: upper end; 1 if none is accepted.
    """

    examples: NDArray[np.int64]
    accepted: NDArray[np.int64]
    errors: NDArray[np.int64]
    coverage: Floats
    coverage_low: Floats
    coverage_high: Floats
    risk: Floats
    risk_low: Floats
    risk_high: Floats

    @property
    def total_coverage(self) -> float:
        """Share of accepted examples in all groups together; 0 without examples."""
        return float(self.accepted.sum() / max(1, self.examples.sum()))


class GroupFlags(NamedTuple):
    """Groups for which an acceptance rule does not work, bool `[g]` each.

    Attributes:
        rare: (nearly) never accepted.
        risky: with a selective risk above a bound.
    """

    rare: NDArray[np.bool_]
    risky: NDArray[np.bool_]


def group_rates(
    accepted: ArrayLike,
    correct: ArrayLike,
    groups: ArrayLike,
    *,
    num_groups: int,
    level: float = LEVEL,
) -> GroupRates:
    """Coverage and selective risk of each group of examples.

    coverage_g = #(accepted, in g) / #(in g); risk_g = #(accepted, wrong, in g) / #(accepted, in g).
    The groups may be predicted classes, true classes or anything else, such as devices. The
    intervals are exact for one group that was chosen beforehand, by the method of Blaker (see
    `binomial.proportion_interval`).

    Args:
        accepted: `[n]`, boolean or 0 and 1.
        correct: `[n]`, boolean or 0 and 1.
        groups: `[n]`, integers in `[0, num_groups)`.
        num_groups: g, >= 1.
        level: of the intervals, in (0, 1).

    Returns:
        The rates, in the order of the groups.

    Raises:
        ValueError: for n = 0, unequal lengths, values that are not boolean, a group out of range,
            or a level outside (0, 1).
        TypeError: for a dtype that is not real, or groups that are not integers.

    Example:
        >>> rates = group_rates([1, 1, 0, 1], [1, 0, 1, 1], [0, 0, 1, 1], num_groups=2)
        >>> rates.coverage.tolist(), rates.risk.tolist()
        ([1.0, 0.5], [0.5, 0.0])
    """
    is_accepted = validation.booleans("accepted", accepted)
    is_correct = validation.booleans("correct", correct, shape=is_accepted.shape)
    number = validation.integer("num_groups", num_groups, least=1)
    codes = validation.codes("groups", groups, shape=is_accepted.shape, number=number)
    size = validation.probability("level", level)
    examples, kept, errors = (
        np.bincount(codes[rows], minlength=number)
        for rows in (slice(None), is_accepted, is_accepted & ~is_correct)
    )
    return GroupRates(
        examples, kept, errors, *_shares(kept, examples, size), *_shares(errors, kept, size)
    )


def flag_groups(
    rates: GroupRates, *, risk: float | None = None, delta: float = FLAG_DELTA
) -> GroupFlags:
    """Flags groups that are (nearly) never accepted, and groups with too high a selective risk.

    A group is `rare` if its coverage is at most 5 % and its true coverage is below that of all
    examples, and `risky` if its true selective risk is above `risk`: both by one-sided exact bounds
    at delta / g, so that the probability of any wrong flag of a kind is at most delta.

    Args:
        rates: of `group_rates`.
        risk: the promised selective risk, in (0, 1); None: no group is risky.
        delta: in (0, 1).

    Raises:
        ValueError: for a risk or delta outside (0, 1).
    """
    tail = validation.probability("delta", delta) / len(rates.examples)
    total = rates.total_coverage
    coverage_high = _bounds(binomial.upper_bound, rates.accepted, rates.examples, tail, empty=1.0)
    rare = (rates.coverage <= RARE_COVERAGE) & (coverage_high < total)
    if risk is None:
        return GroupFlags(rare, np.zeros_like(rare))
    bound = validation.probability("risk", risk)
    risk_low = _bounds(binomial.lower_bound, rates.errors, rates.accepted, tail, empty=0.0)
    return GroupFlags(rare, risk_low > bound)


def _shares(counts: NDArray, totals: NDArray, level: float) -> tuple[Floats, Floats, Floats]:
    """Returns counts / totals with the ends of their intervals."""
    share = np.full(len(totals), np.nan)
    np.divide(counts, totals, out=share, where=totals > 0)
    ends = [
        binomial.proportion_interval(count, total, level) if total else (0.0, 1.0)
        for count, total in zip(counts.tolist(), totals.tolist(), strict=True)
    ]
    low, high = np.transpose(ends)
    return share, low, high


def _bounds(
    bound: Callable[[float, int, float], float],
    counts: NDArray,
    totals: NDArray,
    tail: float,
    *,
    empty: float,
) -> Floats:
    """Returns a bound of each probability; `empty` for those without a trial."""
    pairs = zip(counts.tolist(), totals.tolist(), strict=True)
    return np.array([bound(count, total, tail) if total else empty for count, total in pairs])
