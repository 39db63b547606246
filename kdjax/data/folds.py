"""Folds of the train split: each of several teachers is trained without one of them."""

import dataclasses

import numpy as np

from kdjax import errors
from kdjax.data.dataset import Dataset

# Stream of random numbers, beside those of the cuts and of `limit_examples`.
_STREAM = 6


def stratified_folds(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Cuts a split into K folds, stratified by class.

    The examples are ordered by class, and at random within each class; the example at position i
    is in fold i mod K. So each fold has floor(n / K) examples or one more, and floor(n_k / K) or
    one more of a class with n_k examples.

    Args:
        labels: int [n].
        count: number of folds, K.
        seed: of the random order.

    Returns:
        int32 [n], the fold of each example, from 0 to K - 1.

    Raises:
        InputError: if K is less than 2 or more than n.
    """
    if not 2 <= count <= len(labels):
        raise errors.InputError(
            f"folds {count}: must be from 2 to the number of training images, {len(labels)}"
        )
    # The raw stream is the same in all versions of NumPy, unlike the shuffles.
    rank = np.random.PCG64([seed, _STREAM]).random_raw(len(labels))
    folds = np.empty(len(labels), np.int32)
    folds[np.lexsort((rank, labels))] = np.arange(len(labels)) % count
    return folds


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
