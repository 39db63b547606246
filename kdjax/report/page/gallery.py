"""Test images embedded in the page: abstentions, and the most confident errors."""

import base64
import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from kdjax import selective
from kdjax.report.page.runs import Run

MAX_IMAGES = 24


class GalleryImage(NamedTuple):
    """A test image with its prediction.

    Attributes:
        source: a data URI with the image as PNG, at its own resolution.
        label: the true class.
        predicted: the predicted class.
        confidence: by the score of the operating point.
        accepted: whether the prediction is accepted.
    """

    source: str
    label: str
    predicted: str
    confidence: float
    accepted: bool


def abstentions(run: Run, images: np.ndarray) -> list[GalleryImage]:
    """Returns the test images on which the run abstains, least confident first.

    Args:
        run: of these images.
        images: of the test split, uint8 `[n, h, w, c]`, c of 1, 3 or 4.
    """
    return _gallery(run, images, ~run.accepted, ascending=True)


def errors(run: Run, images: np.ndarray) -> list[GalleryImage]:
    """Returns the misclassified test images, most confident first.

    Args:
        run: of these images.
        images: as in `abstentions`.
    """
    return _gallery(run, images, ~run.correct, ascending=False)


def _gallery(
    run: Run, images: np.ndarray, selected: np.ndarray, *, ascending: bool
) -> list[GalleryImage]:
    confidence, rows = run.confidence[run.best_score], np.flatnonzero(selected)
    order = np.argsort(confidence[rows] * (1 if ascending else -1), kind="stable")
    return [
        GalleryImage(
            _data_uri(images[row]),
            run.classes[run.test.labels[row]],
            run.classes[run.predicted[row]],
            float(selective.shown(run.best_score, confidence[row])),
            bool(run.accepted[row]),
        )
        for row in rows[order[:MAX_IMAGES]]
    ]


def _data_uri(image: np.ndarray) -> str:
    content = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(content, "png")
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
