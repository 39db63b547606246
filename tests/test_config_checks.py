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
        ({"onnx": "a", "input_layout": "nchv"}, "did you mean 'nchw'"),
        ({"onnx": "a", "input_channels": "grb"}, r"did you mean '(rgb|bgr)'"),
    ],
)
def test_contradicting_fields_are_refused_in_one_line(fields: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        teacher(**fields)
    assert "\n" not in str(error.value)


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
