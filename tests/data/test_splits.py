"""Properties of the cuts of the development and the calibration split."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdjax import errors
from kdjax.data.splits import random_cut, stratified_cut

LABELS = st.lists(st.integers(0, 4), min_size=10, max_size=80).map(np.array)
FRACTIONS = st.floats(0.06, 0.94)


@given(labels=LABELS, fraction=FRACTIONS, seed=st.integers(0, 2**32))
def test_train_and_dev_are_disjoint_and_complete(
    labels: np.ndarray, fraction: float, seed: int
) -> None:
    train, dev = stratified_cut(labels, fraction, seed)
    assert len(dev) == round(fraction * len(labels))
    np.testing.assert_array_equal(np.sort(np.concatenate([train, dev])), np.arange(len(labels)))
    for part in (train, dev):
        np.testing.assert_array_equal(part, np.sort(part))


@given(labels=LABELS, fraction=FRACTIONS, seed=st.integers(0, 2**32))
def test_dev_has_its_fraction_of_each_class_to_within_one_example(
    labels: np.ndarray, fraction: float, seed: int
) -> None:
    _, dev = stratified_cut(labels, fraction, seed)
    for label in set(labels.tolist()):
        quota = fraction * np.sum(labels == label)
        assert abs(np.sum(labels[dev] == label) - quota) < 1 + 1e-9


def test_classes_with_the_largest_remainders_are_rounded_up() -> None:
    labels = np.repeat([0, 1, 2], [16, 12, 23])  # a tenth: 1.6, 1.2 and 2.3, five in all
    _, dev = stratified_cut(labels, 0.1, seed=0)
    assert np.bincount(labels[dev]).tolist() == [2, 1, 2]


def test_dev_cut_depends_on_the_seed_only() -> None:
    labels = np.arange(200) % 10
    cuts = [stratified_cut(labels, 0.2, seed)[1] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(cuts[0], cuts[1])
    assert cuts[0].tolist() != cuts[2].tolist()


def test_dev_cut_is_that_of_earlier_releases() -> None:
    # Another cut with the same seed would put development images into train on resuming.
    _, dev = stratified_cut(np.arange(40) % 4, 0.25, seed=0)
    assert dev.tolist() == [1, 2, 3, 11, 13, 18, 20, 21, 32, 36]


def test_examples_of_a_class_are_chosen_with_equal_probability() -> None:
    labels = np.arange(20) % 2
    counts = sum(np.isin(np.arange(20), stratified_cut(labels, 0.3, s)[1]) for s in range(2000))
    np.testing.assert_allclose(counts / 2000, 0.3, atol=0.05)  # five standard deviations


@pytest.mark.parametrize("fraction", [-0.1, 0.0, 1.0, 1.5, float("nan"), 0.01, 0.99])
def test_fraction_that_leaves_a_split_empty_raises(fraction: float) -> None:
    with pytest.raises(errors.InputError, match="fraction"):
        stratified_cut(np.arange(20) % 2, fraction, seed=0)


@given(count=st.integers(2, 90), data=st.data(), seed=st.integers(0, 2**32))
def test_calibration_has_its_size_and_train_has_the_rest(
    count: int, data: st.DataObject, seed: int
) -> None:
    size = data.draw(st.integers(1, count - 1))
    train, calibration = random_cut(count, size, seed)
    assert len(calibration) == size
    assert sorted([*train, *calibration]) == list(range(count))
    for part in (train, calibration):
        np.testing.assert_array_equal(part, np.sort(part))


def test_pairs_of_calibration_examples_are_chosen_with_equal_probability() -> None:
    # Stratified, or with the ranks used for dev, some pairs would be chosen more often.
    chosen = np.array([np.isin(np.arange(12), random_cut(12, 4, s)[1]) for s in range(4000)])
    frequency = chosen.T.astype(float) @ chosen / len(chosen)
    np.testing.assert_allclose(np.diag(frequency), 1 / 3, atol=0.04)  # five standard deviations
    np.testing.assert_allclose(frequency[~np.eye(12, dtype=bool)], 4 * 3 / 12 / 11, atol=0.023)


def test_calibration_cut_is_that_of_earlier_releases() -> None:
    # Another cut with the same seed would put calibration images into train on resuming.
    assert random_cut(40, 8, seed=0)[1].tolist() == [4, 7, 10, 11, 15, 18, 35, 38]


@pytest.mark.parametrize("size", [0, 40, 41, -1])
def test_calibration_size_that_leaves_a_split_empty_raises(size: int) -> None:
    with pytest.raises(errors.InputError, match=f"calibration split of {size} of 40 examples"):
        random_cut(40, size, seed=0)
