"""Test images inside a page: what a run abstains on, and its most confident mistakes."""

import base64
import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from kdjax.report.page.runs import Run

MOST = 24


class Picture(NamedTuple):
    """An image and what the run made of it.

    Attributes:
        source: a data URI, PNG, one pixel for each of the image's.
        label: the true class.
        predicted: the run's class, which it may not give as an answer.
        confidence: of the score that the run goes by.
        answered: whether the run answers.
    """

    source: str
    label: str
    predicted: str
    confidence: float
    answered: bool


def abstained(run: Run, images: np.ndarray) -> list[Picture]:
    """Returns the images that the run abstains on, the least confident first.

    Args:
        run: of these images.
        images: the test split's, uint8 `[n, h, w, c]`, c of 1, 3 or 4.
    """
    return _pictures(run, images, ~run.accepted, least=True)


def mistakes(run: Run, images: np.ndarray) -> list[Picture]:
    """Returns the images whose prediction is wrong, the most confident first.

    Args:
        run: of these images.
        images: as of `abstained`.
    """
    return _pictures(run, images, ~run.right, least=False)


def _pictures(run: Run, images: np.ndarray, rows: np.ndarray, *, least: bool) -> list[Picture]:
    confidence, candidates = run.confidence[run.best], np.flatnonzero(rows)
    order = np.argsort(confidence[candidates] * (1 if least else -1), kind="stable")
    return [
        Picture(
            _uri(images[row]),
            run.classes[run.test.labels[row]],
            run.classes[run.predicted[row]],
            float(confidence[row]),
            bool(run.accepted[row]),
        )
        for row in candidates[order[:MOST]]
    ]


def _uri(image: np.ndarray) -> str:
    content = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(content, "png")
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
