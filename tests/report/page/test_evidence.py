"""What figures are drawn from, against closed forms and other libraries."""

import numpy as np
import pytest
import scipy.stats
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics import confusion_matrix

from kdjax import selective
from kdjax.report.page import evidence


def sample(n=500, seed=0):
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.2, 1, size=n)
    return confidence, rng.uniform(size=n) < confidence**2


@pytest.mark.parametrize("n", [1, 2, 7, 500])
def test_the_ideal_curve_is_that_of_a_perfect_ranking(n):
    right = sample(n)[1]
    coverage, risk = evidence.ideal_curve(right)
    # Beyond the accuracy every further answer is wrong.
    expected = np.where(coverage > right.mean(), 1 - right.mean() / coverage, 0)
    assert_allclose(coverage, np.linspace(1 / n, 1, n))
    assert_allclose(risk, expected, rtol=0, atol=1e-12)
    assert_allclose(risk.mean(), selective.aurc(right, right), atol=1e-12)


def test_no_score_is_below_the_ideal_curve():
    confidence, right = sample()
    curve = selective.risk_coverage_curve(confidence, right)
    assert np.all(curve.risk >= evidence.ideal_curve(right)[1] - 1e-12)


def test_bins_hold_their_upper_ends_and_empty_ones_are_left_out():
    confidence = np.array([0.0, 1 / 15, 1 / 15 + 1e-9, 0.5, 1.0, 1.0])
    bins = evidence.reliability(confidence, np.array([0, 1, 1, 0, 1, 0], bool))
    assert_array_equal(bins.examples, [2, 1, 1, 2])
    assert_allclose(bins.confidence, [1 / 30, 1 / 15, 0.5, 1], rtol=1e-7)
    assert_array_equal(bins.accuracy, [0.5, 1, 0, 0.5])


def test_the_bins_are_those_of_the_calibration_error():
    confidence, right = sample()
    bins = evidence.reliability(confidence, right)
    assert bins.examples.sum() == len(right)
    gap = np.average(np.abs(bins.accuracy - bins.confidence), weights=bins.examples)
    assert_allclose(gap, selective.expected_calibration_error(confidence, right), rtol=1e-12)
    hits = np.rint(bins.accuracy * bins.examples).astype(int)
    each = map(scipy.stats.binomtest, hits, bins.examples)
    expected = [one.proportion_ci(0.95, "exact") for one in each]
    assert_allclose(np.transpose([bins.low, bins.high]), expected, rtol=1e-9)


@pytest.mark.parametrize(("count", "total"), [(0, 1), (1, 1), (0, 30), (3, 200), (200, 200)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_intervals_of_shares_are_the_exact_binomial_ones(count, total, level):
    exact = scipy.stats.binomtest(count, total).proportion_ci(level, "exact")
    assert_allclose(evidence.proportion_interval(count, total, level), exact, rtol=1e-9)


def test_confusions_are_counted_as_in_scikit_learn():
    rng = np.random.default_rng(1)
    labels, predicted = rng.integers(4, size=(2, 100))
    found = evidence.confusion(labels, predicted, 5)  # a class that never comes has a row too
    assert_array_equal(found, confusion_matrix(labels, predicted, labels=range(5)))
