"""An exported model that predicts the brightest of three colours, and pictures for it."""

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.export import card, formats

CLASSES = ("red", "green", "blue")
SHAPE = (4, 5, 3)


def function(threshold: float) -> formats.Function:
    """Returns the function of the model; its confidence is the brightness of the colour."""

    def apply(images: jax.Array) -> tuple[jax.Array, ...]:
        colours = jnp.mean(images.astype(jnp.float32), axis=(1, 2)) / 255
        logits = jnp.pad(colours, [(0, 0), (0, 1)])
        confidence = jnp.max(colours, axis=-1)
        return logits, jnp.argmax(colours, -1).astype(jnp.int32), confidence, confidence > threshold

    return apply


def write(folder: pathlib.Path, content: bytes, **changes: Any) -> pathlib.Path:
    """Writes the folder of a model with the given StableHLO file; returns the folder."""
    folder.mkdir()
    (folder / formats.STABLEHLO).write_bytes(content)
    model_card = {
        **dict.fromkeys(set(card.FIELDS) - card.OPTIONAL),
        "format": card.FORMAT,
        "jax": jax.__version__,
        "classes": list(CLASSES),
        "input": {"shape": list(SHAPE)},
        "threshold": 0.5,
        "files": {formats.STABLEHLO: {"sha256": card.sha256(content)}},
        **changes,
    }
    (folder / card.FILE_NAME).write_text(json.dumps(model_card))
    return folder


def pictures(labels: Any, brightness: Any) -> np.ndarray:
    """Returns images of one colour each, uint8 [n, h, w, c].

    Args:
        labels: of the colours, [n].
        brightness: of each, 0 to 255, [n].
    """
    images = np.zeros((len(labels), *SHAPE), np.uint8)
    rows = np.arange(len(labels))
    images[rows, :, :, labels] = np.asarray(brightness)[:, None, None]
    return images
