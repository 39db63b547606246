"""The image galleries of a page."""

import base64
import io

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image
from support import sample_runs

from kdjax import selective
from kdjax.report import page
from kdjax.report.page import gallery


def pixels(image):
    """Returns the image in a data URI."""
    head, _, content = image.source.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def rows_of(shown, images):
    """Returns the rows of the shown images, all of which differ."""
    flat = images.reshape(len(images), -1)
    return [int(np.flatnonzero((flat == pixels(image).ravel()).all(axis=1))[0]) for image in shown]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_keep_their_pixels(written, channels):
    images = sample_runs.images(200, (6, 5, channels))
    for image in gallery.errors(written.run, images):
        assert pixels(image).shape == ((6, 5) if channels == 1 else (6, 5, channels))
        assert rows_of([image], images)


def test_abstentions_are_in_order_of_increasing_confidence(written):
    run, images = written.run, sample_runs.images(200)
    shown = gallery.abstentions(run, images)
    confidence = run.confidence[run.best_score]
    expected = sorted(
        np.flatnonzero(confidence < run.operating_point.threshold), key=lambda row: confidence[row]
    )
    assert rows_of(shown, images) == expected[: gallery.MAX_IMAGES]
    assert not any(image.accepted for image in shown)


def test_errors_are_in_order_of_decreasing_confidence_with_label_and_prediction(written):
    run, images = written.run, sample_runs.images(200)
    shown = gallery.errors(run, images)
    confidence = run.confidence[run.best_score]
    errors = sorted(np.flatnonzero(~run.correct), key=lambda row: -confidence[row])
    expected = errors[: gallery.MAX_IMAGES]
    assert rows_of(shown, images) == expected
    for image, row in zip(shown, expected, strict=True):
        assert image.label == run.classes[run.test.labels[row]] != image.predicted
        assert image.predicted == run.classes[run.predicted[row]]
        assert image.confidence == selective.shown(run.best_score, confidence[row])
        assert image.accepted == run.accepted[row]


def test_without_a_certified_threshold_all_images_are_abstentions(written):
    run, images = sample_runs.without_guarantee(written.run), sample_runs.images(200)
    least = np.argsort(run.confidence[run.best_score], kind="stable")[: gallery.MAX_IMAGES]
    assert_array_equal(rows_of(gallery.abstentions(run, images), images), least)


def test_galleries_are_empty_without_errors_and_abstentions(tmp_path):
    run = page.read(sample_runs.write(tmp_path, draw=sample_runs.all_correct))
    images = sample_runs.images(200)
    assert run.accepted.all()
    assert gallery.abstentions(run, images) == gallery.errors(run, images) == []
