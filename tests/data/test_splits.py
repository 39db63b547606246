"""Properties of the cuts of the development and the calibration split."""

import fractions

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from kdjax import errors
from kdjax.data.splits import random_cut, random_sample, stratified_cut, stratified_sample

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


@pytest.mark.slow
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


@pytest.mark.parametrize("count", [1438, 60000, 50000, 73257])
def test_a_tenth_of_each_known_data_set_is_rounded_like_the_decimal_fraction(count: int) -> None:
    # Digits, Fashion-MNIST, CIFAR and SVHN: existing workdirs depend on these cuts.
    _, dev = stratified_cut(np.arange(count) % 10, 0.1, seed=0)
    assert len(dev) == round(fractions.Fraction(1, 10) * count)


@given(labels=LABELS, data=st.data(), seed=st.integers(0, 2**32))
def test_sample_has_every_class_in_proportion_and_at_least_once(
    labels: np.ndarray, data: st.DataObject, seed: int
) -> None:
    size = data.draw(st.integers(1, len(labels)))
    rows = stratified_sample(labels, size, [seed, 2])
    assert rows.tolist() == sorted(set(rows.tolist())) and len(rows) == size
    classes, sizes = np.unique(labels, return_counts=True)
    counts = np.array([np.sum(labels[rows] == c) for c in classes])
    if size >= len(classes):
        assert (counts >= 1).all()
    quotas = size * sizes / len(labels)
    assert (counts[quotas < 1] <= 1).all()
    # The classes that would be missing are taken from the largest ones.
    missing = np.sum(np.floor(quotas) == 0)
    assert (np.abs(counts - quotas) < 1 + missing).all()


def test_sample_of_equal_classes_has_equal_counts() -> None:
    labels = np.repeat(np.arange(10), 100)  # class by class: the first rows are all of class 0
    rows = stratified_sample(labels, 50, [0, 2])
    assert np.bincount(labels[rows]).tolist() == [5] * 10


@pytest.mark.parametrize("choose", ["stratified", "random"])
def test_every_example_is_sampled_with_equal_probability(choose: str) -> None:
    def sample(seed: int) -> np.ndarray:
        if choose == "stratified":
            return stratified_sample(np.arange(20) // 10, 6, [seed, 2])
        return random_sample(20, 6, [seed, 4])

    counts = sum(np.isin(np.arange(20), sample(seed)) for seed in range(2000))
    np.testing.assert_allclose(counts / 2000, 0.3, atol=0.05)  # five standard deviations


def test_random_sample_of_a_class_varies_as_if_drawn_without_classes() -> None:
    # Hypergeometric: 100 of 1000, half of them of one class. A stratified count would not vary.
    labels = np.arange(1000) % 2
    counts = [labels[random_sample(1000, 100, [seed, 4])].sum() for seed in range(1000)]
    assert np.var(counts) == pytest.approx(scipy.stats.hypergeom(1000, 500, 100).var(), rel=0.25)
