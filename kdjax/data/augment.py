"""Order, augmentation and normalization of images: pure functions, for use inside jit."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import errors
from kdjax.runtime import compiler, prng

# How `flip` mirrors: at random in every epoch, or each image in every second epoch.
FLIP_MODES = ("random", "alternating")
# Two independent streams of random numbers from one seed.
_ORDER, _AUGMENT = 0, 1


def _epoch_key(stream: int, seed: int | jax.Array, epoch: int | jax.Array) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(prng.key(seed), stream), epoch)


def epoch_order(n: int, *, seed: int | jax.Array, epoch: int | jax.Array) -> jax.Array:
    """Returns the order of the examples in an epoch.

    Args:
        n: number of examples.
        seed: of the run; may be traced.
        epoch: counted from 0; may be traced.

    Returns:
        int32 [n], a permutation of 0..n-1.
    """
    numbers = jnp.arange(n, dtype=jnp.int32)
    with prng.pinned():
        return jax.random.permutation(_epoch_key(_ORDER, seed, epoch), numbers)


@compiler.cached_program()
def order_program(n: int) -> Callable[[int | jax.Array, int], jax.Array]:
    """Returns `(seed, epoch) -> epoch_order` as one program, for use outside jit; replicated.

    Args:
        n: number of examples.
    """

    def order(seed: jax.Array, epoch: int) -> jax.Array:
        return epoch_order(n, seed=seed, epoch=epoch)

    program = compiler.jit(order, "initialize")
    return lambda seed, epoch: program(np.uint32(seed), epoch)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The random transformations of training images, one for each field of `config.data` it names.

    To add one, add a field here and in `config.base()`, and use it in `num_augmentations`,
    `sample_augmentation` and `apply_augmentation`.

    Attributes:
        pad: pixels of zeros on each side before the random crop, >= 0.
        flip: whether images are mirrored left and right.
        flip_mode: one of `FLIP_MODES`.
    """

    pad: int
    flip: bool
    flip_mode: str = "random"


def num_augmentations(augmentation: Augmentation) -> int:
    """Returns the number of distinct augmentations of an image: every crop, mirrored or not."""
    return (2 * augmentation.pad + 1) ** 2 * (1 + augmentation.flip)


def sample_augmentation(
    indices: jax.Array,
    *,
    seed: int | jax.Array,
    epoch: int | jax.Array,
    augmentation: Augmentation,
) -> jax.Array:
    """Returns the number of the augmentation of each image in an epoch, uniformly distributed.

    With `flip_mode` alternating, an image is mirrored at random in epoch 0, and in every second
    epoch from there on (arXiv 2404.00498): both forms are seen equally often.

    It depends only on (seed, epoch, index in the data set), not on the batch, so it is the same
    for every batch size and number of devices.

    Args:
        indices: int32 [b], index of each image in its data set.
        seed: of the run; may be traced.
        epoch: counted from 0; may be traced.
        augmentation: the transformations.

    Returns:
        int32 [b], from 0 to `num_augmentations(augmentation) - 1`.

    Raises:
        InputError: if `augmentation.pad` is negative.
    """
    pad, flip = augmentation.pad, augmentation.flip
    if pad < 0:
        raise errors.InputError(f"pad is {pad}: must be 0 or more pixels")
    limits = jnp.array([2 * pad + 1, 2 * pad + 1, 1 + flip], jnp.int32)

    def draw(epoch: int | jax.Array) -> jax.Array:
        key = _epoch_key(_AUGMENT, seed, epoch)
        keys = jax.vmap(functools.partial(jax.random.fold_in, key))(indices)
        return jax.vmap(lambda key: jax.random.randint(key, (3,), 0, limits, jnp.int32))(keys).T

    with prng.pinned():
        top, left, mirrored = draw(epoch)
        if flip and augmentation.flip_mode == "alternating":
            mirrored = (draw(0)[2] + epoch) % 2
    return (top * (2 * pad + 1) + left) * (1 + flip) + mirrored


def apply_augmentation(
    images: jax.Array, number: jax.Array, *, augmentation: Augmentation
) -> jax.Array:
    """Crops each image from its zero-padded version and mirrors it, as its number says.

    Args:
        images: uint8 [b, h, w, c].
        number: int32 [b], of `sample_augmentation`.
        augmentation: the transformations.

    Returns:
        uint8 [b, h, w, c].

    Raises:
        InputError: if a shape does not fit.
    """
    if images.ndim != 4 or number.shape != images.shape[:1]:
        raise errors.InputError(
            f"images {images.shape} and number {number.shape}: must be [b, h, w, c] and [b]"
        )
    crop, mirrored = jnp.divmod(number, 1 + augmentation.flip)
    top, left = jnp.divmod(crop, 2 * augmentation.pad + 1)
    return _crop(images, top, left, mirrored, augmentation.pad)


def _crop(
    images: jax.Array, top: jax.Array, left: jax.Array, mirrored: jax.Array, pad: int
) -> jax.Array:
    # A single gather is faster on the CPU than dynamic_slice and a select. Under vmap, the result
    # keeps the sharding of the batch.
    _, h, w, _ = images.shape
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows = jnp.arange(h)[None, :] + top[:, None]
    columns = jnp.arange(w)[None, :]
    columns = jnp.where(mirrored[:, None] == 1, w - 1 - columns, columns) + left[:, None]
    return jax.vmap(lambda image, r, c: image[r[:, None], c[None, :]])(padded, rows, columns)


def normalize(images: jax.Array, mean: jax.Array, std: jax.Array) -> jax.Array:
    """Returns the images with zero mean and unit variance per channel: (x / 255 - mean) / std.

    Args:
        images: uint8 [..., h, w, c].
        mean: float32 [c], in units of full brightness (255).
        std: float32 [c], in the same units.

    Returns:
        float32 [..., h, w, c].

    Raises:
        InputError: if `mean` or `std` does not have one value per channel.
    """
    channels = images.shape[-1:]
    if mean.shape != channels or std.shape != channels:
        raise errors.InputError(
            f"mean {mean.shape} and std {std.shape}: must be {channels}, one value per channel"
        )
    per_channel = (1,) * (images.ndim - 1) + channels
    shift, scale = (jnp.asarray(x, jnp.float32).reshape(per_channel) for x in (mean, std))
    return (images.astype(jnp.float32) / 255.0 - shift) / scale
