"""The development split, by its properties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdjax import errors
from kdjax.data.splits import stratified_cut

LABELS = st.lists(st.integers(0, 4), min_size=10, max_size=80).map(np.array)
FRACTIONS = st.floats(0.06, 0.94)


@given(labels=LABELS, fraction=FRACTIONS, seed=st.integers(0, 2**32))
def test_train_and_dev_share_nothing_and_lose_nothing(
    labels: np.ndarray, fraction: float, seed: int
) -> None:
    train, dev = stratified_cut(labels, fraction, seed)
    assert len(dev) == round(fraction * len(labels))
    np.testing.assert_array_equal(np.sort(np.concatenate([train, dev])), np.arange(len(labels)))
    for part in (train, dev):
        np.testing.assert_array_equal(part, np.sort(part))


@given(labels=LABELS, fraction=FRACTIONS, seed=st.integers(0, 2**32))
def test_each_class_gives_its_share_to_within_one(
    labels: np.ndarray, fraction: float, seed: int
) -> None:
    _, dev = stratified_cut(labels, fraction, seed)
    for label in set(labels.tolist()):
        quota = fraction * np.sum(labels == label)
        assert abs(np.sum(labels[dev] == label) - quota) < 1 + 1e-9


def test_the_largest_remainders_are_rounded_up() -> None:
    labels = np.repeat([0, 1, 2], [16, 12, 23])  # a tenth: 1.6, 1.2 and 2.3, five in all
    _, dev = stratified_cut(labels, 0.1, seed=0)
    assert np.bincount(labels[dev]).tolist() == [2, 1, 2]


def test_the_cut_depends_on_the_seed_alone() -> None:
    labels = np.arange(200) % 10
    cuts = [stratified_cut(labels, 0.2, seed)[1] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(cuts[0], cuts[1])
    assert cuts[0].tolist() != cuts[2].tolist()


def test_the_cut_stays_what_it_was_in_earlier_releases() -> None:
    # Another cut under the same seed would mix development images into train on resuming.
    _, dev = stratified_cut(np.arange(40) % 4, 0.25, seed=0)
    assert dev.tolist() == [1, 2, 3, 11, 13, 18, 20, 21, 32, 36]


def test_every_member_of_a_class_is_chosen_equally_often() -> None:
    labels = np.arange(20) % 2
    counts = sum(np.isin(np.arange(20), stratified_cut(labels, 0.3, s)[1]) for s in range(2000))
    np.testing.assert_allclose(counts / 2000, 0.3, atol=0.05)  # five standard deviations


@pytest.mark.parametrize("fraction", [-0.1, 0.0, 1.0, 1.5, float("nan"), 0.01, 0.99])
def test_a_fraction_that_leaves_a_split_empty_is_refused(fraction: float) -> None:
    with pytest.raises(errors.InputError, match="fraction"):
        stratified_cut(np.arange(20) % 2, fraction, seed=0)
