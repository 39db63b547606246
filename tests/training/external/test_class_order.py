"""Class names of a teacher: texts, metadata, and their mapping to the data set."""

import json

import pytest

from kdjax.errors import InputError
from kdjax.training.external import class_order


def test_names_are_separated_by_commas_or_a_json_list() -> None:
    assert class_order.parse_names("cat, dog") == ("cat", "dog")
    assert class_order.parse_names('["tench, Tinca", "dog"]') == ("tench, Tinca", "dog")


@pytest.mark.parametrize("text", ["a,,b", "[1", '["a", ""]', '["a", 1]', '["a", ["b"]]'])
def test_bad_names_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="class_names"):
        class_order.parse_names(text)


@pytest.mark.parametrize(
    "text",
    [
        '["cat", "dog"]',
        "['cat', 'dog']",
        "{0: 'cat', 1: 'dog'}",
        '{"1": "dog", "0": "cat"}',
        "cat,dog",
    ],
)
@pytest.mark.parametrize("key", class_order.METADATA_KEYS)
def test_names_are_found_in_metadata(key: str, text: str) -> None:
    assert class_order.names_in_metadata({"author": "x", key: text}) == ("cat", "dog")


@pytest.mark.parametrize("text", ["", "10", "{'a': 1}", "[1"])
def test_metadata_without_names_is_ignored(text: str) -> None:
    assert class_order.names_in_metadata({"classes": text}) == ()


def test_columns_follow_the_data_set_and_ignore_case_and_separators() -> None:
    classes = ("ankle boot", "T-shirt", "bag")
    assert class_order.columns((), classes, "x") is None
    assert class_order.columns(classes, classes, "x") is None
    assert class_order.columns(("Ankle_Boot", "t shirt", "BAG"), classes, "x") is None
    assert class_order.columns(("bag", "other", "t-shirt", "ankle boot"), classes, "x") == (3, 2, 0)


def test_class_that_the_teacher_lacks_is_named_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"no class 'bag' .*\(nearest: 'bags'\).*class_names="):
        class_order.columns(("cat", "bags"), ("cat", "bag"), "x")


@pytest.mark.parametrize(
    ("teacher", "classes", "expected"),
    [
        (("1", "0", "-1"), ("-1", "0", "1"), (2, 1, 0)),
        (("a", "A"), ("A", "a"), (1, 0)),
        (("x_y", "x y"), ("x y", "x_y"), (1, 0)),
    ],
)
def test_names_that_differ_in_spelling_only_are_told_apart(teacher, classes, expected) -> None:
    assert class_order.columns(teacher, classes, "x") == expected


@pytest.mark.parametrize(
    ("teacher", "classes"), [(("b", "a", "a"), ("a", "b")), (("A", "a", "c"), ("A", "C", "a"))]
)
def test_ambiguous_names_are_refused(teacher, classes) -> None:
    with pytest.raises(InputError, match=r"x.* has the class 'a' twice: give its classes"):
        class_order.columns(teacher, classes, "x")


def test_names_that_are_not_needed_may_occur_twice() -> None:
    names = class_order.parse_names("cat,crane,crane,dog")
    assert class_order.columns(names, ("dog", "cat"), "x") == (3, 0)
    metadata = {"classes": json.dumps(names)}
    assert class_order.names_in_metadata(metadata) == names


def test_names_of_another_number_than_outputs_are_a_warning() -> None:
    with pytest.warns(RuntimeWarning, match="x has 3 class names for 2 outputs"):
        assert class_order.chosen_columns("", ("b", "a", "c"), 2, ("a", "b"), "x") is None


def test_names_in_json_may_have_any_character() -> None:
    text = json.dumps(["\N{GRINNING FACE}", "a/b"]).replace("/", "\\/")
    assert class_order.names_in_metadata({"classes": text}) == ("\N{GRINNING FACE}", "a/b")
