"""experiments/intervals.py: its distributions, its exact probabilities and its tables.

`selective/test_resampling.py` measures the coverage of the intervals with it.
"""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import binom
from support.experiments import load

from kdjax.selective import binomial


@pytest.fixture(scope="module")
def experiment():
    return load("intervals")


@pytest.fixture(params=[(0.0084, 6.0), (0.3, 1.0), (0.1, 0.0)], ids=str)
def setting(request, experiment):
    error, power = request.param
    return experiment.Setting(359, error, power)


def wrong(setting):
    """Returns the probability of an error at rank u: a u^b with the error rate a / (b + 1)."""
    return lambda u: setting.error * (setting.power + 1) * u**setting.power


def test_true_values_are_the_integrals_of_the_error_probability(experiment, setting):
    error = wrong(setting)

    def risk(coverage):
        return quad(error, 0, coverage)[0] / coverage

    truth = setting.truth
    assert truth["accuracy"] == pytest.approx(1 - quad(error, 0, 1)[0])
    for coverage in (*experiment.COVERAGES, *experiment.BAND):
        assert truth[f"error_at_{coverage}"] == pytest.approx(risk(coverage))
    assert truth["aurc"] == pytest.approx(quad(risk, 0, 1)[0], rel=1e-6)
    assert truth["augrc"] == pytest.approx(quad(lambda c: c * risk(c), 0, 1)[0], rel=1e-6)


def test_run_b_has_a_multiple_of_the_errors_of_run_a(setting):
    twice = setting._replace(ratio=2.0)
    of_b = setting._replace(error=2 * setting.error)
    for name, difference in twice.differences.items():
        assert difference == pytest.approx(setting.truth[name] - of_b.truth[name]), name
    assert all(value == 0 for value in setting._replace(ratio=1.0).differences.values())


@pytest.mark.parametrize(("total", "p"), [(5, 0.7), (36, 0.9), (100, 0.8), (323, 0.004)])
def test_coverage_of_a_proportion_is_the_sum_over_all_counts(experiment, total, p):
    covered = 0.0
    for count in range(total + 1):
        low, high = binomial.proportion_interval(count, total)
        covered += binom.pmf(count, total, p) if low <= p <= high else 0
    assert experiment.proportion(total, p) == pytest.approx(covered, abs=1e-9)
    assert covered >= 0.95


def test_every_printed_proportion_is_covered_as_often_as_promised(experiment):
    for name, (total, p) in experiment.PROPORTIONS.items():
        assert experiment.proportion(total, p) >= 0.95 - 1e-9, name


def test_metrics_of_a_small_simulation_are_counted_among_the_printed_intervals(experiment):
    setting = experiment.FEW_ERRORS
    measured = experiment.single(setting, draws=6, resamples=20)
    assert measured.keys() == setting.truth.keys()
    assert all(value.printed <= 6 and 0 <= value.covered <= 1 for value in measured.values())
    pair = experiment.paired(setting, draws=4, resamples=20)
    bands = {f"error_at_{coverage}" for coverage in experiment.BAND}
    assert pair.keys() == setting.truth.keys() - bands
    # Runs that hardly differ have no interval.
    assert any(value.printed < 4 and (value.printed or np.isnan(value.covered))
               for value in pair.values())  # fmt: skip


def test_table_shows_the_share_of_draws_with_an_interval(experiment):
    measured = experiment.Measured
    rows = {
        "few errors": {"accuracy": measured(0.951, 2000), "error_at_0.9": measured(0.97, 500)},
        "none": {"accuracy": measured(0.949, 2000), "error_at_0.9": measured(float("nan"), 40)},
    }
    assert experiment.table(rows, dict.fromkeys(rows, 2000)).splitlines() == [
        "| setting | accuracy | risk at 90 % |",
        "| --- | ---: | ---: |",
        "| few errors | 95.1 | 97.0 [25 %] |",
        "| none | 94.9 | [2 %] |",
    ]
