"""Contradicting fields of a teacher that the run does not train."""

from typing import Any

import pytest

from kdjax.config import base, resolve
from kdjax.errors import InputError


def teacher(**fields: Any) -> Any:
    """Returns `config.teacher` of a resolved config with these fields."""
    config = base()
    config.teacher.update(fields)
    return resolve(config).teacher


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"onnx": "a.onnx", "logits": "b.npz"}, "teacher.onnx 'a.onnx' and teacher.logits 'b.npz'"),
        ({"workdir": "a", "weights": "b"}, "only one of them can be the teacher"),
        ({"class_names": "a,b"}, "has no effect without teacher.onnx or teacher.logits"),
        ({"logits": "b.npz", "input_mean": "0.5"}, "without teacher.onnx or teacher.weights"),
        ({"workdir": "a", "onnx_output": "logits"}, "has no effect without teacher.onnx"),
        ({"onnx": "a", "input_scale": -1.0}, "teacher.input_scale -1 is out of range"),
        ({"weights": "a", "input_channels": "bgr"}, "input_channels 'bgr' has no effect without"),
        (
            {"input_layout": "nchw"},
            "teacher.input_layout 'nchw' has no effect without teacher.onnx",
        ),
        ({"folds": 1}, "teacher.folds 1 is out of range: it must be 0, or at least 2"),
        ({"folds": -2}, "teacher.folds -2 is out of range"),
        ({"folds": 3, "workdir": "a"}, "teacher.folds 3 has no effect with teacher.workdir 'a'"),
        (
            {"label_smoothing": 0.1, "weights": "a"},
            "teacher.label_smoothing 0.1 has no effect with teacher.weights 'a'",
        ),
        ({"workdirs": "a,b"}, "'teacher.workdirs': did you mean 'teacher.workdir'"),
        ({"onnx": "a", "input_layout": "nchv"}, "did you mean 'nchw'"),
        ({"onnx": "a", "input_channels": "grb"}, r"did you mean '(rgb|bgr)'"),
    ],
)
def test_contradicting_fields_are_refused_in_one_line(fields: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        teacher(**fields)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"method": "gambler"},
            "rank_weight_start 0.9 needs a teacher, and objective.method 'gambl",
        ),
        ({"pretrain_epochs": 200}, "rank_weight_start 0.9 has no effect: all 200 epochs are pre-"),
    ],
)
def test_weights_that_cannot_be_used_are_refused(fields: Any, message: str) -> None:
    config = base()
    config.objective.update({"rank_weight_start": 0.9, **fields})
    with pytest.raises(InputError, match=message):
        resolve(config)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (("runs/a", "runs/b"), "runs/a,runs/b"),
        (["runs/a,b", "c"], '["runs/a,b", "c"]'),
        ("runs/a", "runs/a"),
        ((), "a string"),
    ],
)
def test_lists_of_texts_may_be_tuples(value: Any, text: str) -> None:
    if value == ():
        with pytest.raises(InputError, match=text):
            teacher(workdir=value)
    else:
        assert teacher(workdir=value).workdir == text


def test_numbers_may_be_tuples() -> None:
    fields = teacher(onnx="a", input_mean=(0.485, 0.456, 0.406), input_std=[0.5])
    assert (fields.input_mean, fields.input_std) == ("0.485,0.456,0.406", "0.5")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"set_method": "rasp"}, "set_method 'rasp'.*did you mean 'raps'"),
        ({"set_alpha": 0.0}, "selective.set_alpha 0.0"),
        ({"set_alpha": 1.0}, "selective.set_alpha 1.0"),
    ],
)
def test_lists_that_cannot_be_made_are_refused(fields: Any, message: str) -> None:
    config = base()
    config.selective.update(fields)
    with pytest.raises(InputError, match=message) as error:
        resolve(config)
    assert "\n" not in str(error.value)
