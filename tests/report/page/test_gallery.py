"""The pictures of a page."""

import base64
import io

import numpy as np
import pytest
import sample_runs
from numpy.testing import assert_array_equal
from PIL import Image

from kdjax.report import page
from kdjax.report.page import gallery


def pixels(picture):
    """The image in a data URI."""
    head, _, content = picture.source.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def rows_of(pictures, images):
    """Which images were shown; all are different."""
    flat = images.reshape(len(images), -1)
    return [int(np.flatnonzero((flat == pixels(one).ravel()).all(axis=1))[0]) for one in pictures]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_are_shown_pixel_by_pixel(written, channels):
    images = sample_runs.images(200, (6, 5, channels))
    for picture in gallery.mistakes(written.run, images):
        assert pixels(picture).shape == ((6, 5) if channels == 1 else (6, 5, channels))
        assert rows_of([picture], images)


def test_the_least_confident_of_those_it_abstains_on_come_first(written):
    run, images = written.run, sample_runs.images(200)
    shown = gallery.abstained(run, images)
    confidence = run.confidence[run.best]
    expected = sorted(np.flatnonzero(confidence < run.threshold), key=lambda row: confidence[row])
    assert rows_of(shown, images) == expected[: gallery.MOST]
    assert not any(one.answered for one in shown)


def test_the_most_confident_mistakes_come_first_with_label_and_prediction(written):
    run, images = written.run, sample_runs.images(200)
    shown = gallery.mistakes(run, images)
    confidence = run.confidence[run.best]
    expected = sorted(np.flatnonzero(~run.right), key=lambda row: -confidence[row])[: gallery.MOST]
    assert rows_of(shown, images) == expected
    for one, row in zip(shown, expected, strict=True):
        assert one.label == run.classes[run.test.labels[row]] != one.predicted
        assert one.predicted == run.classes[run.predicted[row]]
        assert one.confidence == confidence[row]
        assert one.answered == run.accepted[row]


def test_without_a_threshold_it_abstains_on_all(written):
    run, images = written.run._replace(guarantee=None), sample_runs.images(200)
    least = np.argsort(run.confidence[run.best], kind="stable")[: gallery.MOST]
    assert_array_equal(rows_of(gallery.abstained(run, images), images), least)


def test_a_run_that_is_always_right_and_sure_has_nothing_to_show(tmp_path):
    run = page.read(sample_runs.write(tmp_path, draw=sample_runs.all_right))
    images = sample_runs.images(200)
    assert run.accepted.all()
    assert gallery.abstained(run, images) == gallery.mistakes(run, images) == []
