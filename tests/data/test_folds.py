"""Folds of the train split."""

import dataclasses

import numpy as np
import pytest
from support.networks import random_dataset

from kdjax.data.folds import stratified_folds, without_fold
from kdjax.errors import InputError


@pytest.mark.parametrize(("count", "classes", "folds"), [(1000, 10, 5), (67, 7, 3), (9, 4, 9)])
def test_every_fold_has_its_share_of_all_images_and_of_every_class(count, classes, folds) -> None:
    labels = np.random.default_rng(0).integers(0, classes, count)
    assigned = stratified_folds(labels, folds, seed=3)
    assert assigned.shape == (count,) and assigned.dtype == np.int32
    for rows in (np.ones(count, bool), *(labels == label for label in range(classes))):
        sizes = np.bincount(assigned[rows], minlength=folds)
        assert sizes.sum() == rows.sum()
        assert set(sizes) <= {rows.sum() // folds, -(-rows.sum() // folds)}


def test_folds_are_a_function_of_the_seed() -> None:
    labels = np.random.default_rng(0).integers(0, 3, 200)
    folds = [stratified_folds(labels, 4, seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(folds[0], folds[1])
    assert (folds[0] != folds[2]).mean() > 0.5  # 3/4 of them by chance
    # The order of the images does not decide: neighbours of one class are in any two folds.
    pairs = {(int(a), int(b)) for a, b in zip(folds[0], folds[0][1:], strict=False)}
    assert len(pairs) == 16


def test_folds_stay_those_of_earlier_versions() -> None:
    # Another cut would let a teacher of a stored run teach the images that it was trained on.
    assigned = stratified_folds(np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0]), 3, seed=0)
    assert assigned.tolist() == [1, 2, 0, 2, 0, 2, 0, 1, 1, 0]


@pytest.mark.parametrize("count", [1, 0, 6])
def test_number_of_folds_out_of_range_is_refused(count) -> None:
    with pytest.raises(InputError, match=f"folds {count}: must be from 2 to .*, 5"):
        stratified_folds(np.zeros(5, int), count, seed=0)


def test_data_set_without_a_fold_keeps_the_other_images_and_the_statistics() -> None:
    dataset = random_dataset()
    assigned = stratified_folds(dataset.train.labels, 3, seed=0)
    parts = [without_fold(dataset, assigned, fold) for fold in range(3)]
    for fold, part in enumerate(parts):
        kept = [index for index in range(len(assigned)) if assigned[index] != fold]
        np.testing.assert_array_equal(part.train.images, dataset.train.images[kept])
        np.testing.assert_array_equal(part.train.labels, dataset.train.labels[kept])
        assert dataclasses.replace(part, train=dataset.train) == dataset  # the very same arrays


@pytest.mark.parametrize("seed", range(5))
def test_units_are_not_divided_and_the_folds_have_like_sizes_and_classes(seed) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, 300)
    units = np.where(
        rng.random(300) < 0.5, 4 * rng.integers(0, 15, 300) + labels, np.arange(300) + 60
    )
    assigned = stratified_folds(labels, 5, seed, units)
    for unit in np.unique(units):
        assert len(set(assigned[units == unit])) == 1
    largest = np.bincount(units).max()
    for rows in (np.ones(300, bool), *(labels == label for label in range(4))):
        sizes = np.bincount(assigned[rows], minlength=5)
        assert sizes.max() - sizes.min() <= largest


def test_units_of_one_image_give_the_folds_without_units() -> None:
    labels = np.random.default_rng(0).integers(0, 3, 101)
    numbers = np.random.default_rng(1).permutation(101)
    np.testing.assert_array_equal(
        stratified_folds(labels, 4, 7, numbers), stratified_folds(labels, 4, 7)
    )


def test_as_many_folds_as_units_have_one_each() -> None:
    assigned = stratified_folds(np.array([0, 0, 1, 1, 0]), 3, 0, np.array([5, 5, 2, 5, 9]))
    assert assigned[0] == assigned[1] == assigned[3]
    assert len({*assigned[[0, 2, 4]]}) == 3
    with pytest.raises(InputError, match=r"folds 4: .* \(copies and groups count once\), 3"):
        stratified_folds(np.zeros(5, int), 4, 0, np.array([5, 5, 2, 5, 9]))
