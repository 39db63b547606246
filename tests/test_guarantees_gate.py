"""experiments/guarantees/gate.py: few draws, and what its populations are."""

import numpy as np
import pytest

from experiments.guarantees import __main__ as command
from experiments.guarantees import distributions, gate

POPULATIONS = {
    "smooth": gate.Population(distributions.power(0.3, 2), 0, 0.3, 0.5),
    "tied": gate.Population(distributions.power(0.3, 2), 5, 0.3, 0.5),
}


@pytest.mark.parametrize("name", POPULATIONS)
@pytest.mark.parametrize("threshold", [-np.inf, 0.1, 0.25])
def test_true_acceptance_and_risk_are_those_of_many_draws(name, threshold):
    population = POPULATIONS[name]
    scores, confidence, correct = population.sample(np.random.default_rng(0), 400_000)
    passes = scores >= threshold
    low = population.first_passing(np.array(threshold))
    assert np.mean(passes) == pytest.approx(1 - low, abs=4e-3)
    risk = np.mean(~correct[passes & (confidence >= 0.4)])
    for factor, exceeds in ((0.95, True), (1.05, False)):
        found = population.exceeds(np.array([threshold]), np.array([0.4]), factor * risk)
        assert found.tolist() == [exceeds]


def test_a_threshold_that_accepts_nothing_breaks_no_bound():
    population = gate.Population(distributions.constant(0.1), 0, 0.3, 1.0)
    assert not population.exceeds(np.array([-np.inf]), np.array([np.inf]), 0.01).any()


def test_no_statement_fails_more_often_than_it_may():
    assert command.SIMULATIONS["gate"][1] is gate.simulate
    rows = gate.simulate(60, 5)
    assert len(rows) == len(gate.PARTS) * len(gate.SETTINGS)
    assert [row.setting for row in rows if row.exceeds(3)] == []


@pytest.mark.slow
def test_the_risk_of_what_passes_in_the_settings_that_are_hard():
    for index in (1, 3, 5):
        rows = gate.simulate_setting(gate.SETTINGS[index], 800, np.random.default_rng(index))
        assert [row.setting for row in rows if row.exceeds(3)] == []
