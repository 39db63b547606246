"""The monitor: what its tests see, when they alarm, and what is kept of a stream."""

import json
import math
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from experiments.benchmark.protocol import processor
from experiments.guarantees import __main__ as command
from experiments.guarantees import monitoring as simulation
from experiments.guarantees.rows import Row
from kdjax import selective
from kdjax.errors import InputError
from kdjax.selective import Monitor, betting, drift, drift_reference, least_coverage

SETTINGS = {
    "risk": 0.05,
    "coverage": 0.7,
    "reference": drift_reference(
        np.random.default_rng(1).normal(size=200), others=np.random.default_rng(2).normal(size=200)
    ),
}


def stream(n, *, seed=0, accepted=0.8, wrong=0.03, labelled=0.5, shift=0.0):
    """Returns whether examples are accepted, correct (nan without a label), and confidences."""
    rng = np.random.default_rng(seed)
    correct = np.where(rng.random(n) < labelled, rng.random(n) >= wrong, np.nan)
    return rng.random(n) < accepted, correct, rng.normal(size=n) + shift


def join(*streams):
    return tuple(map(np.concatenate, zip(*streams, strict=True)))


def test_each_test_sees_its_own_examples():
    accepted, correct, confidence = stream(400)
    monitor = Monitor(**SETTINGS)
    traces = monitor.update(accepted, correct, confidence)
    known = accepted & ~np.isnan(correct)
    risk, coverage, ranks = map(monitor.status, ("risk", "coverage", "drift"))
    assert (risk.size, coverage.size, ranks.size) == (known.sum(), 400, 400)
    assert risk.mean == pytest.approx(1 - correct[known].mean())
    assert coverage.mean == pytest.approx(accepted.mean())
    low, high = betting.anytime_interval(int((~accepted).sum()), 400)
    assert coverage.interval == pytest.approx((1 - high, 1 - low)) and ranks.interval is None
    assert list(traces) == list(monitor.bounds)
    assert all(len(trace) == 400 for trace in traces.values())


def test_wealths_are_the_products_of_their_bets():
    accepted, correct, confidence = stream(400)
    monitor = Monitor(**SETTINGS)
    traces = monitor.update(accepted, correct, confidence)
    known = accepted & ~np.isnan(correct)
    wrong = 1 - correct[known]
    for name, values, mean in (("risk", wrong, 0.05), ("coverage", ~accepted, 1 - 0.7)):
        bets = selective.mixture_bets(values, mean=mean)
        expected = selective.e_process(values, mean=mean, bets=bets)
        own = traces[name] if name == "coverage" else traces[name][known]
        assert_allclose(own, expected, rtol=0, atol=1e-10)
    # Without a new value, a wealth stays as it was.
    assert_array_equal(np.diff(traces["risk"])[~known[1:]], 0)
    groups = drift.groups_of(SETTINGS["reference"], confidence)
    uniforms = np.random.Generator(np.random.PCG64(0)).random(400)
    ranks, _ = selective.online_ranks(SETTINGS["reference"].counts, groups, uniforms)
    factors = drift.rank_factors(ranks)
    expected, _ = betting.advance(np.full(factors.shape[1], -np.inf), 0, factors)
    assert_allclose(traces["drift"], expected, rtol=0, atol=1e-10)
    assert monitor.status("drift").mean == pytest.approx(ranks.mean())


def test_a_stream_may_be_divided_and_resumed_from_json():
    whole, parts = Monitor(**SETTINGS), Monitor(**SETTINGS)
    examples = join(stream(300), stream(200, seed=1, accepted=0.4, wrong=0.4, shift=-1))
    traces, pieces = whole.update(*examples), []
    for start, end in ((0, 1), (1, 290), (290, 420), (420, 500)):
        pieces.append(parts.update(*(values[start:end] for values in examples)))
        state = json.loads(json.dumps(parts.state(), allow_nan=False))
        parts = Monitor(**SETTINGS)
        parts.restore(state)
    for name, trace in traces.items():
        assert_allclose(np.concatenate([piece[name] for piece in pieces]), trace, atol=1e-9)
        before, after = whole.status(name), parts.status(name)
        assert before.alarm is not None and before.alarm[0] == after.alarm[0]
        assert_allclose(before.alarm, after.alarm, atol=1e-9)
        assert_allclose((before.mean, before.log_wealth), (after.mean, after.log_wealth), atol=1e-9)
    assert whole.examples == parts.examples == 500


def test_the_first_alarm_says_when_and_what_it_has_seen_since_the_change():
    monitor = Monitor(**SETTINGS)
    monitor.update(*stream(2000, labelled=1))
    assert not any(monitor.alarms().values())
    traces = monitor.update(*stream(1000, seed=3, labelled=1, accepted=0.5, wrong=0.3, shift=-1))
    for name, expected in (("risk", 0.3), ("coverage", 0.5), ("drift", 0.25)):
        alarm, limit = monitor.alarms()[name], math.log(3 / 0.05)
        position = alarm.example - 2001
        assert traces[name][position] >= limit > traces[name][:position].max()
        assert alarm.log_wealth == traces[name][position]
        assert 1900 < alarm.since <= 2030 and 2000 < alarm.example < 2300
        assert alarm.size <= alarm.example - alarm.since + 1
        assert abs(alarm.mean - expected) < 0.15
    before = monitor.alarms()
    monitor.update(*stream(100, seed=4))
    assert monitor.alarms() == before and monitor.examples == 3100


def test_the_change_begins_where_the_best_bet_gains_most():
    accepted = np.ones(300, bool)
    wrong = np.zeros(300, bool)
    wrong[200::2] = True
    monitor = Monitor(risk=0.05)
    monitor.update(accepted, ~wrong)
    alarm = monitor.alarms()["risk"]
    assert alarm.since == 201  # the first error, after 200 examples without one
    assert (alarm.size, alarm.mean) == (
        alarm.example - 200,
        wrong[200 : alarm.example].sum() / (alarm.example - 200),
    )


def test_examples_without_labels_advance_coverage_and_drift_alone():
    accepted, _, confidence = stream(300, accepted=0.3, shift=-1)
    monitor = Monitor(**SETTINGS)
    traces = monitor.update(accepted, None, confidence)
    assert_array_equal(traces["risk"], 0)
    status = monitor.status("risk")
    assert status.size == 0 and math.isnan(status.mean) and status.interval == (0, 1)
    alarms = monitor.alarms()
    assert alarms["coverage"] and alarms["drift"] and alarms["risk"] is None


def test_delta_is_divided_among_the_tests_that_are_watched():
    assert Monitor(risk=0.1).log_limit == pytest.approx(math.log(1 / 0.05))
    assert Monitor(**SETTINGS, delta=0.1).log_limit == pytest.approx(math.log(3 / 0.1))
    assert list(Monitor(coverage=0.5, risk=0.1).bounds) == ["risk", "coverage"]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({}, "nothing to watch: give a risk, a coverage or a reference"),
        ({"risk": 0}, "risk must lie in (0, 1): got 0"),
        ({"coverage": 1}, "coverage must lie in (0, 1): got 1"),
        ({"risk": 0.1, "delta": 2}, "delta must lie in (0, 1): got 2"),
        ({"risk": 0.1, "seed": -1}, "seed: need an integer >= 0: got -1"),
    ],
)
def test_invalid_settings_raise(options, part):
    with pytest.raises(InputError) as raised:
        Monitor(**options)
    assert part in str(raised.value)


@pytest.mark.parametrize(
    ("examples", "part"),
    [
        (([], None, []), "accepted of shape (0,)"),
        (([2], None, [0.0]), "accepted must be boolean"),
        (([1, 0], [1], [0.0, 0.0]), "correct of shape (1,): need (2,)"),
        (([1], [0.5], [0.0]), "correct must be boolean, 0 and 1, or nan: got 0.5"),
        (([1], [1], None), "confidence: missing, but drift is watched"),
        (([1], [1], [np.nan]), "confidence must not be NaN"),
        (([1], [1], [0.0, 1.0]), "confidence of shape (2,): need (1,)"),
    ],
)
def test_invalid_examples_raise_and_change_nothing(examples, part):
    monitor = Monitor(**SETTINGS)
    monitor.update([1], [1], [0.0])
    before = monitor.state()
    with pytest.raises(InputError) as raised:
        monitor.update(*examples)
    assert part in str(raised.value) and monitor.state() == before


def test_a_state_of_other_settings_or_a_damaged_one_is_refused():
    monitor = Monitor(**SETTINGS)
    monitor.update(*stream(10))
    state = monitor.state()
    for change, part in (
        ({"risk": 0.06}, "risk 0.05 there, 0.06 here"),
        ({"delta": 0.1}, "delta 0.05 there, 0.1 here"),
        ({"seed": 1}, "seed 0 there, 1 here"),
        ({"coverage": None}, "coverage 0.7 there, None here"),
        ({"reference": drift_reference([0.0], others=[0.0, 1.0])}, "the reference sample"),
    ):
        with pytest.raises(InputError) as raised:
            Monitor(**(SETTINGS | change)).restore(state)
        assert part in str(raised.value)
    for name in ("settings", "tests", "counts", "examples", "format"):
        damaged = {key: value for key, value in state.items() if key != name}
        with pytest.raises(InputError, match="the state is damaged"):
            monitor.restore(damaged)
    shorter = json.loads(json.dumps(state))
    shorter["tests"]["risk"]["log_capital"].pop()
    with pytest.raises(InputError, match="the state is damaged"):
        monitor.restore(shorter)
    for change in (
        {"counts": [-1] * len(state["counts"])},
        {"examples": 3},
        {"tests": state["tests"] | {"risk": state["tests"]["risk"] | {"log_wealth": math.nan}}},
        {"tests": state["tests"] | {"risk": state["tests"]["risk"] | {"size": -3}}},
        {"tests": state["tests"] | {"risk": state["tests"]["risk"] | {"total": 1e9}}},
    ):
        with pytest.raises(InputError, match="the state is damaged"):
            monitor.restore(state | change)
    assert monitor.state() == state
    with pytest.raises(InputError, match="format 2 there, 1 here"):
        monitor.restore(state | {"format": 2})


def test_an_unknown_test_raises_with_the_nearest_name():
    with pytest.raises(InputError, match="unknown watched test 'rsk': did you mean 'risk'"):
        Monitor(risk=0.1).status("rsk")


def test_bound_of_the_coverage_is_that_of_clopper_and_pearson():
    from scipy.stats import binomtest

    exact = binomtest(80, 100, alternative="greater").proportion_ci(0.95).low
    assert least_coverage(80, 100, threshold_from_sample=False) == pytest.approx(exact)
    for_all = binomtest(80, 100, alternative="greater").proportion_ci(1 - 0.05 / 100).low
    assert least_coverage(80, 100) == pytest.approx(for_all)
    assert least_coverage(0, 10) == 0.0
    with pytest.raises(InputError, match="accepted 11: more than the 10 examples"):
        least_coverage(11, 10)


# Simulations; experiments/results/monitoring.md has them with more draws.


@pytest.mark.slow
def test_false_alarms_are_at_most_delta():
    rows = simulation.simulate(150, 0)
    assert [row for row in rows if row.exceeds(3)] == []
    invalid = [row for row in rows if not row.assumed]
    assert [row.frequency > 0.3 for row in invalid] == [True]


@pytest.mark.slow
def test_alarms_come_soon_after_a_change():
    delays = {row.setting: row for row in simulation.delays(30, 0)}
    assert all(row.found > 0.8 and row.early <= 0.1 for row in delays.values())
    assert delays["risk 4 % instead of 2 %, from the start"].median < 1200
    assert delays["risk 20 % instead of 5 %, after 2,000 at 2.5 %"].median < 200


def test_the_page_of_results_has_a_row_for_each_setting():
    rows, delays = simulation.simulate(2, 0), simulation.delays(2, 0)
    page = simulation.markdown(rows, delays, "command", 1.0)
    assert all(f"| {row.setting} |" in page for row in (*rows, *delays))
    assert f"1 s. Processor: {processor()}, " in page


def test_the_command_writes_the_page_and_fails_if_there_are_too_many_alarms(tmp_path, monkeypatch):
    assert command.SIMULATIONS["monitoring"][1] is simulation.simulate
    path = tmp_path / "page.md"
    monkeypatch.setattr(sys, "argv", ["monitoring", "--draws=20", f"--out={path}"])
    delay = simulation.Delay("a change", 20, 0.0, 1.0, 3.0, math.inf, 100)
    monkeypatch.setattr(simulation, "delays", lambda draws, seed: [delay])
    for violations, status in ((1, None), (9, 1)):
        row = Row("a setting", 20, 0.05, violations)
        monkeypatch.setattr(simulation, "simulate", lambda draws, seed, row=row: [row])
        if status:
            with pytest.raises(SystemExit) as exit:
                simulation.main()
            assert exit.value.code == status
        else:
            simulation.main()
        text = path.read_text()
        assert f"| a setting | {5 * violations:.2f} |" in text
        assert "| a change | 3 | more than 100 | 100.0 | 0.00 |" in text
