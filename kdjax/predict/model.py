"""An exported model as a function of images."""

import math
import os
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy.special

from kdjax.data.fit import STRETCH
from kdjax.errors import InputError
from kdjax.export import card, formats
from kdjax.paths import user_path
from kdjax.predict.inputs import Shape, to_pixels
from kdjax.predict.sets import Sets, sets_of
from kdjax.selective.scales import on_scale

BATCH_SIZE = 256


class Prediction(NamedTuple):
    """Predictions for n images.

    Attributes:
        labels: str [n], names of the most probable classes, also for abstained images.
        classes: int32 [n], numbers of the most probable classes.
        confidence: float32 [n]; higher is more confident. A probability or margin if the score of
            the model is one in the log domain, see `selective.shown`.
        accepted: bool [n]; false: the model abstains.
        logits: float32 [n, m+1]; the last column is abstention; [n, m] of a teacher.
        probabilities: float32 [n, m], of the classes: the softmax of the logits without abstention.
        score: float32 [n], what the model compares with the threshold of its card; unlike a
            probability it has no ties near 1.
        outlier: bool [n], whether the gate of the model stops the image, which is then not
            accepted; None for a model without a gate.
        gate_score: float32 [n], what the gate compares with its threshold, or None.
        sets: for each image a tuple of class names by falling probability: the label alone of an
            accepted image, and the prediction set of an abstained one; empty if the gate stops it.
            None for a model without prediction sets, which an earlier version exported.
    """

    labels: np.ndarray
    classes: np.ndarray
    confidence: np.ndarray
    accepted: np.ndarray
    logits: np.ndarray
    probabilities: np.ndarray
    score: np.ndarray
    outlier: np.ndarray | None = None
    gate_score: np.ndarray | None = None
    sets: Sets | None = None


class Model(NamedTuple):
    """An exported model; call it on images.

    Attributes:
        card: the model card, see `kdjax.export.card.FIELDS`.
        run: runs the model on a batch, see `kdjax.export.formats`.
        batch_size: largest number of images in a batch.
    """

    card: Mapping[str, Any]
    run: formats.Runner
    batch_size: int

    @property
    def image_shape(self) -> Shape:
        """Height, width and channels of an image."""
        height, width, channels = self.card["input"]["shape"]
        return height, width, channels

    @property
    def resize(self) -> str:
        """How image files of other sizes are resized, see `kdjax.data.fit.fit`."""
        return self.card["input"].get("fit", STRETCH)

    def __call__(self, images: Any, *, with_sets: bool = True) -> Prediction:
        """Returns the predictions for images.

        Args:
            images: uint8 [n, h, w, c], n >= 1, values 0 to 255; or one or several paths of image
                files or Pillow images of any size and mode, which are decoded and resized as in
                training.
            with_sets: whether to make `Prediction.sets`, which is None otherwise.

        Raises:
            InputError: for an array of another dtype or shape, or a file that cannot be read.
        """
        pixels = to_pixels(images, self.image_shape, self.resize)
        batches = [
            self._padded(pixels[start : start + self.batch_size])
            for start in range(0, len(pixels), self.batch_size)
        ]
        outputs = formats.concatenate(batches)
        scale = (self.card["score"] or {}).get("scale")
        return Prediction(
            labels=np.asarray(self.card["classes"])[outputs.label],
            classes=outputs.label,
            confidence=on_scale(scale, outputs.confidence).astype(np.float32),
            accepted=outputs.accepted,
            logits=outputs.logits,
            probabilities=scipy.special.softmax(
                outputs.logits[:, : len(self.card["classes"])], axis=1
            ),
            score=outputs.confidence,
            outlier=outputs.outlier,
            gate_score=outputs.gate_score,
            sets=self._sets(outputs) if with_sets else None,
        )

    def _sets(self, outputs: formats.Outputs) -> Sets | None:
        return sets_of(
            self.card, outputs.logits, outputs.confidence, outputs.accepted, outputs.outlier
        )

    def _padded(self, images: np.ndarray) -> formats.Outputs:
        """Runs a batch padded to a power of two or `batch_size`: few sizes are compiled."""
        size = min(2 ** math.ceil(math.log2(len(images))), self.batch_size)
        padded = np.pad(images, [(0, size - len(images)), (0, 0), (0, 0), (0, 0)])
        outputs = self.run(padded)
        given = [output[: len(images)] for output in outputs if output is not None]
        return formats.Outputs(*given)


def load(path: str | os.PathLike[str], *, batch_size: int = BATCH_SIZE) -> Model:
    """Loads a model that `kdjax.export` wrote; a warning says so if it abstains on every image.

    Args:
        path: folder of the model.
        batch_size: largest number of images in a batch, >= 1.

    Raises:
        InputError: for a missing or damaged model, one that this version of JAX cannot load, or a
            batch size below 1.
    """
    model = load_part(path, batch_size=batch_size)
    if model.card["threshold"] is None:
        warnings.warn(
            f"the model in {str(user_path(path))!r} abstains on every image: no threshold could be "
            f"certified, see {card.FILE_NAME}",
            stacklevel=2,
        )
    return model


def load_part(path: str | os.PathLike[str], *, batch_size: int = BATCH_SIZE) -> Model:
    """Loads a model as a part of a cascade, where it may abstain on every image; see `load`."""
    if batch_size < 1:
        raise InputError(f"batch_size {batch_size}: must be at least 1")
    folder = user_path(path)
    model_card = card.read(folder)
    content = card.read_file(folder, model_card, formats.STABLEHLO)
    jax.devices()  # an error of the device is not one of the model
    try:
        run, shape = formats.run_stablehlo(content), formats.input_shape(content)
    except Exception as error:  # the type depends on the version of JAX
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{str(folder / formats.STABLEHLO)!r} was written by jax {model_card['jax']} and cannot"
            f" be loaded by the installed jax {jax.__version__} ({reason}): install that version, "
            "or export the model again with the installed one"
        ) from error
    model = Model(model_card, run, batch_size)
    if model.image_shape != shape:
        raise InputError(
            f"{str(folder / card.FILE_NAME)!r} is damaged: 'input' has the shape "
            f"{list(model.image_shape)}, but {formats.STABLEHLO} takes images of {list(shape)}"
        )
    return model
