"""Images as they come when something has changed since training: pure functions, for use in jit."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from kdjax import checks, errors

SEVERITIES = (1, 2, 3, 4, 5)
RADIUS = 4  # pixels that a blur reaches: four standard deviations of the strongest, as CIFAR-10-C

Shift = Callable[..., jax.Array]


def noise(image: jax.Array, key: jax.Array, sigma: jax.Array) -> jax.Array:
    """Adds Gaussian noise, independent in every pixel and channel.

    x + 255 sigma e, e ~ N(0, 1).

    Args:
        image: x, float32 [h, w, c], 0 to 255.
        key: of the draw.
        sigma: standard deviation, in units of full brightness (255).

    Returns:
        float32 [h, w, c].

    Source: Hendrycks, Dietterich, ICLR 2019, arXiv 1903.12261.
    """
    return image + 255 * sigma * jax.random.normal(key, image.shape)


def blur(image: jax.Array, key: jax.Array, sigma: jax.Array) -> jax.Array:
    """Averages each pixel with its neighbours, by a Gaussian weight; the edges are continued.

    sum_d w_d x[i + d] down, then across; w_d ~ exp(-d^2 / (2 sigma^2)) over |d| <= RADIUS.

    Args:
        image: x, float32 [h, w, c].
        key: not used.
        sigma: standard deviation, in pixels.

    Returns:
        float32 [h, w, c].

    Source: Hendrycks, Dietterich, ICLR 2019, arXiv 1903.12261.
    """
    weights = jax.nn.softmax(-((jnp.arange(-RADIUS, RADIUS + 1) / sigma) ** 2) / 2)
    for axis in (0, 1):
        margin = [(RADIUS * (axis == other),) * 2 for other in range(3)]
        padded, size = jnp.pad(image, margin, mode="edge"), image.shape[axis]
        # A sum of shifted images compiles to one pass; a convolution of so few channels does not.
        image = sum(
            weight * jax.lax.dynamic_slice_in_dim(padded, start, size, axis)
            for start, weight in enumerate(weights)
        )
    return image


def contrast(image: jax.Array, key: jax.Array, factor: jax.Array) -> jax.Array:
    """Draws each channel towards its mean over the image.

    mean + factor (x - mean).

    Args:
        image: x, float32 [h, w, c].
        key: not used.
        factor: what is left of the contrast, 0 to 1.

    Returns:
        float32 [h, w, c].

    Source: Hendrycks, Dietterich, ICLR 2019, arXiv 1903.12261.
    """
    mean = jnp.mean(image, axis=(0, 1), keepdims=True)
    return mean + factor * (image - mean)


def rotation(image: jax.Array, key: jax.Array, degrees: jax.Array) -> jax.Array:
    """Turns the image about its centre, to one side or the other, bilinearly.

    The edges are continued: black corners would be a shift of their own.

    Args:
        image: float32 [h, w, c].
        key: of the side.
        degrees: the angle.

    Returns:
        float32 [h, w, c].
    """
    angle = jnp.deg2rad(degrees) * jax.random.rademacher(key, (), jnp.float32)
    centre = [(size - 1) / 2 for size in image.shape[:2]]
    down, right = (
        grid - middle for grid, middle in zip(jnp.indices(image.shape[:2]), centre, strict=True)
    )
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    source = [centre[0] + cosine * down + sine * right, centre[1] + cosine * right - sine * down]
    turned = jax.vmap(lambda plane: map_coordinates(plane, source, 1, "nearest"), -1, -1)
    return turned(image)


def _at_severities(
    change: Callable[[jax.Array, jax.Array, jax.Array], jax.Array], strengths: tuple[float, ...]
) -> Shift:
    def shift(
        images: jax.Array,
        index: jax.Array,
        *,
        severity: int | jax.Array,
        seed: int | jax.Array,
    ) -> jax.Array:
        if images.ndim != 4 or index.shape != images.shape[:1]:
            raise errors.InputError(
                f"images {images.shape} and index {index.shape}: must be [b, h, w, c] and [b]"
            )
        if checks.concrete(severity) and severity not in SEVERITIES:
            raise errors.InputError(f"severity {severity}: must be one of {SEVERITIES}")
        # The generator is named, so that a process with another default sees the same images.
        key = jax.random.key(seed, impl="threefry2x32")
        keys = jax.vmap(lambda place: jax.random.fold_in(key, place))(index)
        strength = jnp.asarray(strengths)[severity - 1]
        changed = jax.vmap(lambda image, own: change(image, own, strength))
        pixels = changed(images.astype(jnp.float32), keys)
        return jnp.clip(jnp.round(pixels), 0, 255).astype(jnp.uint8)

    return shift


# `(images uint8 [b, h, w, c], index int32 [b], *, severity, seed) -> uint8 [b, h, w, c]`, `index`
# the places of the images in their data set. What happens to an image depends on (seed, its place,
# severity) alone, never on its batch, and the draw is the same at every severity: only the
# strength differs. Severity and seed may be traced, so that one program serves them all.
#
# The first three have the strengths of CIFAR-10-C: its kinds are those of arXiv 1903.12261, its
# numbers those of the authors' code. The angles are our choice, up to what leaves a 6 a 6.
SHIFTS: Mapping[str, Shift] = {
    "noise": _at_severities(noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "blur": _at_severities(blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "contrast": _at_severities(contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "rotation": _at_severities(rotation, (10.0, 20.0, 30.0, 40.0, 50.0)),
}
