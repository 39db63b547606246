"""Shifts against NumPy and SciPy."""

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


def pictures(shape: tuple[int, ...], n: int = 12) -> np.ndarray:
    """Random images of shapes as large as an object of a photograph, with some detail."""
    noise = np.random.default_rng(0).normal(size=(n, *shape))
    coarse, fine = (
        scipy.ndimage.gaussian_filter(noise, (0, width, width, 0)) for width in (shape[0] / 6, 1)
    )
    smooth = coarse / coarse.std() + 0.3 * fine / fine.std()
    scaled = (smooth - smooth.min()) / np.ptp(smooth)
    return np.round(255 * scaled).astype(np.uint8)


def shifted(
    name: str, images: np.ndarray, severity: int, index: np.ndarray | None = None, seed: int = 0
) -> np.ndarray:
    index = np.arange(len(images)) if index is None else index
    result = COMPILED[name](images, index, severity=severity, seed=seed)
    assert result.dtype == jnp.uint8 and result.shape == images.shape
    return np.asarray(result)


def assert_rounded(found: np.ndarray, expected: np.ndarray, slack: float = 1e-3) -> None:
    """Each pixel is the nearest integer, up to float32's error before the rounding."""
    assert np.abs(found - expected).max() <= 0.5 + slack


@pytest.mark.parametrize("severity", SEVERITIES)
def test_noise_is_gaussian_and_independent(severity: int) -> None:
    sigma = NOISES[severity - 1]
    grey = np.full((40, 32, 32, 3), 128, np.uint8)
    found = shifted("noise", grey, severity).astype(np.float64) - 128
    # Rounding adds the variance of a uniform variable of width 1; at 5 sd nothing is clipped.
    spread = np.sqrt((255 * sigma) ** 2 + 1 / 12)
    assert found.std() == pytest.approx(spread, rel=0.01)
    assert found.mean() == pytest.approx(0, abs=4 * spread / np.sqrt(found.size))
    dithered = found + np.random.default_rng(0).uniform(-0.5, 0.5, found.shape)
    assert scipy.stats.kstest(dithered.ravel()[::7] / spread, "norm").pvalue > 1e-3
    # Of each image with the next, of each channel with the next, of each row with the next.
    for axis in (0, 1, 3):
        pairs = np.corrcoef(found.ravel(), np.roll(found, 1, axis).ravel())
        assert abs(pairs[0, 1]) < 4 / np.sqrt(found.size)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_blur_is_scipys_gaussian_filter(shape: tuple[int, ...], severity: int) -> None:
    images, sigma = pictures(shape), SIGMAS[severity - 1]
    expected = scipy.ndimage.gaussian_filter(
        images.astype(np.float64), (0, sigma, sigma, 0), mode="nearest", radius=(0, 4, 4, 0)
    )
    assert_rounded(shifted("blur", images, severity), expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_contrast_keeps_the_mean_and_scales_what_is_left(
    shape: tuple[int, ...], severity: int
) -> None:
    images, factor = pictures(shape).astype(np.float64), FACTORS[severity - 1]
    mean = images.mean(axis=(1, 2), keepdims=True)
    found = shifted("contrast", images.astype(np.uint8), severity)
    assert_rounded(found, mean + factor * (images - mean))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_rotation_is_scipys_to_either_side(shape: tuple[int, ...], severity: int) -> None:
    images, degrees = pictures(shape), DEGREES[severity - 1]
    found = shifted("rotation", images, severity)
    sides = []
    for before, after in zip(images, found, strict=True):
        turned = [
            scipy.ndimage.rotate(
                before.astype(np.float64), angle, reshape=False, order=1, mode="nearest"
            )
            for angle in (degrees, -degrees)
        ]
        errors = [np.abs(after - one).max() for one in turned]
        sides.append(int(np.argmin(errors)))
        assert_rounded(after, turned[sides[-1]])
    assert set(sides) == {0, 1}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SHIFTS)
def test_the_more_severe_the_further_from_the_clean_image(
    name: str, shape: tuple[int, ...]
) -> None:
    images = pictures(shape)
    distances = [
        np.abs(shifted(name, images, severity).astype(float) - images).mean()
        for severity in SEVERITIES
    ]
    assert distances[0] > 0
    assert np.all(np.diff(distances) > 0)


@settings(max_examples=10, deadline=None)
@given(
    name=st.sampled_from(["blur", "contrast", "rotation"]),
    grey=st.integers(0, 255),
    severity=st.sampled_from(SEVERITIES),
)
def test_a_plain_image_has_nothing_to_lose_but_to_noise(
    name: str, grey: int, severity: int
) -> None:
    plain = np.full((4, 8, 8, 1), grey, np.uint8)
    np.testing.assert_array_equal(shifted(name, plain, severity), plain)


@pytest.mark.parametrize("name", SHIFTS)
def test_an_image_is_shifted_alike_in_any_batch(name: str) -> None:
    images = pictures((8, 8, 1))
    rows = np.array([3, 3, 11, 0, 7, 1, 9, 10, 2, 4, 5, 6])
    whole = shifted(name, images, 3)
    np.testing.assert_array_equal(shifted(name, images[rows], 3, rows), whole[rows])


def test_noise_depends_on_the_seed_and_the_place_and_its_draw_not_on_the_severity() -> None:
    grey = np.full((12, 8, 8, 1), 128, np.uint8)
    strong, weak, other = (
        shifted("noise", grey, severity, seed=seed).astype(float) - 128
        for severity, seed in ((5, 0), (2, 0), (5, 1))
    )
    assert np.corrcoef(strong.ravel(), weak.ravel())[0, 1] > 0.999
    assert abs(np.corrcoef(strong.ravel(), other.ravel())[0, 1]) < 0.2
    assert abs(np.corrcoef(strong[0].ravel(), strong[1].ravel())[0, 1]) < 0.5


@pytest.mark.parametrize("severity", [0, 6, 2.5])
def test_another_severity_is_refused(severity: float) -> None:
    with pytest.raises(InputError, match=r"severity .* must be one of \(1, 2, 3, 4, 5\)"):
        SHIFTS["blur"](pictures((8, 8, 1)), jnp.arange(12), severity=severity, seed=0)


@pytest.mark.parametrize(("shape", "count"), [((4, 8, 8, 3), 3), ((8, 8, 3), 8)])
def test_a_wrong_shape_is_refused(shape: tuple[int, ...], count: int) -> None:
    with pytest.raises(InputError, match=r"must be \[b, h, w, c\] and \[b\]"):
        SHIFTS["blur"](np.zeros(shape, np.uint8), jnp.arange(count), severity=1, seed=0)
