"""Comparison of the image corruptions with NumPy and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from kdjax.data.shift import SEVERITIES, SHIFTS
from kdjax.errors import InputError

SHAPES = [(8, 8, 1), (28, 28, 1), (32, 32, 3)]
SIGMAS = (0.4, 0.6, 0.7, 0.8, 1.0)
FACTORS = (0.75, 0.5, 0.4, 0.3, 0.15)
NOISES = (0.04, 0.06, 0.08, 0.09, 0.10)
DEGREES = (10, 20, 30, 40, 50)
COMPILED = {name: jax.jit(shift) for name, shift in SHIFTS.items()}


def smooth_images(shape: tuple[int, ...], n: int = 12) -> np.ndarray:
    """Returns smooth random images with coarse and fine structure."""
    noise = np.random.default_rng(0).normal(size=(n, *shape))
    coarse, fine = (
        scipy.ndimage.gaussian_filter(noise, (0, width, width, 0)) for width in (shape[0] / 6, 1)
    )
    smooth = coarse / coarse.std() + 0.3 * fine / fine.std()
    scaled = (smooth - smooth.min()) / np.ptp(smooth)
    return np.round(255 * scaled).astype(np.uint8)


def shifted(
    name: str, images: np.ndarray, severity: int, indices: np.ndarray | None = None, seed: int = 0
) -> np.ndarray:
    indices = np.arange(len(images)) if indices is None else indices
    result = COMPILED[name](images, indices, severity=severity, seed=seed)
    assert result.dtype == jnp.uint8 and result.shape == images.shape
    return np.asarray(result)


def assert_rounded(actual: np.ndarray, expected: np.ndarray, slack: float = 1e-3) -> None:
    """Asserts that each pixel is the nearest integer, up to float32 error before rounding."""
    assert np.abs(actual - expected).max() <= 0.5 + slack


@pytest.mark.parametrize("severity", SEVERITIES)
def test_noise_is_gaussian_and_independent(severity: int) -> None:
    sigma = NOISES[severity - 1]
    grey = np.full((40, 32, 32, 3), 128, np.uint8)
    actual = shifted("noise", grey, severity).astype(np.float64) - 128
    # Rounding adds the variance of a uniform variable of width 1; at 5 sd nothing is clipped.
    spread = np.sqrt((255 * sigma) ** 2 + 1 / 12)
    assert actual.std() == pytest.approx(spread, rel=0.01)
    assert actual.mean() == pytest.approx(0, abs=4 * spread / np.sqrt(actual.size))
    dithered = actual + np.random.default_rng(0).uniform(-0.5, 0.5, actual.shape)
    assert scipy.stats.kstest(dithered.ravel()[::7] / spread, "norm").pvalue > 1e-3
    # Correlations between consecutive images, rows and channels.
    for axis in (0, 1, 3):
        pairs = np.corrcoef(actual.ravel(), np.roll(actual, 1, axis).ravel())
        assert abs(pairs[0, 1]) < 4 / np.sqrt(actual.size)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_blur_matches_scipy_gaussian_filter(shape: tuple[int, ...], severity: int) -> None:
    images, sigma = smooth_images(shape), SIGMAS[severity - 1]
    expected = scipy.ndimage.gaussian_filter(
        images.astype(np.float64), (0, sigma, sigma, 0), mode="nearest", radius=(0, 4, 4, 0)
    )
    assert_rounded(shifted("blur", images, severity), expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_contrast_scales_around_the_mean(shape: tuple[int, ...], severity: int) -> None:
    images, factor = smooth_images(shape).astype(np.float64), FACTORS[severity - 1]
    mean = images.mean(axis=(1, 2), keepdims=True)
    actual = shifted("contrast", images.astype(np.uint8), severity)
    assert_rounded(actual, mean + factor * (images - mean))


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_rotation_matches_scipy_in_both_directions(shape: tuple[int, ...], severity: int) -> None:
    images, degrees = smooth_images(shape), DEGREES[severity - 1]
    actual = shifted("rotation", images, severity)
    directions = []
    for before, after in zip(images, actual, strict=True):
        candidates = [
            scipy.ndimage.rotate(
                before.astype(np.float64), angle, reshape=False, order=1, mode="nearest"
            )
            for angle in (degrees, -degrees)
        ]
        errors = [np.abs(after - rotated).max() for rotated in candidates]
        directions.append(int(np.argmin(errors)))
        assert_rounded(after, candidates[directions[-1]])
    assert set(directions) == {0, 1}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SHIFTS)
def test_distance_from_the_original_image_increases_with_severity(
    name: str, shape: tuple[int, ...]
) -> None:
    images = smooth_images(shape)
    distances = [
        np.abs(shifted(name, images, severity).astype(float) - images).mean()
        for severity in SEVERITIES
    ]
    assert distances[0] > 0
    assert np.all(np.diff(distances) > 0)


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(
    name=st.sampled_from(["blur", "contrast", "rotation"]),
    grey=st.integers(0, 255),
    severity=st.sampled_from(SEVERITIES),
)
def test_constant_image_is_unchanged_except_by_noise(name: str, grey: int, severity: int) -> None:
    plain = np.full((4, 8, 8, 1), grey, np.uint8)
    np.testing.assert_array_equal(shifted(name, plain, severity), plain)


@pytest.mark.parametrize("name", SHIFTS)
def test_result_for_an_image_is_independent_of_its_batch(name: str) -> None:
    images = smooth_images((8, 8, 1))
    rows = np.array([3, 3, 11, 0, 7, 1, 9, 10, 2, 4, 5, 6])
    whole = shifted(name, images, 3)
    np.testing.assert_array_equal(shifted(name, images[rows], 3, rows), whole[rows])


def test_noise_depends_on_seed_and_index_and_scales_with_severity() -> None:
    grey = np.full((12, 8, 8, 1), 128, np.uint8)
    strong, weak, other = (
        shifted("noise", grey, severity, seed=seed).astype(float) - 128
        for severity, seed in ((5, 0), (2, 0), (5, 1))
    )
    assert np.corrcoef(strong.ravel(), weak.ravel())[0, 1] > 0.999
    assert abs(np.corrcoef(strong.ravel(), other.ravel())[0, 1]) < 0.2
    assert abs(np.corrcoef(strong[0].ravel(), strong[1].ravel())[0, 1]) < 0.5


@pytest.mark.parametrize("severity", [0, 6, 2.5])
def test_unknown_severity_raises(severity: float) -> None:
    with pytest.raises(InputError, match=r"severity .* must be one of \(1, 2, 3, 4, 5\)"):
        SHIFTS["blur"](smooth_images((8, 8, 1)), jnp.arange(12), severity=severity, seed=0)


@pytest.mark.parametrize(("shape", "count"), [((4, 8, 8, 3), 3), ((8, 8, 3), 8)])
def test_wrong_shape_raises(shape: tuple[int, ...], count: int) -> None:
    with pytest.raises(InputError, match=r"must be \[b, h, w, c\] and \[b\]"):
        SHIFTS["blur"](np.zeros(shape, np.uint8), jnp.arange(count), severity=1, seed=0)
