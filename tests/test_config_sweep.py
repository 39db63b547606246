"""The fields of a sweep: their forms, their settings and seeds, and one line for each error."""

import itertools
import json
import math
import pathlib
import sys
from typing import Any

import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

from kdjax import cli, config_sweep
from kdjax.config import base, resolve
from kdjax.errors import InputError
from kdjax.runs import students

assert cli  # registers the parsers of flags
PAYOFFS = {"objective.payoff": (1.5, 2, 3.0), "objective.method": ("gambler", "ka_gambler_sum")}
SAME = (
    PAYOFFS,
    dict(reversed(PAYOFFS.items())),
    '{"objective.payoff": [1.5, 2, 3], "objective.method": ["gambler", "ka_gambler_sum"]}',
    ({"objective.payoff": ["1.5", 2.0, 3], "objective.method": ["gambler", "ka_gambler_sum"]},),
)


def config(**fields: Any) -> ConfigDict:
    """Returns a resolved config."""
    changed = base()
    for name, value in fields.items():
        changed[name] = value
    return resolve(changed)


@pytest.mark.parametrize("sweep", SAME, ids=("dict", "other order", "JSON", "tuple"))
def test_all_forms_of_a_sweep_are_the_same_run(sweep: Any) -> None:
    resolved = config(sweep=sweep)
    assert resolved.to_dict() == config(sweep=PAYOFFS).to_dict()
    assert resolve(resolved).to_dict() == resolved.to_dict()


def test_settings_are_all_combinations_with_values_of_the_type_of_their_field() -> None:
    expanded = students.expand(config(sweep=PAYOFFS))
    wanted = itertools.product(*(PAYOFFS[field] for field in sorted(PAYOFFS)))
    assert {(each.objective.method, each.objective.payoff) for each in expanded.values()} == set(
        wanted
    )
    assert list(expanded)[:2] == ["method=gambler,payoff=1.5", "method=gambler,payoff=2.0"]
    assert all(type(each.objective.payoff) is float for each in expanded.values())
    assert {(each.sweep, each.sweep_seeds, each.students) for each in expanded.values()} == {
        ("", "", ())
    }


def test_several_dicts_give_the_combinations_of_each() -> None:
    sweep = ({"objective.method": ["ce", "kd"]}, {"seed": [1], "objective.payoff": [1.5, 2.5]})
    names = ["method=ce", "method=kd", "payoff=1.5,seed=1", "payoff=2.5,seed=1"]
    assert list(students.expand(config(sweep=sweep))) == names


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ("payoff", "sweep 'payoff' is not JSON .*write --config.sweep='"),
        ('{"seed": [1, 2], "seed": [3, 4]}', "sweep: seed is given twice: write all values"),
        ("0", "sweep 0 is not a mapping"),
        (False, "sweep False is not a mapping"),
        (5, "sweep 5 is not a mapping of fields to lists of values"),
        (("objective.payoff",), "is not a mapping of fields to lists"),
        ({"objective.payoff": []}, "objective.payoff has no values"),
        ({"objective.payoff": 2}, "objective.payoff 2 is not a list of values"),
        ({"objective.method": "kd"}, "objective.method 'kd' is not a list of values"),
        ({"objective.payoff": [2]}, "has a single setting: give a field several values"),
        ({"objective.payoff": [2, 2.0]}, "objective.payoff has the value 2.0 twice"),
        ({"objective.payoff": [2, "much"]}, "sweep: objective.payoff 'much' is not a number"),
        ({"objective.payoff": [2, math.inf]}, "objective.payoff inf is not a finite number"),
        ({"x.y": [1, None]}, "x.y None is not a number, a text, true or false"),
        ({"seed": range(9)}, "is not a list of values"),
        (
            {"seed": list(range(1000)), "objective.payoff": [2, 3]},
            r"2,000 settings .* are too many: at most 64",
        ),
    ],
)
def test_a_sweep_that_is_none_is_one_line(sweep: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        config(sweep=sweep)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"objective.payof": [2, 3]}, "unknown field .* did you mean 'objective.payoff'"),
        ({"data.flip": [True, False]}, "'data.flip' is the same for all students"),
        ({"objective.payoff": [0.5, 2]}, "objective.payoff.* 0.5"),
        (({"seed": [1, 2]}, {"seed": [2]}), "sweep: {'seed': 2} is given twice"),
    ],
)
def test_fields_that_no_student_can_have_are_one_line(sweep: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        students.expand(config(sweep=sweep))


@pytest.mark.parametrize("in_file", ["", {"objective.payoff": (1.5, 2.0)}, '{"seed": [7, 8]}'])
def test_the_command_line_replaces_the_sweep_of_the_config_file(
    in_file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed, values = base(), flags.FlagValues()
    changed.sweep = in_file
    arguments = ["main", '--config.sweep={"seed": [1, 2]}', "--config.sweep_seeds=3,4"]
    monkeypatch.setattr(sys, "argv", arguments)  # where config_flags looks for fields
    config_flags.DEFINE_config_dict("config", changed, flag_values=values)
    values(arguments)
    resolved = resolve(values.config)
    assert (resolved.sweep, resolved.sweep_seeds) == ('{"seed": [1, 2]}', "3,4,")


def test_sweep_and_students_exclude_each_other() -> None:
    with pytest.raises(InputError, match="sweep and students exclude each other"):
        config(sweep=PAYOFFS, students=({"seed": 1},))


@pytest.mark.parametrize(
    ("given", "seeds"),
    [
        ("", []),
        ((), []),
        (0, []),
        ("0", []),
        (3, [5, 6, 7]),
        ("3", [5, 6, 7]),
        ((3,), [3]),
        ("3,", [3]),
        ((9, 1), [9, 1]),
        ("9, 1", [9, 1]),
    ],
)
def test_seeds_are_a_list_or_how_many_follow_the_seed_of_the_run(
    given: Any, seeds: list[int]
) -> None:
    resolved = config(sweep=PAYOFFS, seed=4, sweep_seeds=given)
    assert config_sweep.parse_seeds(resolved.sweep_seeds) == seeds
    assert resolve(resolved).sweep_seeds == resolved.sweep_seeds


def test_the_seeds_that_follow_are_not_those_of_the_sweep() -> None:
    resolved = config(sweep={"seed": [0, 1, 3]}, sweep_seeds=3)
    assert config_sweep.parse_seeds(resolved.sweep_seeds) == [2, 4, 5]


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ((0,), "sweep_seeds 0 is a seed of the sweep itself"),
        ((1, 1), "seed 1 is given twice"),
        ("1.5", "'1.5' must be a number of seeds, such as 3, or seeds, such as 1,2,3"),
        (("a",), "'a,' must be a number of seeds"),
        (-1, "-1 is out of range"),
        ((2**32,), "4294967296 is out of range"),
        (65, "at most 64 seeds"),
    ],
)
def test_invalid_seeds_are_one_line(seeds: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        config(sweep=PAYOFFS, sweep_seeds=seeds)


def test_fields_of_a_sweep_without_one_are_refused() -> None:
    with pytest.raises(InputError, match="sweep_seeds '2' has no effect without sweep"):
        config(sweep_seeds=2)
    with pytest.raises(InputError, match="sweep_metric 'auc': did you mean 'aurc'"):
        config(sweep_metric="auc")


def test_a_config_with_a_sweep_is_stored_as_text(tmp_path: pathlib.Path) -> None:
    stored = json.loads(json.dumps(config(sweep=PAYOFFS, sweep_seeds=2).to_dict()))
    restored = base()
    restored.update(stored)
    assert resolve(restored).to_dict() == config(sweep=PAYOFFS, sweep_seeds=2).to_dict()
