"""Pixel statistics are exact: against float64 of all pixels, and where float32 would fail."""

from fractions import Fraction

import numpy as np
import pytest

from kdjax.data import arrays
from kdjax.data.arrays import Arrays


def random_images(n=7, shape=(5, 3, 3), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_moments_are_sums_over_the_pixels_of_each_image(channels):
    images = random_images(shape=(5, 3, channels))
    pixels = images.astype(object)
    expected = [[image.sum((0, 1)), (image**2).sum((0, 1))] for image in pixels]
    found = arrays.moments(images)
    assert found.dtype == np.int64 and found.shape == (7, 2, channels)
    np.testing.assert_array_equal(found, np.array(expected, np.int64))


def test_statistics_of_any_subset_are_those_of_its_pixels():
    images = random_images()
    sums = arrays.moments(images)
    for rows in (slice(None), slice(2, 5), [0, 6]):
        subset = images[rows].astype(np.float64) / 255
        mean, std = arrays.statistics(sums[rows].sum(axis=0), subset[..., 0].size)
        assert mean.dtype == std.dtype == np.float32
        np.testing.assert_allclose(mean, subset.mean((0, 1, 2)), rtol=1e-6)
        np.testing.assert_allclose(std, subset.std((0, 1, 2)), rtol=1e-6)


def test_one_differing_pixel_among_a_trillion_is_not_rounded_away():
    """N S2 - S1^2 of N - 1 pixels of 200 and one of 201 is N - 1; float64 sums have lost it."""
    count = 10**12
    first, second = 200 * (count - 1) + 201, 200**2 * (count - 1) + 201**2
    assert float(count) * second - float(first) ** 2 != count - 1
    _, std = arrays.statistics(np.array([[first], [second]], np.int64), count)
    variance = Fraction(count - 1, count**2)
    np.testing.assert_allclose(std, float(variance) ** 0.5 / 255, rtol=1e-6)


@pytest.mark.parametrize("value", [0, 77, 255])
def test_constant_channel_is_not_scaled(value):
    images = random_images()
    images[..., 1] = value
    mean, std = arrays.statistics(arrays.moments(images).sum(axis=0), images[..., 0].size)
    assert std[1] == 1 and mean[1] == np.float32(value / 255)
    assert np.all(std[[0, 2]] < 1)


def split(n, seed, images=True):
    pixels = random_images(n, seed=seed)
    labels = np.arange(n, dtype=np.int32)
    return Arrays(pixels if images else None, labels, arrays.moments(pixels), np.array(["a", "b"]))


@pytest.mark.parametrize("images", [True, False])
def test_joined_splits_keep_their_order(images):
    parts = [split(3, 0, images), split(2, 1, images)]
    joined = arrays.join(parts)
    np.testing.assert_array_equal(joined.labels, [0, 1, 2, 0, 1])
    np.testing.assert_array_equal(joined.moments[3:], parts[1].moments)
    if images:
        np.testing.assert_array_equal(joined.images[:3], parts[0].images)
    else:
        assert joined.images is None
    assert list(joined.class_names) == ["a", "b"]


def test_single_split_is_not_copied():
    part = split(3, 0)
    assert arrays.join([part]) is part
