"""Logits of -inf are probabilities of 0; what has no value is refused in one line."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from kdjax import selective
from kdjax.errors import InputError

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(60, 5)).astype(np.float32)
LABELS = RNG.integers(4, size=60)
SCORES = np.abs(RNG.normal(size=60))


def with_value(value: float, column: int = 2) -> np.ndarray:
    """The logits with a value in place of that of a class which is not the first label."""
    logits = LOGITS.copy()
    logits[0, column] = value
    return logits


@pytest.fixture
def labels() -> np.ndarray:
    return np.concatenate([[0], LABELS[1:]])


ON_LOGITS = {
    "is_correct": selective.is_correct,
    "best_pnorm": selective.best_pnorm,
    "fit_combination": selective.fit_combination,
    "cross_validated_pnorm_aurc": selective.cross_validated_pnorm_aurc,
    "cross_validated_combination_aurc": selective.cross_validated_combination_aurc,
}


@pytest.mark.parametrize("name", ON_LOGITS)
def test_a_masked_class_counts_as_a_very_low_logit(name, labels):
    expected = ON_LOGITS[name](with_value(-200.0), labels)
    if "pnorm" in name:  # it is about the classes that are left
        assert np.isfinite(ON_LOGITS[name](with_value(-np.inf), labels))
    else:
        assert_allclose(ON_LOGITS[name](with_value(-np.inf), labels), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ON_LOGITS)
def test_nan_is_refused(name, labels):
    with pytest.raises(InputError, match=r"must (not be NaN|be finite): got nan"):
        ON_LOGITS[name](with_value(np.nan), labels)


def test_mutual_information_of_a_masked_class_is_that_of_the_other_classes():
    networks = RNG.normal(size=(3, 8, 4))
    masked = np.insert(networks, 1, -np.inf, axis=-1)
    expected = selective.mutual_information(networks)
    assert_allclose(selective.mutual_information(masked), expected, rtol=1e-12)
    one = networks.copy()
    one[0, :, 1] = -np.inf  # one network excludes a class that the others allow
    low = np.maximum(one, -800.0)
    assert_allclose(
        selective.mutual_information(one), selective.mutual_information(low), rtol=1e-12
    )


@pytest.mark.parametrize("row", [[np.nan, 0], [np.inf, 0], [-np.inf, -np.inf]])
def test_mutual_information_without_a_softmax_is_refused(row):
    with pytest.raises(InputError, match="the largest logit must be finite: got"):
        selective.mutual_information([[row], [[0.0, 1.0]]])


def test_confidences_and_scores_without_a_value_are_refused():
    with pytest.raises(InputError, match=r"confidence: need \[0, 1\]: got nan"):
        selective.bin_index(np.array([0.5, np.nan]))
    scores = SCORES.copy()
    scores[0] = np.nan
    for threshold in (-np.inf, 0.5, np.inf):
        with pytest.raises(InputError, match="scores must not be NaN"):
            selective.rejected_quantile(scores, SCORES, threshold=threshold, alpha=0.2)
