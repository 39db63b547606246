"""The card of a model: what it says is there, whole, and of this format."""

import hashlib
import json

import pytest

import kdjax
from kdjax import card
from kdjax.errors import InputError

CONTENT = b"what the model does"
CARD = {
    **dict.fromkeys(card.FIELDS),
    "format": card.FORMAT,
    "kdjax": "0.1.0",
    "jax": "0.10.2",
    "classes": ["cat", "dog"],
    "input": {"shape": [8, 9, 3], "dtype": "uint8"},
    "threshold": 0.5,
    "files": {"model.stablehlo": {"sha256": hashlib.sha256(CONTENT).hexdigest()}},
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model.stablehlo").write_bytes(CONTENT)
    (tmp_path / "card.json").write_text(json.dumps(CARD))
    return tmp_path


def refusal(call, *arguments):
    with pytest.raises(InputError) as raised:
        call(*arguments)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_card_is_read_as_it_was_written(folder):
    assert card.read(folder) == CARD
    assert card.read_file(folder, CARD, "model.stablehlo") == CONTENT


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("classes", value) for value in (None, "cat", ["cat"], ["cat", 1])],
        *[("input", value) for value in (None, {}, {"shape": [8, 9]}, {"shape": [8, 0, 3]})],
        ("input", {"shape": [8, 9.0, 3]}),
        *[("threshold", value) for value in ("0.5", [0.5])],
        *[("files", value) for value in (None, ["model.stablehlo"], {"model.stablehlo": {}})],
    ],
)
def test_a_field_that_programs_read_has_its_form(folder, field, value):
    (folder / "card.json").write_text(json.dumps({**CARD, field: value}))
    line = refusal(card.read, folder)
    assert "card.json' is damaged" in line and repr(field) in line


@pytest.mark.parametrize("field", [name for name in card.FIELDS if name != "format"])
def test_every_field_has_to_be_there(folder, field):
    left = {name: value for name, value in CARD.items() if name != field}
    (folder / "card.json").write_text(json.dumps(left))
    assert repr(field) in refusal(card.read, folder)


@pytest.mark.parametrize("text", ["{}", "[]", "null", '"card"'])
def test_other_json_is_no_card(folder, text):
    (folder / "card.json").write_text(text)
    assert "is no card of kdjax" in refusal(card.read, folder)


@pytest.mark.parametrize("content", [b"", b'{"format": 1', b"\xff\xfe"])
def test_a_damaged_card_is_told(folder, content):
    (folder / "card.json").write_bytes(content)
    assert "card.json' is damaged" in refusal(card.read, folder)


def test_another_format_is_told_with_who_wrote_it(folder):
    (folder / "card.json").write_text(json.dumps({**CARD, "format": 2, "kdjax": "7.0"}))
    line = refusal(card.read, folder)
    assert "format 2" in line and "kdjax 7.0" in line and kdjax.__version__ in line


def test_a_folder_without_a_card_holds_no_model(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert f"'{folder}' holds no model" in refusal(card.read, folder)


def test_a_file_has_to_be_the_one_that_was_written(folder):
    file = folder / "model.stablehlo"
    for content in (CONTENT[:-1], b"", CONTENT + b"\n"):
        file.write_bytes(content)
        assert f"'{file}' is damaged" in refusal(card.read_file, folder, CARD, file.name)
    file.unlink()
    assert f"'{file}' cannot be read" in refusal(card.read_file, folder, CARD, file.name)
    assert "has no model.onnx" in refusal(card.read_file, folder, CARD, "model.onnx")


def test_the_checksum_of_json_is_that_of_its_canonical_text():
    expected = hashlib.sha256(b'{"a":[1,null],"b":{"c":"d"}}').hexdigest()
    assert card.of_json({"b": {"c": "d"}, "a": [1, None]}) == expected
