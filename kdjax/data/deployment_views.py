"""Deployment views: versions of an image over which the logits of a network are averaged.

A trained network is evaluated, certified, exported and used with the same views,
`config.selective.views`. Training does not use them; see `augment.py` for its augmentation.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.data.augment import Augmentation
from kdjax.errors import InputError, unknown_name_error

NONE, FLIP, SHIFT = "none", "flip", "shift"
NAMES = (NONE, FLIP, SHIFT)
AUTO = "auto"  # in a config: `flip` if training mirrors images, `none` otherwise


class View(NamedTuple):
    """A version of an image: moved, with zeros at the free edge, and then mirrored.

    These are augmentations of training, see `augment.apply_augmentation`.

    Attributes:
        down: pixels by which the image is moved down; negative: up.
        right: pixels by which it is moved to the right before it is mirrored; negative: left.
        mirrored: whether it is mirrored left to right.
    """

    down: int = 0
    right: int = 0
    mirrored: bool = False


IDENTITY = View()
_SHIFTS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))


def resolve(name: str, *, flip: bool) -> str:
    """Returns the name of the views that a config means.

    Args:
        name: `auto` or one of `NAMES`.
        flip: whether training mirrors images, `config.data.flip`.
    """
    if name != AUTO:
        return name
    return FLIP if flip else NONE


def views(name: str, *, flip: bool) -> tuple[View, ...]:
    """Returns the views of a name, the image itself first.

    `none`: the image. `flip`: the image and its mirror image. `shift`: the image, and the image
    moved by one pixel up, down, left and right; if training mirrors images, also the mirror image
    of each of these five.

    Args:
        name: one of `NAMES`.
        flip: whether training mirrors images, `config.data.flip`; only `shift` depends on it.

    Raises:
        InputError: for another name.

    Source: averaging over mirror images and shifts by a pixel: K. Jordan, "94% on CIFAR-10 in 3.29
    Seconds on a Single GPU", arXiv 2404.00498.
    """
    if name not in NAMES:
        raise unknown_name_error("views", name, NAMES)
    shifts = _SHIFTS if name == SHIFT else _SHIFTS[:1]
    mirror = (False, True) if name == FLIP or (name == SHIFT and flip) else (False,)
    return tuple(View(*shift, mirrored) for mirrored in mirror for shift in shifts)


def describe(name: str, *, flip: bool) -> str:
    """Returns the views of a name in words."""
    mirrored = " and mirrored" if flip else ""
    return {
        NONE: "the image alone",
        FLIP: "the image and its mirror image",
        SHIFT: f"the image, moved by one pixel in four directions{mirrored}",
    }[name]


def apply_view(images: Any, view: View) -> jax.Array:
    """Returns a view of each image.

    Args:
        images: uint8 [n, h, w, c], n may be unknown to the tracer.
        view: which one.

    Returns:
        uint8 [n, h, w, c].

    Raises:
        InputError: for another number of axes.
    """
    images = jnp.asarray(images)
    if images.ndim != 4:
        raise InputError(f"images {images.shape}: must be [n, h, w, c]")
    _, height, width, _ = images.shape
    vertical, horizontal = (abs(pixels) for pixels in (view.down, view.right))
    padded = jnp.pad(images, ((0, 0), (vertical, vertical), (horizontal, horizontal), (0, 0)))
    top, left = vertical - view.down, horizontal - view.right
    moved = padded[:, top : top + height, left : left + width]
    return jnp.flip(moved, axis=2) if view.mirrored else moved


def average_logits(
    network: Callable[[Any], Any], images: Any, views: Sequence[View] = (IDENTITY,)
) -> jax.Array:
    """Returns the mean logits of a network over views of each image, in float32.

    z = (1 / V) sum_v network(view_v(x)), over all outputs. The views are one batch of V n images,
    so that an exported program contains the network once.

    Args:
        network: uint8 [k, h, w, c] -> [k, outputs]; a function of JAX, or one on the host such as
            a session of ONNX Runtime.
        images: uint8 [n, h, w, c].
        views: V views, of `views`.

    Returns:
        [n, outputs]; float32, or for a single view what the network returns.

    Raises:
        InputError: without a view.
    """
    if not views:
        raise InputError("no views: at least one is needed")
    if tuple(views) == (IDENTITY,):
        return network(images)
    batch = jnp.concatenate([apply_view(images, view) for view in views])
    logits = jnp.asarray(network(batch), jnp.float32)
    by_view = logits.reshape(len(views), images.shape[0], logits.shape[-1])
    return jnp.mean(by_view, axis=0)


def augmentation(views: Sequence[View]) -> tuple[Augmentation, tuple[int, ...]]:
    """Returns the views as augmentations of training: their kind, and the number of each.

    Args:
        views: of `views`.

    Returns:
        The augmentation and the numbers for `augment.apply_augmentation`.
    """
    pad = max(max(abs(view.down), abs(view.right)) for view in views)
    flip = any(view.mirrored for view in views)
    numbers = tuple(
        ((pad - view.down) * (2 * pad + 1) + pad - view.right) * (1 + flip) + view.mirrored
        for view in views
    )
    return Augmentation(pad=pad, flip=flip), numbers


def mean_logits(logits: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the mean of the logits of several views, float32 [n, outputs], on the host."""
    return np.mean(np.stack(logits).astype(np.float32), axis=0)
