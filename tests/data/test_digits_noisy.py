"""The digits with noise: reproducible, the same kind of noise in every split, each image once."""

import pathlib

import numpy as np
import pytest
import scipy.stats

from kdjax import data
from kdjax.data.tfds import builders


@pytest.fixture(scope="module")
def sets(data_dir: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> list[data.Dataset]:
    """The digits without and with noise."""
    noisy = data.load("digits_noisy", data_dir=tmp_path_factory.mktemp("noisy"))
    return [data.load("digits", data_dir=data_dir), noisy]


def splits_of(dataset: data.Dataset) -> list[data.Split]:
    return [dataset.train, dataset.dev, dataset.calibration, dataset.test]


def test_images_are_the_digits_of_the_same_splits_with_some_pixels_replaced(
    sets: list[data.Dataset],
) -> None:
    for clean, noisy in zip(*map(splits_of, sets), strict=True):
        np.testing.assert_array_equal(noisy.labels, clean.labels)
        changed = (noisy.images != clean.images).sum(axis=(1, 2, 3))
        assert changed.max() <= 48
        # Each image is unchanged with probability 2/3 + 1/3 * 1/49.
        test = scipy.stats.binomtest(int((changed == 0).sum()), len(changed), 2 / 3 + 1 / 147)
        assert test.pvalue > 1e-3


def test_noise_has_the_same_distribution_in_calibration_and_test(
    sets: list[data.Dataset],
) -> None:
    """A certificate of the calibration split holds only for images of the same distribution."""
    calibration, test = (
        (noisy.images != clean.images).sum(axis=(1, 2, 3))
        for clean, noisy in list(zip(*map(splits_of, sets), strict=True))[2:]
    )
    assert scipy.stats.ks_2samp(calibration, test).pvalue > 1e-3


def test_replaced_pixels_depend_on_the_seed_only() -> None:
    images = np.full((300, 8, 8, 1), 100, np.uint8)
    first, again, other = (
        builders.replace_pixels(images, most=48, one_in=3, seed=seed) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any() and first.dtype == np.uint8 and first.shape == images.shape
    # The values of this version; existing workdirs depend on them.
    assert first.astype(np.int64).sum() == 1987800


def test_replaced_values_and_counts_are_uniform() -> None:
    images = np.zeros((20_000, 4, 4, 1), np.uint8)
    noisy = builders.replace_pixels(images, most=16, one_in=1, seed=3).reshape(20_000, 16)
    # A replaced pixel has the value 0 with probability 1/256.
    counts = np.bincount((noisy > 0).sum(axis=1), minlength=17)
    expected = np.zeros(17)
    for replaced in range(17):
        expected += scipy.stats.binom.pmf(np.arange(17), replaced, 255 / 256) / 17
    assert scipy.stats.chisquare(counts, 20_000 * expected).pvalue > 1e-3
    values = np.bincount(noisy[noisy > 0], minlength=256)[1:]
    assert scipy.stats.chisquare(values).pvalue > 1e-3
    assert scipy.stats.chisquare((noisy > 0).sum(axis=0)).pvalue > 1e-3


def test_one_image_of_the_given_number_is_changed() -> None:
    images = np.zeros((9000, 4, 4, 1), np.uint8)
    noisy = builders.replace_pixels(images, most=16, one_in=5, seed=4)
    changed = int((noisy > 0).any(axis=(1, 2, 3)).sum())
    assert scipy.stats.binomtest(changed, 9000, 16 / 17 / 5).pvalue > 1e-3
