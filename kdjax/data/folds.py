"""Folds of the train split: each of several teachers is trained without one of them."""

import dataclasses

import numpy as np

from kdjax import errors
from kdjax.data.dataset import Dataset

# Stream of random numbers, beside those of the cuts and of `limit_examples`.
_STREAM = 6


def stratified_folds(
    labels: np.ndarray, count: int, seed: int, units: np.ndarray | None = None
) -> np.ndarray:
    """Cuts a split into K folds, stratified by class, without dividing a unit.

    The units are ordered by class, and at random within each class; each comes into the fold with
    the fewest examples of its class, of these into that with the fewest examples, and of these into
    the first one. Without units, each fold has floor(n / K) examples or one more, and
    floor(n_k / K) or one more of a class with n_k examples.

    Args:
        labels: int [n].
        count: number of folds, K.
        seed: of the random order.
        units: int [n], equal for examples that stay together, which count as of the class of the
            first one; None: no two examples do.

    Returns:
        int32 [n], the fold of each example, from 0 to K - 1.

    Raises:
        InputError: if K is less than 2 or more than the number of units.
    """
    numbers = np.arange(len(labels)) if units is None else units
    _, first, unit_of = np.unique(numbers, return_index=True, return_inverse=True)
    if not 2 <= count <= len(first):
        undivided = "" if units is None else " (copies and groups count once)"
        raise errors.InputError(
            f"teacher.folds {count}: must be from 2 to the number of training images{undivided}, "
            f"{len(first)}"
        )
    # The raw stream is the same in all versions of NumPy, unlike the shuffles.
    rank = np.random.PCG64([seed, _STREAM]).random_raw(len(labels))
    sizes, classes = np.bincount(unit_of).tolist(), labels[first].tolist()
    in_fold, of_class = [0] * count, {label: [0] * count for label in set(classes)}
    folds = np.empty(len(first), np.int32)
    for unit in np.lexsort((rank[first], labels[first])).tolist():
        class_sizes = of_class[classes[unit]]
        fold = min(range(count), key=lambda number: (class_sizes[number], in_fold[number]))
        folds[unit] = fold
        class_sizes[fold] += sizes[unit]
        in_fold[fold] += sizes[unit]
    return folds[unit_of]


def without_fold(dataset: Dataset, folds: np.ndarray, fold: int) -> Dataset:
    """Returns a data set whose train split lacks a fold.

    `mean` and `std` stay those of the whole train split: all teachers and the student then see an
    image with the same normalization. These statistics do not depend on the labels.

    Args:
        dataset: the data set.
        folds: of `stratified_folds` for its train split.
        fold: the one to leave out.
    """
    rows = np.flatnonzero(folds != fold)
    return dataclasses.replace(dataset, train=dataset.train.take(rows))
