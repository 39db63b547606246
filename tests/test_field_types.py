"""Config values of every form are converted without loss, or refused."""

import json
import math
import pathlib
from fractions import Fraction

import numpy as np
import pytest

from kdjax import field_types
from kdjax.errors import InputError

NUMBERS_NO_INTEGER = (True, np.True_, None, "", "x", "1.5", 1.5, math.nan, math.inf, "inf", [], {})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, 3), (-3, -3), (2.0, 2), ("7", 7), (" 7 ", 7), ("+7", 7), ("1e3", 1000), ("2.0", 2),
        ("0x10", 16), ("-0X10", -16), (np.int64(5), 5), (np.uint8(5), 5), (np.float32(4), 4),
        (np.array(6), 6), (Fraction(8, 2), 4), (2**70, 2**70), (1e20, 10**20),
    ],
)  # fmt: skip
def test_whole_numbers_are_integers(value, expected):
    result = field_types.integer(value)
    assert type(result) is int and result == expected


def test_fractions_booleans_and_words_are_no_integers():
    for value in NUMBERS_NO_INTEGER:
        assert field_types.integer(value) is None, value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, 3.0), (0.1, 0.1), ("0.1", 0.1), ("1e-3", 1e-3), (" 2 ", 2.0), ("-inf", -math.inf),
        (np.float32(0.5), 0.5), (np.int32(2), 2.0), (Fraction(1, 4), 0.25),
    ],
)  # fmt: skip
def test_numbers_and_their_texts_are_floats(value, expected):
    result = field_types.real(value)
    assert type(result) is float and result == expected


def test_booleans_words_and_numbers_beyond_floats_are_no_floats():
    for value in (True, np.False_, None, "", "x", "1,5", [1.0], 10**400, 1j):
        assert field_types.real(value) is None, value


@pytest.mark.parametrize("word", ["true", "T", " yes ", "y", "ON", "1", 1, 1.0, True, np.True_])
def test_words_for_true(word):
    assert field_types.boolean(word) is True


@pytest.mark.parametrize("word", ["false", "F", " no ", "n", "OFF", "0", 0, 0.0, False, np.False_])
def test_words_for_false(word):
    assert field_types.boolean(word) is False


def test_other_values_are_not_boolean():
    for value in ("", "maybe", 2, -1, 0.5, None, [], "2"):
        assert field_types.boolean(value) is None, value


def test_text_is_a_string_or_a_path():
    assert field_types.text("a") == "a"
    assert field_types.text(pathlib.Path("a/b")) == "a/b"
    for value in (None, 1, b"a", ["a"]):
        assert field_types.text(value) is None, value


def test_records_are_tuples_of_dicts_with_names():
    one, two = {"a": 1}, {"b": (1, 2)}
    assert field_types.records([one, two]) == field_types.records((one, two)) == (one, two)
    assert field_types.records(()) == ()
    for value in (one, [one, 3], [{1: "a"}], "text", None):
        assert field_types.records(value) is None, value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a", ("a",)), ("a, b,,c ", ("a", "b", "c")), (["a", "b,c"], ("a", "b", "c")),
        (("a",), ("a",)), ("", ()), ((), ()), (" , ", ()),
    ],
)  # fmt: skip
def test_names_are_separated_by_commas(value, expected):
    assert field_types.names(value) == expected


def test_values_that_are_no_texts_are_no_names():
    for value in (None, 3, [1], ["a", None], {"a": 1}):
        assert field_types.names(value) is None, value


def test_dict_becomes_json_and_an_empty_one_no_text():
    value = {"b": [1.5, 2], "a": "x"}
    assert json.loads(field_types.json_object(value)) == value
    assert field_types.json_object({}) == ""
    assert field_types.json_object(dict(reversed(value.items()))) == field_types.json_object(value)
    assert field_types.json_object([1]) == [1] and field_types.json_object("x") == "x"
    with pytest.raises(InputError, match="cannot be stored as JSON"):
        field_types.json_object({"a": object()})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (("a", "b"), "a,b"), ([1, 2.5], "1,2.5"), ((pathlib.Path("x/y"), "z"), "x/y,z"),
        (("a,b", "c"), '["a,b", "c"]'), ((), ()), ("text", "text"), ((None, 1), (None, 1)),
        (3, "3"),
        (0.5, "0.5"), (True, True), (np.array([0.5, 1]), "0.5,1.0"), (np.float64(0.25), "0.25"),
    ],
)  # fmt: skip
def test_sequences_become_one_text(value, expected):
    assert field_types.comma_separated(value) == expected


@pytest.mark.parametrize(
    ("default", "value", "message"),
    [
        (1, "two", "f 'two' is not an integer"),
        (1, 1.5, "f 1.5 is not an integer"),
        (1.0, True, "f True is not a number"),
        (1.0, "inf", "f inf is not a finite number"),
        (False, "maybe", "f 'maybe' is not true or false"),
        ("", 3, "f 3 is not a string"),
        ((), [3], "f [3] is not a tuple of dicts of fields"),
        (("tensorboard",), 3, "f 3 is not names separated by commas"),
    ],
)
def test_value_of_another_type_than_the_default_is_refused(default, value, message):
    with pytest.raises(InputError) as raised:
        field_types.convert("f", value, default)
    assert str(raised.value).startswith(message)


def test_values_get_the_type_of_the_default():
    cases = [
        (1, "3", 3), (1.0, "3", 3.0), (True, "no", False), ("", pathlib.Path("a"), "a"),
        ((), [{"a": 1}], ({"a": 1},)), (("x",), "a,b", ("a", "b")),
    ]  # fmt: skip
    for default, value, expected in cases:
        converted = field_types.convert("f", value, default)
        assert (type(converted), converted) == (type(expected), expected)
