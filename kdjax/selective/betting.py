"""Anytime-valid tests by betting: e-processes, as products of bets, and what they estimate.

A test of a hypothesis about a stream starts with the wealth 1 and bets on the next value, at odds
that are fair if the hypothesis holds. Then the wealth is a non-negative supermartingale, and the
probability that it ever reaches 1 / delta is at most delta (Ville's inequality): the stream can be
watched for ever, after every value. All wealths are kept as logarithms.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaln

from kdjax.errors import InputError
from kdjax.selective import validation

Array = NDArray[np.float64]

# Factors of the odds of an error on which constant bets are made: just above 1 for a small excess.
ODDS_RATIOS = np.geomspace(1.1, 16, 12)


def e_process(values: ArrayLike, *, mean: float, bets: ArrayLike) -> Array:
    """Logarithm of the wealth after each value: log E_t = sum_{i <= t} log(1 + b_i (x_i - r)).

    If b_i depends on earlier values alone and E[x_i | earlier values] <= r for all i, then
    P(E_t >= 1 / delta for any t) <= delta.

    Args:
        values: x `[n]`, in [0, 1], such as whether each accepted prediction is wrong.
        mean: r in (0, 1), the largest mean of the hypothesis.
        bets: b, a number or `[n]`, in [0, 1 / r].

    Returns:
        `[n]`, `-inf` from the first time that a bet of 1 / r is lost.

    Raises:
        ValueError: for n = 0, or a value, mean or bet out of range.
        TypeError: for a dtype that is not real.

    Example:
        >>> import numpy as np
        >>> np.exp(e_process([1, 0, 1], mean=0.1, bets=5)).round(3)
        array([ 5.5 ,  2.75, 15.12])

    Source: Waudby-Smith, Ramdas, "Estimating means of bounded random variables by betting", JRSS B
    2024.
    """
    x = validation.nonempty("values", values, ndim=1)
    validation.require((x >= 0) & (x <= 1), x, "values must lie in [0, 1]")
    r = validation.probability("mean", mean)
    b = np.broadcast_to(validation.floats("bets", bets), x.shape)
    validation.require((b >= 0) & (b <= 1 / r), b, f"bets must lie in [0, 1 / mean] = [0, {1 / r}]")
    with np.errstate(divide="ignore"):
        # b = 1 / r loses all at x = 0, also where rounding leaves a remainder.
        factors = np.where((b == 1 / r) & (x == 0), 0.0, 1 + b * (x - r))
        return np.cumsum(np.log(np.maximum(factors, 0.0)))


def mixture_bets(values: ArrayLike, *, mean: float) -> Array:
    """The bets b_i of the tests of `Monitor`, as used in `e_process`.

    b_i is the mean of the constant bets (p - r) / (r (1 - r)), for p with odds of `ODDS_RATIOS`
    times those of r, weighted by the wealth that each has just before value i; a part of the
    wealth waits for later starts, see `advance`.

    Args:
        values: x `[n]`, 0 or 1.
        mean: r in (0, 1).

    Returns:
        `[n]`, in [0, 1 / r]; b_i depends on the first i - 1 values.

    Raises:
        ValueError: for n = 0, or a value or mean out of range.
        TypeError: for a dtype that is not real.
    """
    x = validation.booleans("values", values)
    r = validation.probability("mean", mean)
    factors = odds_factors(r)
    log_capital = np.full(len(ODDS_RATIOS), -np.inf)
    log_wealth, bets = 0.0, np.empty(len(x))
    constant = (np.exp(factors.of_one) - 1) / (1 - r)
    for i, value in enumerate(x):
        invested = np.logaddexp(log_capital, _log_deposit(i + 1) + _log_prior(len(constant)))
        bets[i] = np.sum(np.exp(invested - log_wealth) * constant)
        growth = factors.of_one if value else factors.of_zero
        log_wealths, log_capital = advance(log_capital, i, growth[None])
        log_wealth = float(log_wealths[0])
    return bets


class Factors(NamedTuple):
    """Logarithms of the factors by which K constant bets change the capital, `[K]` each.

    Attributes:
        of_zero: after a value of 0, log(1 - b r).
        of_one: after a value of 1, log(1 + b (1 - r)).
    """

    of_zero: Array
    of_one: Array


def odds_factors(mean: float) -> Factors:
    """Returns the factors of bets on the odds `ODDS_RATIOS` times those of the mean.

    With p the probability of a 1 at these odds, the factors are (1 - p) / (1 - r) and p / r.

    Args:
        mean: r in (0, 1), the largest mean of the hypothesis.
    """
    total = 1 - mean + ODDS_RATIOS * mean
    return Factors(-np.log(total), np.log(ODDS_RATIOS) - np.log(total))


def log_reserve(count: ArrayLike) -> Array:
    """Logarithm of the part of the initial wealth that is not invested after t values.

    1 / (1 + log2(1 + t)): half of the wealth starts with the first value, and the rest later; so
    the wealth never falls below this, however long the hypothesis has held.
    """
    return -np.log1p(np.log2(1.0 + np.asarray(count, np.float64)))


def _log_deposit(count: ArrayLike) -> Array:
    """Returns log d_t, d_t = reserve(t - 1) - reserve(t), invested before value t >= 1."""
    t = np.asarray(count, np.float64)
    deposit = np.log(np.log1p(1 / t) / math.log(2)) + log_reserve(t - 1) + log_reserve(t)
    return np.asarray(deposit, np.float64)


def _log_prior(bets: int) -> Array:
    return np.full(bets, -math.log(bets))


def advance(log_capital: Array, count: int, log_factors: Array) -> tuple[Array, Array]:
    """The wealth of a mixture of K constant bets over all times at which they may start.

    E_t = reserve(t) + sum_k S_k(t), S_k(t) = (S_k(t - 1) + d_t / K) f_k(t), where f_k(t) is the
    factor of bet k at value t, and d_t = reserve(t - 1) - reserve(t), see `log_reserve`. That is a
    product of bets as in `e_process`, and at least d_s / K times the product of the factors of
    any one bet from any time s on: a change is noticed also after a long time without one.

    Args:
        log_capital: log S_k(t), `[..., K]`; `-inf` at the start.
        count: t, the number of values before.
        log_factors: log f_k of the next n values, `[..., n, K]`.

    Returns:
        log E after each value, `[..., n]`, and log S_k after the last one, `[..., K]`.

    Source: Shin, Ramdas, Rinaldo, "E-detectors: a nonparametric framework for sequential change
    detection", 2023; here the weights of the starting times sum to 1.
    """
    steps = count + 1 + np.arange(log_factors.shape[-2])
    growth = np.cumsum(log_factors, axis=-2)
    before = np.concatenate([np.zeros_like(growth[..., :1, :]), growth[..., :-1, :]], axis=-2)
    deposits = (_log_deposit(steps)[:, None] + _log_prior(growth.shape[-1])) - before
    deposits[..., 0, :] = np.logaddexp(deposits[..., 0, :], log_capital)
    capital = np.logaddexp.accumulate(deposits, axis=-2) + growth
    log_wealth = np.logaddexp(np.logaddexp.reduce(capital, axis=-1), log_reserve(steps))
    return log_wealth, capital[..., -1, :]


def anytime_interval(count: float, total: int, level: float = 0.95) -> tuple[float, float]:
    """Returns an interval of a probability that holds at all times together.

    It encloses the p with p^k (1 - p)^(n - k) > (1 - level) B(k + 1/2, n - k + 1/2) / B(1/2, 1/2):
    if p is the probability of each value, then it is in the intervals after all n = 1, 2, ...
    values with probability at least `level`.

    Args:
        count: k, number of ones, in [0, total].
        total: n >= 0, number of values.
        level: in (0, 1).

    Raises:
        ValueError: for another count, total or level.

    Source: Robbins, "Statistical methods related to the law of the iterated logarithm", 1970, with
    the mixture Beta(1/2, 1/2).
    """
    from scipy.optimize import brentq  # its import takes 0.3 s

    confidence = validation.probability("level", level)
    validation.integer("total", total, least=0)
    if not 0 <= count <= total:
        raise InputError(f"count {count}: must be from 0 to total, {total}")
    if not total:
        return 0.0, 1.0
    least = math.log(1 - confidence) + betaln(count + 0.5, total - count + 0.5) - betaln(0.5, 0.5)
    excess = functools.partial(_log_likelihood_excess, count=count, total=total, least=least)
    share = count / total
    # A relative tolerance, because an end may be near 0.
    find = functools.partial(brentq, excess, xtol=1e-300, rtol=1e-12, maxiter=1000)
    low = find(0.0, share) if count and excess(0.0) < 0 else 0.0
    high = find(share, 1.0) if count < total and excess(1.0) < 0 else 1.0
    return float(low), float(high)


def _log_likelihood_excess(p: float, *, count: float, total: int, least: float) -> float:
    terms = ((count, p), (total - count, 1 - p))
    return sum(_LOWEST if not q else k * math.log(q) for k, q in terms if k) - least


_LOWEST = -1e300  # a finite log 0, for the search of a zero
