"""The data of the figures against closed forms and other libraries."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from support.blaker import blaker_interval

from kdjax import selective
from kdjax.report.page import stats


def sample(n=500, seed=0):
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.2, 1, size=n)
    return confidence, rng.uniform(size=n) < confidence**2


@pytest.mark.parametrize("n", [1, 2, 7, 500])
def test_optimal_curve_is_that_of_a_perfect_ranking(n):
    correct = sample(n)[1]
    coverage, risk = stats.optimal_curve(correct)
    # At coverages above the accuracy, every further prediction is wrong.
    expected = np.where(coverage > correct.mean(), 1 - correct.mean() / coverage, 0)
    assert_allclose(coverage, np.linspace(1 / n, 1, n))
    assert_allclose(risk, expected, rtol=0, atol=1e-12)
    assert_allclose(risk.mean(), selective.aurc(correct, correct), atol=1e-12)


def test_no_score_is_below_the_optimal_curve():
    confidence, correct = sample()
    curve = selective.risk_coverage_curve(confidence, correct)
    assert np.all(curve.risk >= stats.optimal_curve(correct)[1] - 1e-12)


def test_bins_contain_their_upper_edges_and_empty_bins_are_left_out():
    confidence = np.array([0.0, 1 / 15, 1 / 15 + 1e-9, 0.5, 1.0, 1.0])
    bins = stats.reliability(confidence, np.array([0, 1, 1, 0, 1, 0], bool))
    assert_array_equal(bins.examples, [2, 1, 1, 2])
    assert_allclose(bins.confidence, [1 / 30, 1 / 15, 0.5, 1], rtol=1e-7)
    assert_array_equal(bins.accuracy, [0.5, 1, 0, 0.5])


def test_bins_are_those_of_the_calibration_error():
    confidence, correct = sample()
    bins = stats.reliability(confidence, correct)
    assert bins.examples.sum() == len(correct)
    gap = np.average(np.abs(bins.accuracy - bins.confidence), weights=bins.examples)
    assert_allclose(gap, selective.expected_calibration_error(confidence, correct), rtol=1e-12)
    hits = np.rint(bins.accuracy * bins.examples).astype(int)
    expected = [blaker_interval(*each) for each in zip(hits, bins.examples, strict=True)]
    assert_allclose(np.transpose([bins.low, bins.high]), expected, rtol=0, atol=1e-6)
