"""Counts from labels and predictions, against scikit-learn."""

import numpy as np
from numpy.testing import assert_array_equal
from sklearn.metrics import confusion_matrix

from kdjax import selective


def test_confusion_matrix_equals_scikit_learn():
    rng = np.random.default_rng(1)
    labels, predicted = rng.integers(4, size=(2, 100))
    counts = selective.confusion_matrix(labels, predicted, 5)  # class 4 does not occur
    assert_array_equal(counts, confusion_matrix(labels, predicted, labels=range(5)))
