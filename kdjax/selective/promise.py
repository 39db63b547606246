"""Whether new labelled examples refute a promise about the selective risk: an exact test."""

import bisect
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import bdtrc

from kdjax.selective import binomial, validation


class PromiseCheck(NamedTuple):
    """Coverage and selective risk of new examples, and the test of a promised risk.

    Attributes:
        examples: number of examples, n.
        accepted: how many of them are accepted, k.
        errors: how many of the accepted ones are wrong, e.
        coverage: k / n.
        coverage_interval: exact two-sided interval of the coverage.
        risk: e / k; nan if nothing is accepted.
        risk_interval: the same of the selective risk; (0, 1) if nothing is accepted.
        p_value: P(Bin(k, r) >= e), the probability of at least as many errors if the risk is r.
        refuted: p_value <= delta.
        refuting_errors: the least number of errors among k that refutes the promise; None if none
            does.
    """

    examples: int
    accepted: int
    errors: int
    coverage: float
    coverage_interval: tuple[float, float]
    risk: float
    risk_interval: tuple[float, float]
    p_value: float
    refuted: bool
    refuting_errors: int | None


def check_promise(
    accepted: ArrayLike,
    correct: ArrayLike,
    *,
    risk: float,
    delta: float = 0.05,
    level: float = 0.95,
) -> PromiseCheck:
    """One-sided exact binomial test of the hypothesis that the selective risk is at most r.

    Given the number k of accepted examples, the number of errors e among them is binomial. The
    promise is refuted if P(Bin(k, r) >= e) <= delta. If the true selective risk is at most r, that
    happens with probability at most delta, whatever the coverage.

    Args:
        accepted: `[n]`, boolean or 0 and 1; whether each new example is accepted.
        correct: `[n]`, boolean or 0 and 1; whether its prediction is correct.
        risk: r in (0, 1), the promised selective risk.
        delta: in (0, 1), the probability of a false refutation.
        level: of the intervals, see `binomial.proportion_interval`, in (0, 1).

    Raises:
        ValueError: for n = 0, unequal lengths, values that are not boolean, or a risk, delta or
            level outside (0, 1).
        TypeError: for a dtype that is not real.

    Example:
        >>> check = check_promise([1, 1, 1, 0], [0, 0, 1, 0], risk=0.1)
        >>> check.accepted, check.errors, round(check.p_value, 6), check.refuted
        (3, 2, 0.028, True)

    Sources: Clopper, Pearson, "The use of confidence or fiducial limits", Biometrika 1934; of the
    intervals: Blaker, Canadian Journal of Statistics 2000.
    """
    is_accepted = validation.booleans("accepted", accepted)
    is_correct = validation.booleans("correct", correct, shape=is_accepted.shape)
    bound, tail = validation.probability("risk", risk), validation.probability("delta", delta)
    size = validation.probability("level", level)
    total, kept = len(is_accepted), int(is_accepted.sum())
    errors = int(np.sum(is_accepted & ~is_correct))
    p_value = _p_value(errors, kept, bound)
    return PromiseCheck(
        examples=total,
        accepted=kept,
        errors=errors,
        coverage=kept / total,
        coverage_interval=binomial.proportion_interval(kept, total, size),
        risk=errors / kept if kept else float("nan"),
        risk_interval=binomial.proportion_interval(errors, kept, size) if kept else (0.0, 1.0),
        p_value=p_value,
        refuted=p_value <= tail,
        refuting_errors=_refuting_errors(kept, bound, tail),
    )


def _p_value(errors: int, accepted: int, risk: float) -> float:
    """Returns P(Bin(accepted, risk) >= errors)."""
    return float(bdtrc(errors - 1, accepted, risk)) if errors else 1.0


def _refuting_errors(accepted: int, risk: float, delta: float) -> int | None:
    counts = range(1, accepted + 1)
    index = bisect.bisect_left(
        counts, True, key=lambda errors: _p_value(errors, accepted, risk) <= delta
    )
    return counts[index] if index < len(counts) else None
