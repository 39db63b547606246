"""Deployment views against numpy, and against the augmentations of training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from kdjax.data import deployment_views
from kdjax.data.augment import apply_augmentation
from kdjax.data.deployment_views import IDENTITY, View, apply_view, average_logits, views
from kdjax.errors import InputError

EVERY = [(name, flip) for name in deployment_views.NAMES for flip in (False, True)]
COUNTS = {("none", False): 1, ("none", True): 1, ("flip", False): 2, ("flip", True): 2,
          ("shift", False): 5, ("shift", True): 10}  # fmt: skip


def pictures(n=6, height=5, width=4):
    values = np.random.default_rng(0).integers(1, 256, (n, height, width, 3))
    return values.astype(np.uint8)


def moved(images, view):
    """The view by a loop over pixels: what is moved out of the picture is black."""
    result = np.zeros_like(images)
    _, height, width, _ = images.shape
    for row in range(height):
        for column in range(width):
            source = row - view.down, column - view.right
            if 0 <= source[0] < height and 0 <= source[1] < width:
                result[:, row, column] = images[:, source[0], source[1]]
    return result[:, :, ::-1] if view.mirrored else result


@pytest.mark.slow
@pytest.mark.parametrize(("name", "flip"), EVERY)
def test_views_are_moved_and_mirrored_images_and_augmentations_of_training(name, flip):
    images, chosen = pictures(), views(name, flip=flip)
    assert chosen[0] == IDENTITY and len(set(chosen)) == len(chosen) == COUNTS[name, flip]
    augmentation, numbers = deployment_views.augmentation(chosen)
    for view, number in zip(chosen, numbers, strict=True):
        expected = moved(images, view)
        assert_array_equal(apply_view(images, view), expected)
        augmented = apply_augmentation(
            jnp.asarray(images), jnp.full(len(images), number), augmentation=augmentation
        )
        assert_array_equal(augmented, expected)


def test_shifts_are_by_one_pixel_in_the_four_directions():
    shifts = {(view.down, view.right) for view in views("shift", flip=False)}
    assert shifts == {(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)}


def weights(images):
    return np.random.default_rng(1).normal(size=(images[0].size, 4))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "flip"), EVERY)
def test_average_is_the_mean_of_the_logits_of_the_views(name, flip):
    images, chosen = pictures(), views(name, flip=flip)
    matrix = weights(images)

    def network(batch):
        return jnp.asarray(batch, jnp.float32).reshape(batch.shape[0], -1) @ matrix

    flat = [moved(images, view).reshape(len(images), -1).astype(np.float64) for view in chosen]
    expected = np.mean([values @ matrix for values in flat], axis=0)
    for average in (average_logits, jax.jit(average_logits, static_argnums=(0, 2))):
        logits = average(network, images, chosen)
        assert logits.dtype == np.float32
        assert_allclose(logits, expected, rtol=1e-5, atol=1e-3)


def test_logits_of_short_floats_are_averaged_in_float32():
    images = pictures()

    def network(batch):
        return jnp.asarray(batch, jnp.bfloat16)[:, 0, :2, 0]

    logits = average_logits(network, images, views("flip", flip=True))
    plain = [network(each).astype(jnp.float32) for each in (images, images[:, :, ::-1])]
    assert logits.dtype == jnp.float32
    assert_array_equal(logits, (plain[0] + plain[1]) / 2)
    assert average_logits(network, images).dtype == jnp.bfloat16  # a single view is untouched


def test_auto_follows_the_augmentation_of_training():
    assert deployment_views.resolve("auto", flip=True) == "flip"
    assert deployment_views.resolve("auto", flip=False) == "none"
    assert deployment_views.resolve("shift", flip=False) == "shift"


def test_unknown_names_and_shapes_are_refused():
    with pytest.raises(InputError, match=r"views 'flips'.*'flip'"):
        views("flips", flip=True)
    with pytest.raises(InputError, match=r"images \(5, 4, 3\)"):
        apply_view(pictures()[0], View(mirrored=True))
    with pytest.raises(InputError, match="no views"):
        average_logits(lambda images: images, pictures(), ())
