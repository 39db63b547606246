"""Order, augmentation and normalization of examples: pure functions, for use inside jit."""

import jax
import jax.numpy as jnp

from kdjax import errors

# Two independent streams of random numbers from one seed.
_ORDER, _AUGMENT = 0, 1


def _epoch_key(stream: int, seed: int | jax.Array, epoch: int | jax.Array) -> jax.Array:
    # The generator is named, so that a process with another default sees the same examples.
    key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), stream)
    return jax.random.fold_in(key, epoch)


def epoch_order(n: int, *, seed: int | jax.Array, epoch: int | jax.Array) -> jax.Array:
    """Returns the order in which one epoch visits the examples.

    Args:
        n: the number of examples.
        seed: the run's seed; may be traced.
        epoch: counted from 0; may be traced.

    Returns:
        int32[n], a permutation of 0..n-1.
    """
    return jax.random.permutation(_epoch_key(_ORDER, seed, epoch), jnp.arange(n, dtype=jnp.int32))


def views(pad: int, flip: bool) -> int:
    """Returns how many different views of an image there are: every crop, mirrored or not."""
    return (2 * pad + 1) ** 2 * (1 + flip)


def view_of(
    index: jax.Array, *, seed: int | jax.Array, epoch: int | jax.Array, pad: int, flip: bool
) -> jax.Array:
    """Returns which view of each image an epoch shows, every one as likely as the others.

    It depends on (seed, epoch, its place in the data set) alone, never on the batch it comes in,
    so another batch size or number of devices sees the same images.

    Args:
        index: int32[b], the place of each image in its data set.
        seed: the run's seed; may be traced.
        epoch: counted from 0; may be traced.
        pad: pixels of zeros on each side, >= 0.
        flip: whether images are mirrored left and right.

    Returns:
        int32[b], each below `views`.

    Raises:
        InputError: if `pad` is negative.
    """
    if pad < 0:
        raise errors.InputError(f"pad is {pad}: must be 0 or more pixels")
    key = _epoch_key(_AUGMENT, seed, epoch)
    below = jnp.array([2 * pad + 1, 2 * pad + 1, 1 + flip])
    draw = jax.vmap(lambda i: jax.random.randint(jax.random.fold_in(key, i), (3,), 0, below))
    top, left, mirrored = draw(index).T
    return (top * (2 * pad + 1) + left) * (1 + flip) + mirrored


def as_view(images: jax.Array, view: jax.Array, *, pad: int, flip: bool) -> jax.Array:
    """Crops each image out of its zero-padded self and mirrors it, as its view says.

    Args:
        images: uint8[b, h, w, c].
        view: int32[b], below `views`.
        pad, flip: as in `view_of`.

    Returns:
        uint8[b, h, w, c].

    Raises:
        InputError: if a shape does not fit.
    """
    if images.ndim != 4 or view.shape != images.shape[:1]:
        raise errors.InputError(
            f"images {images.shape} and view {view.shape}: must be [b, h, w, c] and [b]"
        )
    crop, mirrored = jnp.divmod(view, 1 + flip)
    top, left = jnp.divmod(crop, 2 * pad + 1)
    return _crop(images, top, left, mirrored, pad)


def _crop(
    images: jax.Array, top: jax.Array, left: jax.Array, mirrored: jax.Array, pad: int
) -> jax.Array:
    # One gather: faster on the CPU than dynamic_slice and a select. Under vmap, because then a
    # batch that is sharded over devices stays so.
    _, h, w, _ = images.shape
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    row = jnp.arange(h)[None, :] + top[:, None]
    column = jnp.arange(w)[None, :]
    column = jnp.where(mirrored[:, None] == 1, w - 1 - column, column) + left[:, None]
    return jax.vmap(lambda image, r, c: image[r[:, None], c[None, :]])(padded, row, column)


def normalize(images: jax.Array, mean: jax.Array, std: jax.Array) -> jax.Array:
    """Returns the images with zero mean and unit variance per channel: (x / 255 - mean) / std.

    Args:
        images: uint8[..., h, w, c].
        mean: float32[c], in units of full brightness (255).
        std: float32[c], in the same units.

    Returns:
        float32[..., h, w, c].

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
