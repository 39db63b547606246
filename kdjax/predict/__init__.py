"""Labels, or abstention, from a model that was taken away: `load(path)(images)`."""

import math
import os
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from kdjax import card, formats
from kdjax.errors import InputError

BATCH_SIZE = 256
Shape = tuple[int, int, int]


class Prediction(NamedTuple):
    """What a model says of n images.

    Attributes:
        labels: str [n], the names of the most probable classes, also where it abstains.
        classes: int32 [n], the same as numbers.
        confidence: float32 [n], higher = more confident.
        accepted: bool [n]; where false, the model abstains.
        logits: float32 [n, m+1], the last column abstention.
    """

    labels: np.ndarray
    classes: np.ndarray
    confidence: np.ndarray
    accepted: np.ndarray
    logits: np.ndarray


def check(images: np.ndarray, shape: Shape) -> None:
    """Refuses images that a model does not take.

    Args:
        images: uint8 [n, h, w, c], n >= 1.
        shape: h, w, c of the model.

    Raises:
        InputError: for another dtype or shape.
    """
    needed = f"this model needs uint8 [n, {', '.join(map(str, shape))}]"
    if images.dtype != np.uint8:
        raise InputError(f"images of dtype {images.dtype}: {needed}, values 0 to 255")
    if images.shape[1:] != shape or not len(images):
        raise InputError(f"images of shape {images.shape}: {needed}, n at least 1")


class Model(NamedTuple):
    """A model that was taken away, ready to be called.

    Attributes:
        card: what it is, see `kdjax.card.FIELDS`.
        run: of `kdjax.formats`.
        batch_size: images that are run at once.
    """

    card: Mapping[str, Any]
    run: formats.Runner
    batch_size: int

    @property
    def image_shape(self) -> Shape:
        """Height, width and channels of an image."""
        height, width, channels = self.card["input"]["shape"]
        return height, width, channels

    def __call__(self, images: np.ndarray) -> Prediction:
        """Returns what the model says of images.

        Args:
            images: uint8 [n, h, w, c], n >= 1, as a picture file holds them: 0 to 255.

        Raises:
            InputError: for another dtype or shape.
        """
        images = np.asarray(images)
        check(images, self.image_shape)
        batches = [
            self._padded(images[start : start + self.batch_size])
            for start in range(0, len(images), self.batch_size)
        ]
        outputs = formats.Outputs(*map(np.concatenate, zip(*batches, strict=True)))
        names = np.asarray(self.card["classes"])[outputs.label]
        return Prediction(
            names, outputs.label, outputs.confidence, outputs.accepted, outputs.logits
        )

    def _padded(self, images: np.ndarray) -> formats.Outputs:
        """Runs a batch in the size of the next power of two: few sizes are ever compiled."""
        size = 2 ** math.ceil(math.log2(len(images)))
        padded = np.pad(images, [(0, size - len(images)), (0, 0), (0, 0), (0, 0)])
        return formats.Outputs(*(output[: len(images)] for output in self.run(padded)))


def load(path: str | os.PathLike[str], *, batch_size: int = BATCH_SIZE) -> Model:
    """Returns a model that `kdjax.export` wrote, to be called on images.

    Args:
        path: its folder.
        batch_size: images that are run at once, at least 1.

    Raises:
        InputError: for a folder that holds no model, a damaged one, one that this version of
            JAX cannot load, or a batch size below 1.
    """
    if batch_size < 1:
        raise InputError(f"batch_size {batch_size}: must be at least 1")
    folder = pathlib.Path(path)
    about = card.read(folder)
    content = card.read_file(folder, about, formats.STABLEHLO)
    try:
        run = formats.run_stablehlo(content)
    except Exception as error:  # whatever the version that reads it stumbles over
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{str(folder / formats.STABLEHLO)!r} was written by jax {about['jax']} and cannot be "
            f"loaded by jax {jax.__version__} here ({reason}): install that version, or export "
            "the model again with this one"
        ) from error
    if about["threshold"] is None:
        warnings.warn(
            f"the model in {str(folder)!r} abstains on everything: no threshold could be "
            "certified for it, see its card",
            stacklevel=2,
        )
    return Model(about, run, batch_size)
