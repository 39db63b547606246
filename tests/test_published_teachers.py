"""experiments/published_teachers.py: its figures by their definitions, and its reading of images.

`test_real_data.py` compares the figures of the published networks with those that are recorded.
"""

import io
import json
import zipfile

import numpy as np
import PIL.Image
import pytest
from scipy.special import softmax
from support.experiments import load, run_main

LABELS = np.array([0, 1, 2, 1, 0, 2, 2, 1])


@pytest.fixture(scope="module")
def published():
    return load("published_teachers")


def logits(seed=0, n=40, classes=4, scale=3.0):
    return (np.random.default_rng(seed).normal(size=(n, classes)) * scale).astype(np.float32)


def labels_of(values, seed=1, wrong=0.25):
    """Returns the predictions, a quarter of them replaced by another class."""
    rng = np.random.default_rng(seed)
    predicted = values.argmax(axis=1)
    return np.where(rng.random(len(values)) < wrong, (predicted + 1) % values.shape[1], predicted)


def area(confidence, right):
    """Returns the mean selective risk over all coverages, without ties."""
    order = np.argsort(-np.asarray(confidence, np.float64))
    errors = np.cumsum(~np.asarray(right)[order])
    return float(np.mean(errors / np.arange(1, len(errors) + 1)))


def test_ranking_has_error_area_and_error_at_80_percent(published):
    confidence, right = np.linspace(1, 0, 10), np.array([1, 1, 1, 0, 1, 1, 1, 1, 0, 0], bool)
    assert published.ranking(confidence, right) == pytest.approx(
        {"error": 30.0, "aurc": 1000 * area(confidence, right), "error_at_80": 12.5}
    )


@pytest.mark.slow
def test_log_odds_rank_like_the_largest_probability(published):
    values = logits()
    top = softmax(values.astype(np.float64), axis=1).max(axis=1)
    np.testing.assert_allclose(published.log_odds(values), np.log(top / (1 - top)), rtol=1e-5)


def test_saturation_counts_probabilities_of_one_and_ties(published):
    """Two images with a float32 probability of 1, three equal ones, one other."""
    values = np.array(
        [[60, 0, 0], [50, 0, 0], [2, 1, 0], [1, 2, 0], [0, 1, 2], [3, 0, 0]], np.float32
    )
    assert published.saturation(values) == pytest.approx(
        {"ones": 100 / 3, "smallest_coverage": 100 / 3, "log_odds_groups": 4, "largest_tie": 3}
    )


@pytest.mark.slow
def test_every_score_has_its_area_and_its_largest_tie(published):
    values = np.concatenate([logits(), logits()[:1]])  # the first image twice
    labels = labels_of(values)
    labels[-1] = labels[0]
    figures = published.every_score(values, labels)
    assert list(figures) == list(published.SCORES)
    assert {each["largest_tie"] for each in figures.values()} == {2}
    right = values.argmax(axis=1) == labels
    assert figures["energy"]["aurc"] == pytest.approx(
        1000 * area(np.log(np.exp(values.astype(np.float64)).sum(axis=1)), right), rel=0.02
    )


def test_student_is_ranked_by_the_teachers_probability_of_its_prediction(published):
    student, teacher = logits(0), logits(5)
    labels = labels_of(student)
    predicted = student.argmax(axis=1)
    probability = softmax(teacher.astype(np.float64), axis=1)[np.arange(len(labels)), predicted]
    expected = 1000 * area(probability, predicted == labels)
    assert published.teacher_ranking(student, teacher, labels) == pytest.approx(expected)


def archive(path, images, size=2):
    """Writes images as sheets of 10 x 10 with their labels, as the published archive does."""
    with zipfile.ZipFile(path, "w") as file:
        for number, start in enumerate(range(0, len(images), 100)):
            sheet = np.zeros((10, 10, size, size, 3), np.uint8)
            part = images[start : start + 100]
            sheet.reshape(100, size, size, 3)[: len(part)] = part
            pixels = sheet.swapaxes(1, 2).reshape(10 * size, 10 * size, 3)
            content = io.BytesIO()
            PIL.Image.fromarray(pixels).save(content, "webp", lossless=True)
            file.writestr(f"test/{number:03}.webp", content.getvalue())
        content = io.BytesIO()
        np.save(content, np.arange(len(images), dtype=np.uint8))
        file.writestr("test_labels.npy", content.getvalue())
        file.writestr("train/000.webp", b"not of this split")
    return path


def test_images_are_read_from_their_sheets_in_order(published, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (130, 2, 2, 3), np.uint8)
    read = published.read_images(archive(tmp_path / "images.zip", images))
    np.testing.assert_array_equal(read.images, images)
    np.testing.assert_array_equal(read.labels, np.arange(130))
    assert read.labels.dtype == np.int64


class Session:
    """A stand-in for an ONNX session whose logits are means of the left and the right half."""

    def __init__(self, path, providers):
        assert providers == ["CPUExecutionProvider"]

    def run(self, outputs, inputs):
        assert outputs == ["logits"]
        images = inputs["images"].astype(np.float32)
        half = images.shape[2] // 2
        means = [part.mean(axis=(1, 2, 3)) for part in (images[:, :, :half], images[:, :, half:])]
        return [np.stack(means, axis=1)]


@pytest.mark.parametrize("views", ["none", "flip"])
def test_logits_of_all_batches_are_averaged_over_views(published, monkeypatch, views):
    monkeypatch.setattr(published.onnxruntime, "InferenceSession", Session)
    images = np.random.default_rng(0).integers(0, 256, (300, 4, 4, 3), np.uint8)
    left, right = images[:, :, :2].mean(axis=(1, 2, 3)), images[:, :, 2:].mean(axis=(1, 2, 3))
    mean = (left + right) / 2  # a mirrored image has the halves exchanged
    expected = [left, right] if views == "none" else [mean, mean]
    found = published.network_logits("network.onnx", images, views)
    np.testing.assert_allclose(found, np.stack(expected, axis=1), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("as_json", [False, True])
def test_tables_and_json_show_the_same_figures(published, tmp_path, monkeypatch, capsys, as_json):
    values = {name: logits(seed, len(LABELS), 3) for seed, name in enumerate(published.NETWORKS)}
    test = published.Images(np.zeros((len(LABELS), 2, 2, 3), np.uint8), LABELS)
    monkeypatch.setattr(published, "read_images", lambda path: test)

    def network_logits(path, images, views):
        name = path.stem.removeprefix("cifar10_")
        return values[name] + (views == "flip")

    monkeypatch.setattr(published, "network_logits", network_logits)
    flags = ["--json"] if as_json else []
    run_main(published, monkeypatch, f"--teachers={tmp_path}", "--data=images.zip", *flags)
    text = capsys.readouterr().out
    every = {(name, views): values[name] for name in values for views in ("none", "flip")}
    expected = published.measure(every, LABELS)
    if as_json:
        assert json.loads(text)["saturation"] == expected["saturation"]
        return
    error = 100 * np.mean(values["resnet20"].argmax(axis=1) != LABELS)
    assert f"| resnet20 | flip | {error:.2f} |" in text
    assert text.count("| `") == len(published.SCORES)
    assert f" -> {expected['ranked_by_teacher']:.2f}" in text
