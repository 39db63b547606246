"""Tests by betting: wealth against products in float64, closed forms, and Ville's inequality."""

import itertools
import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from kdjax.errors import InputError
from kdjax.selective import anytime_interval, betting, e_process, mixture_bets

VALUES = np.random.default_rng(0).random(60) < 0.2


def invested(t):
    """Returns the part of the wealth that is invested before value t = 1, 2, ..."""
    return 1 / (1 + math.log2(t)) - 1 / (1 + math.log2(1 + t))


def mixture(values, mean):
    """Returns E_t by its definition: a sum over all starting times and all constant bets."""
    odds = mean / (1 - mean) * betting.ODDS_RATIOS
    p = odds / (1 + odds)
    wealth = []
    for t in range(1, len(values) + 1):
        total = 1 / (1 + math.log2(1 + t))
        for start in range(1, t + 1):
            x = np.asarray(values[start - 1 : t], float)[:, None]
            factors = np.where(x == 1, p / mean, (1 - p) / (1 - mean))
            total += invested(start) * np.mean(np.prod(factors, axis=0))
        wealth.append(total)
    return np.array(wealth)


def advance(values, mean):
    factors = betting.odds_factors(mean)
    growth = np.where(np.asarray(values)[:, None], factors.of_one, factors.of_zero)
    start = np.full(len(betting.ODDS_RATIOS), -np.inf)
    return betting.advance(start, 0, growth)


@pytest.mark.parametrize("mean", [0.02, 0.15, 0.6])
def test_wealth_is_the_sum_over_starting_times_and_bets(mean):
    log_wealth, _ = advance(VALUES, mean)
    assert_allclose(np.exp(log_wealth), mixture(VALUES, mean), rtol=1e-12)


@pytest.mark.parametrize("mean", [0.02, 0.15, 0.6])
def test_wealth_is_a_product_of_bets_that_depend_on_the_past(mean):
    bets = mixture_bets(VALUES, mean=mean)
    assert np.all((bets >= 0) & (bets <= 1 / mean))
    log_wealth, _ = advance(VALUES, mean)
    assert_allclose(e_process(VALUES, mean=mean, bets=bets), log_wealth, rtol=0, atol=1e-11)
    for t in (1, 20, 59):
        changed = VALUES.copy()
        changed[t:] = ~changed[t:]
        assert_allclose(mixture_bets(changed, mean=mean)[: t + 1], bets[: t + 1], rtol=1e-12)


def test_wealth_does_not_depend_on_how_the_stream_is_divided():
    factors = betting.odds_factors(0.1)
    growth = np.where(VALUES[:, None], factors.of_one, factors.of_zero)
    capital, parts = np.full(growth.shape[1], -np.inf), []
    for start, end in itertools.pairwise((0, 1, 2, 30, 60)):
        part, capital = betting.advance(capital, start, growth[start:end])
        parts.append(part)
    whole, after = advance(VALUES, 0.1)
    assert_allclose(np.concatenate(parts), whole, rtol=0, atol=1e-12)
    assert_allclose(capital, after, rtol=1e-12)


def test_expected_wealth_is_1_if_the_mean_is_that_of_the_hypothesis():
    # Over all 2^10 streams, each with its probability.
    streams = np.array(list(itertools.product((0, 1), repeat=10)), bool)
    factors = betting.odds_factors(0.3)
    growth = np.where(streams[..., None], factors.of_one, factors.of_zero)
    start = np.full((len(streams), growth.shape[-1]), -np.inf)
    wealth = np.exp(betting.advance(start, 0, growth)[0])
    for mean, expected in ((0.3, 1.0), (0.2, None)):
        probability = np.prod(np.where(streams, mean, 1 - mean), axis=1)
        average = probability @ wealth
        if expected:
            assert_allclose(average, expected, rtol=1e-12)
        else:
            assert np.all(average < 1) and np.all(np.diff(average) < 0)


def test_wealth_of_a_constant_bet_has_its_closed_form():
    wrong = int(VALUES.sum())
    log_wealth = e_process(VALUES, mean=0.1, bets=4.0)[-1]
    expected = wrong * math.log(1 + 4 * 0.9) + (60 - wrong) * math.log(1 - 4 * 0.1)
    assert log_wealth == pytest.approx(expected, rel=1e-12)
    assert e_process([0, 1], mean=0.1, bets=10)[-1] == -math.inf  # all was lost
    assert_allclose(np.exp(e_process([1, 1], mean=0.1, bets=10)), [10, 100])


def test_wealth_never_falls_below_the_reserve_and_never_overflows():
    log_wealth, _ = advance(np.zeros(5000, bool), 0.5)
    assert np.all(log_wealth >= betting.log_reserve(np.arange(1, 5001)))
    assert log_wealth[-1] == pytest.approx(-math.log1p(math.log2(5001)), abs=1e-3)
    log_wealth, _ = advance(np.ones(5000, bool), 0.01)
    assert np.isfinite(log_wealth).all() and log_wealth[-1] > 5000


def test_a_late_change_is_found_much_sooner_than_by_bets_from_the_start():
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.random(4000) < 0.02, rng.random(400) < 0.3])
    log_wealth, _ = advance(values, 0.05)
    assert np.argmax(log_wealth > math.log(20)) < 4100
    bets_from_the_start = e_process(values, mean=0.05, bets=4.0)
    assert bets_from_the_start.max() < 1


@pytest.mark.parametrize("bets", [0.5, 3.0, 20.0])
def test_wealth_reaches_1_over_delta_in_at_most_a_share_delta_of_streams(bets):
    rng = np.random.default_rng(0)
    wrong = rng.random((1000, 300)) < 0.05
    reached = sum(e_process(row, mean=0.05, bets=bets).max() >= math.log(10) for row in wrong)
    assert reached <= 1000 * 0.1 + 3 * math.sqrt(1000 * 0.1 * 0.9)


@pytest.mark.parametrize(("count", "total"), [(0, 30), (3, 40), (40, 40), (700, 1000)])
def test_anytime_interval_encloses_what_the_mixture_does_not_refute(count, total):
    low, high = anytime_interval(count, total, 0.9)
    share = np.linspace(0.0005, 0.9995, 2000)
    # The likelihood under Beta(1/2, 1/2), by the density of scipy, over that of each share.
    log_mixture = scipy.stats.betabinom.logpmf(count, total, 0.5, 0.5)
    evidence = log_mixture - scipy.stats.binom.logpmf(count, total, share)
    inside = (share > low) & (share < high)
    assert np.all(evidence[inside] < math.log(10) + 1e-9)
    assert np.all(evidence[~inside] >= math.log(10) - 1e-9)


@pytest.mark.parametrize("total", [10**7, 10**9])
def test_anytime_interval_of_few_ones_is_exact_near_zero(total):
    low, _ = anytime_interval(1, total, 0.95)
    log_mixture = scipy.special.betaln(1.5, total - 0.5) - scipy.special.betaln(0.5, 0.5)
    log_likelihood = math.log(low) + (total - 1) * math.log1p(-low)
    assert_allclose(log_likelihood, math.log(0.05) + log_mixture, rtol=1e-9)


def test_anytime_intervals_hold_at_all_times_together():
    rng = np.random.default_rng(0)
    values = rng.random((300, 200)) < 0.3
    counts = np.cumsum(values, axis=1)
    least = math.log(0.2) + scipy.special.betaln(counts + 0.5, np.arange(1, 201) - counts + 0.5)
    likelihood = counts * math.log(0.3) + (np.arange(1, 201) - counts) * math.log(0.7)
    missed = np.any(likelihood <= least - scipy.special.betaln(0.5, 0.5), axis=1)
    assert missed.sum() <= 300 * 0.2 + 3 * math.sqrt(300 * 0.2 * 0.8)
    for row in range(20):  # the vectorized condition is that of the function
        ends = [anytime_interval(int(counts[row, t]), t + 1, 0.8) for t in range(0, 200, 7)]
        inside = all(low <= 0.3 <= high for low, high in ends)
        assert inside or missed[row]
    assert anytime_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("values", "options", "part"),
    [
        ([], {"mean": 0.1, "bets": 1}, "values of shape (0,)"),
        ([2], {"mean": 0.1, "bets": 1}, "values must lie in [0, 1]: got 2"),
        ([1], {"mean": 0.0, "bets": 1}, "mean must lie in (0, 1): got 0"),
        ([1], {"mean": 0.1, "bets": 10.5}, "bets must lie in [0, 1 / mean] = [0, 10.0]: got 10.5"),
        ([1], {"mean": 0.1, "bets": -1}, "bets must lie in"),
    ],
)
def test_invalid_arguments_raise(values, options, part):
    with pytest.raises(InputError) as raised:
        e_process(values, **options)
    assert part in str(raised.value)


@given(
    values=st.lists(st.booleans(), min_size=1, max_size=60),
    mean=st.floats(1e-4, 0.999),
)
@settings(max_examples=60, deadline=None)
def test_wealth_of_any_stream_is_a_product_of_fair_bets(values, mean):
    bets = mixture_bets(values, mean=mean)
    assert np.all(bets >= 0) and np.all(bets <= 1 / mean)
    log_wealth, capital = advance(values, mean)
    assert_allclose(e_process(values, mean=mean, bets=bets), log_wealth, rtol=0, atol=1e-8)
    assert np.all(log_wealth >= betting.log_reserve(np.arange(1, len(values) + 1)) - 1e-12)
    assert np.isfinite(capital).all()


@given(
    total=st.integers(1, 400), part=st.floats(0, 1), level=st.sampled_from([0.5, 0.9, 0.95, 0.999])
)
@settings(max_examples=60, deadline=None)
def test_anytime_intervals_contain_the_share_and_the_exact_interval(total, part, level):
    count = round(part * total)
    low, high = anytime_interval(count, total, level)
    assert 0 <= low <= count / total <= high <= 1
    exact = scipy.stats.binomtest(count, total).proportion_ci(level)
    assert low <= exact.low + 0.02 and high >= exact.high - 0.02
    wider = anytime_interval(count, total, 0.9999)
    assert wider[0] <= low and high <= wider[1]


@pytest.mark.parametrize("level", [0, 1, 2, -1, math.inf, math.nan])
def test_an_interval_without_a_valid_level_is_refused(level):
    with pytest.raises(InputError, match="level must lie in"):
        betting.anytime_interval(1, 10, level)


@pytest.mark.parametrize(("count", "total"), [(5, 3), (-1, 3), (math.nan, 3)])
def test_an_interval_of_an_impossible_count_is_refused(count, total):
    with pytest.raises(InputError, match=r"count .* must be from 0 to total, 3"):
        betting.anytime_interval(count, total)
