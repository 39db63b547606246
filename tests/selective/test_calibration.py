"""Calibration metrics against their definitions and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.special import softmax
from sklearn.metrics import log_loss

from kdjax.errors import InputError
from kdjax.selective import (
    bin_index,
    brier,
    expected_calibration_error,
    negative_log_likelihood,
)

LOGITS = np.random.default_rng(0).normal(size=(200, 5)) * 3
LABELS = np.random.default_rng(1).integers(5, size=200)


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(st.tuples(st.integers(0, 30), st.booleans()), min_size=1, max_size=12),
    bins=st.sampled_from([1, 2, 10, 15]),
)
def test_ece_is_the_weighted_gap_of_its_bins(rows, bins):
    confidence, correct = np.array(rows).T
    confidence = confidence / 30
    expected = 0
    for b in range(1, bins + 1):
        inside = (confidence > (b - 1) / bins) & (confidence <= b / bins)
        inside |= (confidence == 0) & (b == 1)
        if inside.any():
            gap = abs(correct[inside].mean() - confidence[inside].mean())
            expected += inside.mean() * gap
    ece = expected_calibration_error(confidence, correct, bins=bins)
    assert_allclose(ece, expected, rtol=0, atol=1e-12)


def test_ece_bins_contain_their_upper_edge():
    # 0.2 is the upper edge of the first of five bins, where its gap partly cancels that of 0.1;
    # 0.3 is alone in the second bin.
    confidence, correct = [0.1, 0.2, 0.3], [1, 0, 0]
    expected = (abs(0.9 - 0.2) + 0.3) / 3
    assert_allclose(expected_calibration_error(confidence, correct, bins=5), expected)


@pytest.mark.parametrize(
    ("confidence", "correct", "expected"),
    [([1, 1], [1, 1], 0), ([1, 1], [0, 0], 1), ([0, 0], [0, 0], 0), ([0.75] * 4, [1, 1, 1, 0], 0)],
)
def test_ece_limits(confidence, correct, expected):
    assert expected_calibration_error(confidence, correct) == expected


def test_nll_equals_scikit_learn():
    expected = log_loss(LABELS, softmax(LOGITS, axis=1), labels=range(5))
    assert_allclose(negative_log_likelihood(LOGITS, LABELS), expected, rtol=1e-12)


def test_nll_is_accurate_at_huge_logits():
    logits = [[1e4, -1e4, 0.0], [0.0, 0.0, 0.0]]
    assert_allclose(negative_log_likelihood(logits, [1, 2]), (2e4 + np.log(3)) / 2, rtol=1e-15)


def test_brier_is_the_mean_squared_distance_from_the_labels():
    p = softmax(LOGITS, axis=1)
    expected = np.mean([1 - 2 * row[y] + row @ row for row, y in zip(p, LABELS, strict=True)])
    assert_allclose(brier(p, LABELS), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("row", "expected"), [([0, 1, 0], 0), ([1, 0, 0], 2), ([1 / 3] * 3, 2 / 3)]
)
def test_brier_limits(row, expected):
    assert_allclose(brier([row], [1]), expected, atol=1e-15)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: expected_calibration_error([0.5, 1.1], [1, 0]), InputError, "got 1.1"),
        (lambda: expected_calibration_error([-0.5], [1]), InputError, "got -0.5"),
        (lambda: expected_calibration_error([], []), InputError, r"\(0,\)"),
        (lambda: expected_calibration_error([0.5], [1], bins=0), InputError, "bins.*got 0"),
        (lambda: expected_calibration_error([0.5], [1], bins=2.5), InputError, "bins.*got 2.5"),
        (lambda: negative_log_likelihood(LOGITS[0], LABELS), InputError, r"\(5,\)"),
        (lambda: negative_log_likelihood([[0.0, -np.inf]], [0]), InputError, "got -inf"),
        (lambda: negative_log_likelihood(LOGITS, LABELS[:3]), InputError, r"\(3,\)"),
        (lambda: negative_log_likelihood(LOGITS, LABELS + 1), InputError, "label 5"),
        (lambda: negative_log_likelihood(LOGITS, LABELS * 1.0), TypeError, "float"),
        (lambda: brier(np.zeros((0, 3)), []), InputError, r"\(0, 3\)"),
        (lambda: brier([[1.5, -0.5]], [0]), InputError, "got 1.5"),
        (lambda: brier([[0.5, 0.4]], [0]), InputError, "sum to 1: got 0.9"),
        (lambda: brier([["a", "b"]], [0]), TypeError, "<U1"),
    ],
)
def test_bad_input_raises_an_error_with_its_value(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_bins_must_be_a_positive_integer():
    for bins in (0, -3, 1.5):
        with pytest.raises(InputError, match="bins: need an integer >= 1"):
            bin_index(np.array([0.5]), bins)
