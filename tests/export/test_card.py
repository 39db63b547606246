"""The model card: its format, its checks, and the checksums of the files."""

import hashlib
import json
import math

import pytest

import kdjax
from kdjax.errors import InputError
from kdjax.export import card

CONTENT = b"content of the model file"
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


def error_message(call, *arguments):
    with pytest.raises(InputError) as raised:
        call(*arguments)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_card_and_file_are_read_as_written(folder):
    assert card.read(folder) == CARD
    assert card.read_file(folder, CARD, "model.stablehlo") == CONTENT


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("classes", value) for value in (None, "cat", ["cat"], ["cat", 1], ["cat", "cat"])],
        *[("input", value) for value in (None, {}, {"shape": [8, 9]}, {"shape": [8, 0, 3]})],
        *[
            ("input", value)
            for value in ({"shape": [8, 9.0, 3]}, {"shape": [8, 9, 3], "fit": "no"})
        ],
        *[("threshold", value) for value in ("0.5", [0.5], True, math.nan, math.inf)],
        *[("class_thresholds", value) for value in (0.5, ["0.5", None], [0.5], [0.5, math.nan])],
        *[("score", value) for value in ("doctor", {"scale": "log2"}, {"scale": []})],
        *[("certificate", value) for value in ("x", {}, {"risk": "5%", "delta": 0.05})],
        *[("promises", value) for value in (5, ["sets"], {"sets": 5})],
        *[("cost", value) for value in (5, {"student": 5}, {"teacher": {"multiply_adds": "5"}})],
        *[("views", value) for value in (5, "flip")],
        *[("monitoring", value) for value in (5, ["risk", "coverage", "drift"], {"risk": None})],
        *[
            ("monitoring", {"risk": None, "coverage": None, "drift": None, **changes})
            for changes in (
                {"risk": {"bound": "a"}},
                {"coverage": {}},
                {"drift": {}},
                {"drift": {"edges": [1], "counts": [1]}},
                {"drift": {"edges": [2, 1], "counts": [1, 1, 1]}},
                {"drift": {"edges": [1], "counts": [1, -1]}},
            )
        ],
        *[("files", value) for value in (None, ["model.stablehlo"], {"model.stablehlo": {}})],
    ],
)
def test_invalid_value_of_a_field_that_programs_read_raises(folder, field, value):
    (folder / "card.json").write_text(json.dumps({**CARD, field: value}))
    line = error_message(card.read, folder)
    assert "card.json' is damaged" in line and repr(field) in line


def test_every_valid_field_is_read(folder):
    values = {
        "score": {"name": "doctor", "scale": "log_odds"},
        "class_thresholds": [0.5, None],
        "certificate": {"risk": 0.05, "delta": 0.05, "examples": 9},
        "promises": {"sets": {"quantile": None}},
        "cost": {"machine": "cpu", "teacher": {"multiply_adds": 5}},
        "monitoring": {
            "risk": {"bound": 0.05, "delta": 0.05},
            "coverage": None,
            "drift": {"edges": [0.5], "counts": [3, 0]},
        },
    }
    (folder / "card.json").write_text(json.dumps({**CARD, **values}))
    assert card.read(folder) == {**CARD, **values}


@pytest.mark.parametrize("field", sorted(set(card.FIELDS) - card.OPTIONAL - {"format"}))
def test_missing_field_raises(folder, field):
    incomplete = {name: value for name, value in CARD.items() if name != field}
    (folder / "card.json").write_text(json.dumps(incomplete))
    assert repr(field) in error_message(card.read, folder)


def test_card_of_an_earlier_version_lacks_optional_fields(folder):
    earlier = {name: value for name, value in CARD.items() if name not in card.OPTIONAL}
    (folder / "card.json").write_text(json.dumps(earlier))
    assert card.read(folder) == CARD


@pytest.mark.parametrize("text", ["{}", "[]", "null", '"card"'])
def test_other_json_is_not_a_card(folder, text):
    (folder / "card.json").write_text(text)
    assert "is not a model card of kdjax" in error_message(card.read, folder)


@pytest.mark.parametrize("content", [b"", b'{"format": 1', b"\xff\xfe"])
def test_damaged_card_raises(folder, content):
    (folder / "card.json").write_bytes(content)
    assert "card.json' is damaged" in error_message(card.read, folder)


def test_other_format_raises_with_both_versions(folder):
    (folder / "card.json").write_text(json.dumps({**CARD, "format": 3, "kdjax": "7.0"}))
    line = error_message(card.read, folder)
    assert "has format 3" in line and "kdjax 7.0" in line and kdjax.__version__ in line


def test_folder_without_a_card_raises(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert f"no model in '{folder}'" in error_message(card.read, folder)


def test_path_beside_a_model_raises_with_what_to_give(folder, tmp_path):
    line = error_message(card.read, folder / "model.stablehlo")
    assert line.endswith(f"; give the folder of the file, '{folder}'")
    workdir = tmp_path / "runs"
    workdir.mkdir()
    (workdir / "config.json").write_text("{}")
    assert f"kdjax export --workdir={workdir} writes" in error_message(card.read, workdir)


def test_changed_missing_or_unlisted_file_raises(folder):
    file = folder / "model.stablehlo"
    for content in (CONTENT[:-1], b"", CONTENT + b"\n"):
        file.write_bytes(content)
        assert f"'{file}' is damaged" in error_message(card.read_file, folder, CARD, file.name)
    file.unlink()
    assert f"'{file}' cannot be read" in error_message(card.read_file, folder, CARD, file.name)
    assert "has no model.onnx" in error_message(card.read_file, folder, CARD, "model.onnx")


def test_checksum_of_json_is_that_of_its_canonical_text():
    expected = hashlib.sha256(b'{"a":[1,null],"b":{"c":"d"}}').hexdigest()
    assert card.sha256_json({"b": {"c": "d"}, "a": [1, None]}) == expected
