"""Order, augmentation and normalization, compared with NumPy."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from kdjax import errors
from kdjax.data import augment as augment_module


def augment_eagerly(images, indices, *, seed, epoch, pad, flip):
    augmentation = augment_module.Augmentation(pad, flip)
    number = augment_module.sample_augmentation(
        indices, seed=seed, epoch=epoch, augmentation=augmentation
    )
    return augment_module.apply_augmentation(images, number, augmentation=augmentation)


augment = jax.jit(augment_eagerly, static_argnames=("pad", "flip"))
epoch_order = jax.jit(augment_module.epoch_order, static_argnames="n")
normalize = jax.jit(augment_module.normalize)


def random_images(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def outcomes(image: np.ndarray, pad: int, flip: bool) -> dict[tuple[int, int, bool], bytes]:
    """Returns every augmentation of an image, by (top, left, mirrored)."""
    h, w, _ = image.shape
    padded = np.zeros((h + 2 * pad, w + 2 * pad, image.shape[2]), np.uint8)
    padded[pad : pad + h, pad : pad + w] = image
    shifts = range(2 * pad + 1)
    return {
        (top, left, mirrored): padded[top : top + h, left : left + w][
            :, :: -1 if mirrored else 1
        ].tobytes()
        for top, left, mirrored in itertools.product(shifts, shifts, (False, True)[: 1 + flip])
    }


@settings(max_examples=20, deadline=None)
@given(n=st.sampled_from([1, 7, 64]), seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 1000))
def test_epoch_order_is_a_permutation(n: int, seed: int, epoch: int) -> None:
    order = epoch_order(n, seed=seed, epoch=epoch)
    assert order.dtype == jnp.int32
    np.testing.assert_array_equal(np.sort(order), np.arange(n))


def test_epoch_order_depends_on_seed_and_epoch_only() -> None:
    orders = {(s, e): np.array(epoch_order(50, seed=s, epoch=e)) for s in (0, 1) for e in (0, 1)}
    for (seed, epoch), order in orders.items():
        np.testing.assert_array_equal(augment_module.epoch_order(50, seed=seed, epoch=epoch), order)
    assert len({order.tobytes() for order in orders.values()}) == 4


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("pad", [0, 1, 3])
def test_augmented_image_is_a_crop_of_the_padded_image(pad: int, flip: bool) -> None:
    images = random_images((40, 5, 4, 2))
    result = augment(images, jnp.arange(40), seed=3, epoch=2, pad=pad, flip=flip)
    assert result.dtype == jnp.uint8
    for image, augmented in zip(images, np.asarray(result), strict=True):
        assert augmented.tobytes() in outcomes(image, pad, flip).values()


@pytest.mark.slow
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("pad", [0, 1, 3])
def test_augmentations_are_numbered_by_row_column_and_mirroring(pad: int, flip: bool) -> None:
    image = random_images((1, 5, 4, 2))
    expected = list(outcomes(image[0], pad, flip).values())
    augmentation = augment_module.Augmentation(pad, flip)
    count = augment_module.num_augmentations(augmentation)
    apply = jax.jit(augment_module.apply_augmentation, static_argnames="augmentation")
    found = apply(np.repeat(image, count, 0), np.arange(count), augmentation=augmentation)
    assert [view.tobytes() for view in np.asarray(found)] == expected
    sample = jax.jit(augment_module.sample_augmentation, static_argnames="augmentation")
    drawn = sample(np.arange(2000), seed=1, epoch=0, augmentation=augmentation)
    assert set(np.asarray(drawn).tolist()) == set(range(count))


@pytest.mark.slow
@pytest.mark.parametrize("flip", [False, True])
def test_augmentations_are_uniformly_distributed(flip: bool) -> None:
    image = random_images((3, 4, 1))
    n, pad = 6000, 1
    result = augment(
        np.tile(image, (n, 1, 1, 1)), jnp.arange(n), seed=0, epoch=0, pad=pad, flip=flip
    )
    seen = [augmented.tobytes() for augmented in np.asarray(result)]
    counts = [seen.count(outcome) for outcome in outcomes(image, pad, flip).values()]
    assert sum(counts) == n
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.slow
def test_alternating_flip_mirrors_each_image_in_every_second_epoch() -> None:
    alternating = augment_module.Augmentation(2, True, "alternating")
    plain = augment_module.Augmentation(2, True)
    sample = jax.jit(augment_module.sample_augmentation, static_argnames="augmentation")

    def draw(epoch: int, augmentation: augment_module.Augmentation) -> np.ndarray:
        return np.asarray(sample(jnp.arange(400), seed=4, epoch=epoch, augmentation=augmentation))

    first = draw(0, plain)
    np.testing.assert_array_equal(draw(0, alternating), first)
    assert 150 < (first % 2).sum() < 250
    for epoch in (1, 2, 7):
        numbers = draw(epoch, alternating)
        np.testing.assert_array_equal(numbers % 2, (first + epoch) % 2)
        # The crop is that of the random flip.
        np.testing.assert_array_equal(numbers // 2, draw(epoch, plain) // 2)
    still = augment_module.Augmentation(2, False, "alternating")
    np.testing.assert_array_equal(draw(3, still), draw(3, augment_module.Augmentation(2, False)))


def test_no_padding_and_no_flip_leave_the_images_unchanged() -> None:
    images = random_images((6, 5, 4, 3))
    result = augment(images, jnp.arange(6), seed=0, epoch=0, pad=0, flip=False)
    np.testing.assert_array_equal(result, images)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(chosen=st.lists(st.integers(0, 15), min_size=4, max_size=4), epoch=st.integers(0, 3))
def test_augmentation_of_an_image_is_independent_of_its_batch(
    chosen: list[int], epoch: int
) -> None:
    images, indices = random_images((16, 6, 6, 3)), jnp.arange(16, dtype=jnp.int32) + 1000
    whole = augment(images, indices, seed=5, epoch=epoch, pad=2, flip=True)
    rows = np.array(chosen)
    part = augment(images[rows], indices[rows], seed=5, epoch=epoch, pad=2, flip=True)
    np.testing.assert_array_equal(part, whole[rows])


def test_augmentation_depends_on_seed_and_epoch() -> None:
    images, indices = random_images((16, 8, 8, 3)), jnp.arange(16)
    results = {
        np.asarray(augment(images, indices, seed=s, epoch=e, pad=2, flip=True)).tobytes()
        for s in (0, 1)
        for e in (0, 1)
    }
    assert len(results) == 4


@pytest.mark.slow
def test_jit_and_scan_with_traced_seed_and_epoch_do_not_change_the_images() -> None:
    images, indices = random_images((8, 6, 6, 3)), jnp.arange(8)

    def run(seed: jax.Array) -> jax.Array:
        def step(carry: None, epoch: jax.Array) -> tuple[None, jax.Array]:
            return carry, augment_eagerly(images, indices, seed=seed, epoch=epoch, pad=2, flip=True)

        return jax.lax.scan(step, None, jnp.arange(3))[1]

    for epoch, result in enumerate(jax.jit(run)(jnp.int32(7))):
        plain = augment_eagerly(images, indices, seed=7, epoch=epoch, pad=2, flip=True)
        np.testing.assert_array_equal(result, plain)


@pytest.mark.slow
def test_sharded_batch_is_augmented_without_communication() -> None:
    images, indices = random_images((16, 6, 6, 3)), np.arange(16)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    given = jax.device_put((images, indices), sharding)
    program = augment.lower(*given, seed=0, epoch=1, pad=2, flip=True).compile()
    assert not {"all-gather", "all-reduce", "all-to-all"} & set(
        re.findall(r"[\w-]+", program.as_text())
    )
    result = program(*given, seed=0, epoch=1)
    plain = augment(images, indices, seed=0, epoch=1, pad=2, flip=True)
    np.testing.assert_array_equal(result, plain)


def test_epoch_order_does_not_depend_on_the_default_generator() -> None:
    order = augment_module.epoch_order(30, seed=0, epoch=0)
    with jax.default_prng_impl("rbg"):
        np.testing.assert_array_equal(augment_module.epoch_order(30, seed=0, epoch=0), order)


@pytest.mark.parametrize(
    ("shape", "count", "pad"), [((4, 8, 8, 3), 4, -1), ((4, 8, 8, 3), 3, 0), ((8, 8, 3), 8, 0)]
)
def test_wrong_pad_or_shape_raises(shape: tuple[int, ...], count: int, pad: int) -> None:
    with pytest.raises(errors.InputError):
        augment(random_images(shape), jnp.arange(count), seed=0, epoch=0, pad=pad, flip=False)


@pytest.mark.parametrize("leading", [(), (5,), (2, 5)])
@pytest.mark.parametrize("channels", [1, 3])
def test_normalize_matches_its_formula(leading: tuple[int, ...], channels: int) -> None:
    images = random_images((*leading, 4, 3, channels))
    mean, std = np.linspace(0.2, 0.5, channels), np.linspace(0.1, 0.3, channels)
    expected = (images.astype(np.float64) / 255 - mean) / std
    result = normalize(images, mean.astype(np.float32), std.astype(np.float32))
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


def test_normalize_with_wrong_number_of_channels_raises() -> None:
    with pytest.raises(errors.InputError, match="one value per channel"):
        normalize(jnp.zeros((2, 4, 4, 3), jnp.uint8), jnp.zeros(1), jnp.ones(1))
