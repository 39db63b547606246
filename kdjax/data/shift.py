"""Image corruptions that simulate a distribution shift: pure functions, for use inside jit."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from kdjax import checks, errors
from kdjax.runtime import prng

SEVERITIES = (1, 2, 3, 4, 5)
# Radius of the blur in pixels: four standard deviations of the strongest, as in CIFAR-10-C.
RADIUS = 4

Shift = Callable[..., jax.Array]


def noise(image: jax.Array, key: jax.Array, sigma: jax.Array) -> jax.Array:
    """Adds Gaussian noise, independent for every pixel and channel.

    x + 255 sigma e, e ~ N(0, 1).

    Args:
        image: x, float32 [h, w, c], 0 to 255.
        key: random key.
        sigma: standard deviation, in units of full brightness (255).

    Returns:
        float32 [h, w, c].

    Source: Hendrycks, Dietterich, ICLR 2019, arXiv 1903.12261.
    """
    return image + 255 * sigma * jax.random.normal(key, image.shape, jnp.float32)


def blur(image: jax.Array, key: jax.Array, sigma: jax.Array) -> jax.Array:
    """Applies a Gaussian blur; the image is extended by its edge pixels.

    sum_d w_d x[i + d] along rows, then columns; w_d ~ exp(-d^2 / (2 sigma^2)), |d| <= RADIUS.

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
        margin = [(RADIUS * (axis == dimension),) * 2 for dimension in range(3)]
        padded, size = jnp.pad(image, margin, mode="edge"), image.shape[axis]
        # XLA fuses a sum of shifted images into one loop, but not a convolution of few channels.
        image = sum(
            weight * jax.lax.dynamic_slice_in_dim(padded, start, size, axis)
            for start, weight in enumerate(weights)
        )
    return image


def contrast(image: jax.Array, key: jax.Array, factor: jax.Array) -> jax.Array:
    """Scales the contrast of each channel around its mean over the image.

    mean + factor (x - mean).

    Args:
        image: x, float32 [h, w, c].
        key: not used.
        factor: 0 to 1; 1 leaves the image unchanged.

    Returns:
        float32 [h, w, c].

    Source: Hendrycks, Dietterich, ICLR 2019, arXiv 1903.12261.
    """
    mean = jnp.mean(image, axis=(0, 1), keepdims=True)
    return mean + factor * (image - mean)


def rotation(image: jax.Array, key: jax.Array, degrees: jax.Array) -> jax.Array:
    """Rotates the image about its centre in a random direction, with bilinear interpolation.

    The image is extended by its edge pixels, because black corners would be a second corruption.

    Args:
        image: float32 [h, w, c].
        key: random key, for the direction.
        degrees: the angle.

    Returns:
        float32 [h, w, c].
    """
    clockwise = jax.random.bernoulli(key, jnp.float32(0.5))
    angle = jnp.deg2rad(degrees) * jnp.where(clockwise, jnp.float32(1), jnp.float32(-1))
    centre = [(size - 1) / 2 for size in image.shape[:2]]
    down, right = (
        grid - middle
        for grid, middle in zip(jnp.indices(image.shape[:2], jnp.float32), centre, strict=True)
    )
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    source = [centre[0] + cosine * down + sine * right, centre[1] + cosine * right - sine * down]
    rotate = jax.vmap(lambda channel: map_coordinates(channel, source, 1, "nearest"), -1, -1)
    return rotate(image)


def _at_severities(
    corrupt: Callable[[jax.Array, jax.Array, jax.Array], jax.Array], strengths: tuple[float, ...]
) -> Shift:
    """Returns the shift that applies a corruption with one strength for each severity."""

    def shift(
        images: jax.Array,
        indices: jax.Array,
        *,
        severity: int | jax.Array,
        seed: int | jax.Array,
    ) -> jax.Array:
        if images.ndim != 4 or indices.shape != images.shape[:1]:
            raise errors.InputError(
                f"images {images.shape} and indices {indices.shape}: must be [b, h, w, c] and [b]"
            )
        if checks.concrete(severity) and severity not in SEVERITIES:
            raise errors.InputError(f"severity {severity}: must be one of {SEVERITIES}")
        key = prng.key(seed)
        keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(indices)
        strength = jnp.asarray(strengths, jnp.float32)[severity - 1]
        corrupt_batch = jax.vmap(lambda image, image_key: corrupt(image, image_key, strength))
        with prng.pinned():
            pixels = corrupt_batch(images.astype(jnp.float32), keys)
        return jnp.clip(jnp.round(pixels), 0, 255).astype(jnp.uint8)

    return shift


# Name -> `(images uint8 [b, h, w, c], indices int32 [b], *, severity, seed) -> uint8 [b, h, w, c]`
# with the indices of the images in their data set. The result for an image depends only on (seed,
# index, severity), not on the batch, and the random numbers are the same at every severity.
# Severity and seed may be traced, so that one program is compiled for all of them.
#
# The first three have the strengths of CIFAR-10-C: the corruptions of arXiv 1903.12261, with the
# numbers of the authors' code. The angles are our choice: at 50 degrees a 6 is still a 6.
SHIFTS: Mapping[str, Shift] = {
    "noise": _at_severities(noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "blur": _at_severities(blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "contrast": _at_severities(contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "rotation": _at_severities(rotation, (10.0, 20.0, 30.0, 40.0, 50.0)),
}
