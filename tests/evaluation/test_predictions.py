"""Writing and reading predictions files, and rejecting damaged ones."""

import io
import pathlib
import re
import zipfile

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from kdjax.errors import InputError
from kdjax.evaluation import predictions
from kdjax.evaluation.predictions import Predictions

SAVED = Predictions(
    np.array([[1.5, -np.inf, 3e38], [0.1, 1e-45, -2.0]], np.float32), np.array([2, 0], np.int32)
)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "predictions" / "dev.npz"
    predictions.save(path, SAVED)
    return path


def assert_equals_saved(loaded):
    assert loaded.gate is None
    for name in ("logits", "labels"):
        value, expected = getattr(loaded, name), getattr(SAVED, name)
        assert value.dtype == expected.dtype
        assert_array_equal(value, expected)


def error_line(path):
    """Returns the one-line message with which loading fails."""
    with pytest.raises(InputError, match=re.escape(str(path))) as raised:
        predictions.load(path)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_saved_predictions_are_loaded_bit_identically(path):
    assert_equals_saved(predictions.load(path))
    with np.load(path) as arrays:
        assert sorted(arrays) == ["labels", "logits"]


def test_a_prediction_is_correct_if_the_largest_class_logit_is_that_of_the_label():
    logits = np.array([[1, 2, 9], [3, 1, 0], [-2, -1, -9]], np.float32)
    predicted = Predictions(logits, np.array([1, 1, 1], np.int32))
    assert_array_equal(predicted.correct, [True, False, True])


@pytest.mark.parametrize("rows", [np.array([True, False, True]), np.array([0, 2])])
def test_selected_predictions_have_the_gate_scores_of_their_images(rows):
    gate = np.array([0.1, 0.2, 0.3], np.float32)
    logits = np.arange(9, dtype=np.float32).reshape(3, 3)
    predicted = Predictions(logits, np.array([0, 1, 0], np.int32), gate)
    selected = predicted.select(rows)
    assert_array_equal(selected.logits, logits[[0, 2]])
    assert_array_equal(selected.labels, [0, 0])
    assert_array_equal(selected.gate, gate[[0, 2]])
    assert predicted._replace(gate=None).select(rows).gate is None


def test_a_teacher_never_chooses_the_abstention_column():
    gate = np.array([0.1, 0.2], np.float32)
    teacher = Predictions(np.array([[-9, -8], [1, 0]], np.float32), np.array([1, 1]), gate)
    predicted = teacher.with_abstention()
    assert_array_equal(predicted.logits, [[-9, -8, -np.inf], [1, 0, -np.inf]])
    assert_array_equal(predicted.correct, [True, False])
    assert_array_equal(predicted.gate, gate)


def test_saving_replaces_the_file_and_leaves_no_other_file(path):
    new = SAVED._replace(labels=SAVED.labels[::-1])
    predictions.save(path, new)
    assert_array_equal(predictions.load(path).labels, new.labels)
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_save_keeps_the_old_file(path, monkeypatch):
    def disk_full(self, content):
        with self.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError("no space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", disk_full)
    with pytest.raises(OSError, match="no space"):
        predictions.save(path, SAVED._replace(labels=SAVED.labels[::-1]))
    assert_equals_saved(predictions.load(path))


def test_a_missing_file_is_named_in_the_error(tmp_path):
    assert "no predictions" in error_line(tmp_path / "dev.npz")


def test_a_file_truncated_anywhere_is_rejected(path):
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        assert "damaged" in error_line(path)


@pytest.mark.slow
def test_a_flipped_bit_is_rejected_or_harmless(path):
    content = path.read_bytes()
    # One bit of every byte, in turn each of its eight bits: this covers all fields of the format.
    for index in range(len(content)):
        flipped = bytearray(content)
        flipped[index] ^= 1 << index % 8
        path.write_bytes(flipped)
        try:
            assert_equals_saved(predictions.load(path))
        except InputError as error:
            assert "\n" not in str(error)


def zipped(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def array_file(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not an archive",
        array_file(SAVED.logits),
        zipped(),
        zipped(logits=array_file(SAVED.logits)),
        zipped(logits=array_file(SAVED.logits), labels=b"not an array"),
        zipped(logits=array_file(SAVED.logits), labels=array_file(np.array([0, None]))),
    ],
    ids=["empty", "text", "one array", "no array", "no labels", "no npy inside", "pickled objects"],
)
def test_a_file_with_other_content_is_rejected(path, content):
    path.write_bytes(content)
    assert "predictions" in error_line(path)


@pytest.mark.parametrize(
    ("logits", "labels"), [((2, 3), (3,)), ((2, 3), (2, 1)), ((2, 1), (2,)), ((2,), (2,)), ((), ())]
)
def test_wrong_shapes_are_rejected_with_both_shapes(path, logits, labels):
    np.savez(path, logits=np.zeros(logits, np.float32), labels=np.zeros(labels, np.int32))
    message = error_line(path)
    assert f"logits {logits}" in message and f"labels {labels}" in message


@pytest.mark.parametrize("groups", [["left", "Ölm"], ["", "left"], [7, -1]])
def test_groups_are_saved_beside_the_predictions_and_read_as_text(path, groups):
    predictions.save(path, SAVED, np.array(groups))
    assert_equals_saved(predictions.load(path))
    assert predictions.load_groups(path).tolist() == [str(group) for group in groups]
    assert predictions.stored_groups(path.parents[1], ["dev", "test"]).keys() == {"dev"}


def test_a_file_without_groups_has_none(path):
    assert predictions.load_groups(path) is None
    assert predictions.stored_groups(path.parents[1], ["dev"]) == {}
    assert predictions.kept_groups(path, SAVED.labels) is None
    assert predictions.kept_groups(path.with_name("test.npz"), SAVED.labels) is None


def test_groups_are_kept_for_the_same_labels_only(path):
    predictions.save(path, SAVED, np.array(["a", "b"]))
    assert predictions.kept_groups(path, SAVED.labels).tolist() == ["a", "b"]
    assert predictions.kept_groups(path, SAVED.labels[::-1]) is None
    path.write_bytes(path.read_bytes()[:50])
    assert predictions.kept_groups(path, SAVED.labels) is None


@pytest.mark.parametrize("groups", [["a"], [["a"], ["b"]], [0.5, 1.5]])
def test_groups_of_another_shape_or_dtype_are_rejected(path, groups):
    predictions.save(path, SAVED, np.array(groups))
    with pytest.raises(InputError, match="must be strings or integers") as raised:
        predictions.load_groups(path)
    assert "dev.npz" in str(raised.value) and "\n" not in str(raised.value)
