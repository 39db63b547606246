"""The state of a test: its alarm, and since when each bet would have gained most."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from kdjax.selective import betting, watch

FACTORS = betting.odds_factors(0.2)
BETS = len(FACTORS.of_one)
NEVER = math.inf


def growth(values):
    return np.where(np.asarray(values)[:, None] == 1, FACTORS.of_one, FACTORS.of_zero)


def feed(state, values, *, first=1, step=1, limit=NEVER):
    """Returns the state after values of every `step`-th example from number `first` on."""
    values = np.asarray(values, float)
    examples = first + step * np.arange(len(values))
    return watch.feed(state, values, growth(values), examples, log_limit=limit)


def best_starts(values):
    """Returns for each bet the position from which on it gains most, the latest of equal ones."""
    log_factors = growth(values)
    gains = np.array([log_factors[start:].sum(axis=0) for start in range(len(values) + 1)])
    return len(values) - np.argmax(gains[::-1], axis=0), gains.max(axis=0)


@pytest.mark.parametrize("seed", range(4))
def test_runs_begin_where_a_bet_gains_most(seed):
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.random(40) < 0.1, rng.random(15) < 0.6]).astype(float)
    state, _ = feed(watch.start(BETS), values, first=10, step=3)
    starts, gains = best_starts(values)
    assert_allclose(state.run.gain, gains, rtol=0, atol=1e-10)
    assert_allclose(state.run.size, len(values) - starts)
    assert_allclose(state.run.total, [values[start:].sum() for start in starts])
    begun = starts < len(values)
    assert_allclose(state.run.since[begun], 10 + 3 * starts[begun])


@given(
    values=st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=5),
)
@settings(max_examples=60, deadline=None)
def test_a_division_of_the_stream_changes_nothing(values, cuts):
    whole, wealth = feed(watch.start(BETS), values, limit=1.5)
    state, parts = watch.start(BETS), []
    edges = [0, *sorted(min(cut, len(values)) for cut in cuts), len(values)]
    for start, end in itertools.pairwise(edges):
        state, part = feed(state, values[start:end], first=1 + start, limit=1.5)
        parts.append(part)
        state = watch.from_json(json.loads(json.dumps(watch.to_json(state))), BETS)
    assert_allclose(np.concatenate(parts), wealth, rtol=0, atol=1e-9)
    assert (state.size, state.total) == (whole.size, whole.total) == (len(values), sum(values))
    assert_allclose(state.log_capital, whole.log_capital, rtol=0, atol=1e-9)
    assert_allclose(state.max_log_wealth, max(0, wealth.max()), rtol=0, atol=1e-9)
    assert (state.alarm is None) == (whole.alarm is None)
    if state.alarm is not None:
        assert state.alarm.example == whole.alarm.example
        assert state.alarm.log_wealth == pytest.approx(whole.alarm.log_wealth, abs=1e-9)


def test_the_first_value_at_the_limit_raises_the_alarm():
    values = [0, 0, 1, 1, 1, 1, 1, 0, 1, 1, 1]
    _, wealth = feed(watch.start(BETS), values)
    limit = float(wealth[5])
    state, _ = feed(watch.start(BETS), values, first=100, step=2, limit=limit)
    assert state.alarm == watch.Alarm(example=110, log_wealth=limit, since=104, size=4, mean=1.0)
    higher, _ = feed(watch.start(BETS), values, limit=float(wealth.max()) + 1e-9)
    assert higher.alarm is None


def test_the_first_alarm_is_kept():
    state, _ = feed(watch.start(BETS), [1] * 10, limit=2.0)
    later, _ = feed(state, [0] * 50 + [1] * 30, first=11, limit=2.0)
    assert later.alarm == state.alarm and later.alarm.example < 10
    assert later.max_log_wealth > state.max_log_wealth


def test_an_alarm_reports_the_bet_that_has_won_most():
    # A few errors long ago, then many: the bet that caused the alarm began with the many.
    values = np.zeros(400)
    values[[10, 30]] = 1
    values[330::2] = 1
    state, _ = feed(watch.start(BETS), values, limit=math.log(60))
    alarm = state.alarm
    assert alarm.since == 331 and alarm.size == alarm.example - 330
    assert alarm.mean == pytest.approx(0.5, abs=0.03)


def test_no_values_change_nothing():
    before, _ = feed(watch.start(BETS), [1, 0, 1])
    after, wealth = feed(before, [])
    assert after is before and wealth.size == 0
    assert watch.to_json(watch.start(BETS))["log_capital"] is None


def test_the_start_is_a_value_for_json_too():
    stored = json.loads(json.dumps(watch.to_json(watch.start(BETS)), allow_nan=False))
    state = watch.from_json(stored, BETS)
    assert np.all(state.log_capital == -np.inf) and state.size == 0 and state.alarm is None


@pytest.mark.parametrize("name", ["size", "total", "log_capital", "log_wealth", "run", "alarm"])
def test_a_damaged_state_raises(name):
    stored = watch.to_json(feed(watch.start(BETS), [1, 0, 1])[0])
    with pytest.raises((KeyError, TypeError, ValueError)):
        watch.from_json({key: value for key, value in stored.items() if key != name}, BETS)
    with pytest.raises((KeyError, TypeError, ValueError)):
        watch.from_json(stored | {name: ["no number"]}, BETS)
