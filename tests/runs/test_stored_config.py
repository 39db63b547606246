"""Configs of earlier versions get the values that reproduce what they did."""

import copy

import pytest

import kdjax.config
from kdjax.errors import InputError
from kdjax.models.common import LARGE_STEM_SIZE
from kdjax.runs import stored_config

SHAPE = (32, 32, 3)


@pytest.fixture
def defaults():
    return kdjax.config.resolve(kdjax.config.base()).to_dict()


@pytest.fixture
def stored(defaults):
    """As read from `config.json`."""
    return stored_config.as_json(defaults)


def without(fields, *names):
    """Returns a copy without some fields, as a version wrote it that did not have them."""
    copied = copy.deepcopy(fields)
    for name in names:
        *groups, last = name.split(".")
        group = copied
        for each in groups:
            group = group[each]
        del group[last]
    return copied


def test_config_of_this_version_is_unchanged(stored, defaults):
    assert stored_config.complete(stored, defaults, SHAPE) == stored


@pytest.mark.parametrize(
    ("name", "value"),
    [("eval_every", 1), ("teacher.folds", 0), ("student.average", "none"), ("sweep", "")],
)
def test_missing_field_has_its_default(stored, defaults, name, value):
    completed = stored_config.complete(without(stored, name), defaults, SHAPE)
    assert completed == stored
    *groups, last = name.split(".")
    assert (completed[groups[0]] if groups else completed)[last] == value


def test_missing_group_has_all_of_its_defaults(stored, defaults):
    completed = stored_config.complete(without(stored, "data"), defaults, SHAPE)
    assert completed["data"] == stored["data"]


def test_order_of_a_version_without_its_seed_is_that_of_the_seed(stored, defaults):
    old = without(stored, "order_seed") | {"seed": 5}
    assert stored_config.complete(old, defaults, SHAPE)["order_seed"] == 5
    assert stored_config.complete({**stored, "seed": 5}, defaults, SHAPE)["order_seed"] == 0


@pytest.mark.parametrize(
    ("size", "stem"), [(LARGE_STEM_SIZE, "small"), (LARGE_STEM_SIZE - 1, "auto")]
)
def test_networks_of_a_version_with_small_stems_only_keep_them(stored, defaults, size, stem):
    old = without(stored, "teacher.stem", "student.stem")
    completed = stored_config.complete(old, defaults, (size, size + 9, 3))
    assert completed["teacher"]["stem"] == completed["student"]["stem"] == stem


def test_run_of_a_version_without_views_is_evaluated_without_them(stored, defaults):
    completed = stored_config.complete(without(stored, "selective.views"), defaults, SHAPE)
    assert completed["selective"]["views"] == "none"


def test_views_that_auto_gives_are_none_for_a_run_that_had_none(stored):
    automatic = {**stored, "selective": {**stored["selective"], "views": "flip"}}
    for flip, expected in ((True, "none"), (False, "flip")):
        fields = {**automatic, "data": {**stored["data"], "flip": flip}}
        assert stored_config.without_default_views(fields)["selective"]["views"] == expected
    teacher = without(automatic, "selective")
    assert stored_config.without_default_views(teacher) == teacher


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": "x"}, "seed 'x' is not an integer"),
        ({"data": 3}, r"data\.\w+ is missing"),
        ({"smoke": "maybe"}, "smoke 'maybe' is not true or false"),
    ],
)
def test_value_that_a_field_cannot_have_is_refused(stored, defaults, change, message):
    with pytest.raises(InputError, match=message):
        stored_config.complete({**stored, **change}, defaults, SHAPE)


def test_input_is_not_changed(stored, defaults):
    old = without(stored, "teacher.stem", "selective.views", "order_seed")
    before = copy.deepcopy(old)
    stored_config.complete(old, defaults, SHAPE)
    assert old == before
