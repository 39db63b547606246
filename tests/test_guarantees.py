"""experiments/guarantees: distributions with a known truth, few draws, and the page."""

import math
import os

import numpy as np
import pytest
from scipy.integrate import quad

from experiments.benchmark.protocol import processor
from experiments.guarantees import __main__ as command
from experiments.guarantees import distributions, joint, ladder, page, selective_risk
from experiments.guarantees.rows import Row
from kdjax import selective
from kdjax.evaluation.certification import RISKS

DISTRIBUTIONS = {
    "power": distributions.power(0.3, 2),
    "constant": distributions.constant(0.1),
    "step": distributions.step(0.7, 0.5),
    "non-monotone": distributions.non_monotone(0.1, 0.5, 0.2),
    "tied": distributions.tied(distributions.power(0.3, 2), 10),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("threshold", [-0.5, 0.05, 0.35, 0.95])
def test_true_coverage_and_risk_are_those_of_many_draws(name, threshold):
    distribution = DISTRIBUTIONS[name]
    confidence, correct = distribution.sample(np.random.default_rng(0), 1, 400_000)
    kept = confidence[0] >= threshold
    coverage, risk = distribution.coverage(threshold), distribution.risk(np.array(threshold))
    assert np.mean(kept) == pytest.approx(coverage, abs=5e-3)
    errors = np.mean(~correct[0][kept])
    assert errors == pytest.approx(risk, abs=5 * math.sqrt(0.25 / kept.sum()))


@pytest.mark.parametrize("name", ["power", "step", "non-monotone"])
def test_true_risk_is_the_mean_error_rate_of_the_accepted_ranks(name):
    distribution = DISTRIBUTIONS[name]
    errors, _ = quad(distribution.rate, 0, 0.8, points=[0.1, 0.7])
    assert distribution.risk(np.array(0.2)) == pytest.approx(errors / 0.8, rel=1e-5)


def test_a_constant_error_rate_is_above_its_risk_at_every_threshold():
    thresholds = np.array([0.999, 0.5, 0.0, -1.0])
    assert selective_risk.exceeds(distributions.constant(0.05), thresholds, 0.05).all()
    assert not selective_risk.exceeds(distributions.constant(0.05), np.array(np.inf), 0.05)
    assert not selective_risk.exceeds(distributions.power(0.05, 0), thresholds, 0.05).any()


def test_ties_have_as_many_confidences_as_were_asked_for():
    distribution = DISTRIBUTIONS["tied"]
    confidence, _ = distribution.sample(np.random.default_rng(0), 2, 500)
    np.testing.assert_allclose(np.unique(confidence), np.arange(1, 11) / 10)
    half_way = np.arange(0.05, 1.1, 0.1)
    np.testing.assert_allclose(distribution.coverage(half_way), np.arange(10, -1, -1) / 10)


@pytest.mark.parametrize(
    ("violations", "assumed", "exceeds"), [(60, True, False), (80, True, True), (80, False, False)]
)
def test_a_row_exceeds_delta_by_more_than_two_standard_errors(violations, assumed, exceeds):
    row = Row("x", 1000, 0.05, violations, assumed=assumed)
    assert row.frequency == violations / 1000
    assert row.exceeds() == exceeds
    # 0.05 + 2 sqrt(0.05 * 0.95 / 1000) = 0.0638.
    assert Row("x", 1000, 0.05, 63).exceeds() is False and Row("x", 1000, 0.05, 64).exceeds()


@pytest.mark.slow
@pytest.mark.parametrize("simulation", [selective_risk, joint, ladder])
def test_promises_are_false_in_at_most_delta_of_the_draws(simulation, monkeypatch):
    monkeypatch.setattr(ladder, "COMPARED", 20)
    rows = simulation.simulate(250, 1)
    assert len({row.setting for row in rows}) == len(rows)
    assert [row for row in rows if row.exceeds(3)] == []
    assert any(row.violations for row in rows)
    assert all(row.draws == 250 and row.delta == 0.05 for row in rows)


def test_any_false_number_of_a_joint_certificate_is_a_violation():
    setting = joint.Setting(distributions.power(0.2, 1), 100, 0.1, 0.5)
    true = selective.Pair(0.4, 0.07, 0.55, 60, 3)  # coverage 60 %, risk 6 %
    wrong_risk, wrong_coverage = true._replace(risk=0.05), true._replace(coverage=0.65)
    pairs = [(true, None), (None, true), (wrong_risk, true), (true, wrong_coverage), (None, None)]
    found = [
        selective.JointCertificate(True, at_risk, at_coverage, 0.1, 0.5, 0.05)
        for at_risk, at_coverage in pairs
    ]
    counts = [joint.violations(setting, [each]) for each in found]
    assert counts == [0, 0, 1, 1, 0]


def test_the_ladder_is_compared_with_that_of_equal_shares():
    sample = distributions.power(0.1, 3).sample(np.random.default_rng(0), 3, 400)
    violations, coverage = ladder.together(distributions.power(0.1, 3), sample)
    assert violations == 0 and coverage.shape == (3, len(RISKS))
    _, shares = ladder.alone(sample, 0.05 / len(RISKS), 2)
    assert shares.shape == (2, len(RISKS)) and np.all(coverage[:2] >= shares)
    text = ladder.in_percent(np.array([[1, 0.5], [0.5, 0.25]]))
    assert text == "75.0 / 37.5"


ROWS = {
    "good": [Row("power", 400, 0.05, 12, "80 % accepted"), Row("ties", 400, 0.1, 400, "", False)],
    "bad": [Row("power", 100, 0.05, 50)],
}


def test_page_has_the_frequencies_with_their_limits():
    results = {"good": page.Simulated(ROWS["good"], 3.4)}
    text = page.markdown(results, {"good": "Good"}, "the command", 400)
    lines = text.splitlines()
    assert "the command" in lines and "## Good" in lines
    assert "| power | 5 | 3.00 | 7.18 | 80 % accepted |" in lines
    assert "| ties | 10 | [100.00] | 13.00 |  |" in lines
    assert "`--only good`, 3 s." in lines and "Seed 0, 400 draws a row" in text
    assert f"Processor: {processor()}, {len(os.sched_getaffinity(0))} cores." in text
    other = page.markdown(results, {"good": "Good"}, "x", 500)
    assert "| power (400 draws) |" in other


def test_command_writes_the_page_and_fails_for_a_violation(tmp_path, monkeypatch, capsys):
    simulations = {name: (name.title(), lambda *_, rows=rows: rows) for name, rows in ROWS.items()}
    monkeypatch.setattr(command, "SIMULATIONS", simulations)
    # In this process, where the simulations are replaced.
    monkeypatch.setattr(command.concurrent.futures, "ProcessPoolExecutor", Pool)
    out = tmp_path / "page.md"
    command.main(["--draws=400", "--only", "good", f"--out={out}"])
    assert out.read_text() + "\n" == capsys.readouterr().out
    assert f"--draws=400 --only good --out={out}" in out.read_text()
    with pytest.raises(SystemExit) as stopped:
        command.main(["--draws=400"])
    assert stopped.value.code == 1 and "## Bad" in capsys.readouterr().out


class Pool:
    """Calls a function in this process."""

    def __init__(self, workers):
        assert workers >= 1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def map(self, function, *arguments):
        return map(function, *arguments)


def test_every_simulation_is_registered_with_a_title():
    assert {"selective_risk", "joint", "ladder"} <= command.SIMULATIONS.keys()
    titles = [title for title, _ in command.SIMULATIONS.values()]
    assert len(set(titles)) == len(titles) and all(titles)
