import copy
import math
import re
import runpy
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from kdjax.config import base, differences, hyper, resolve
from kdjax.errors import InputError
from kdjax.models import MODELS
from kdjax.objectives import Hyper

FILES = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))
STAGES = ("teacher", "student")


def changed(**fields):
    """The base config with `{"stage.field": value}` put in."""
    config = base()
    config.update_from_flattened_dict(fields)
    return config


def names_that_differ(one, other):
    return {line.partition(":")[0] for line in differences(one.to_dict(), other.to_dict())}


def leaves(config, prefix=""):
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


@pytest.mark.parametrize(
    ("setting", "size", "teacher", "student"),
    [
        ("structure", "paper", "resnet18", "alexnet"),
        ("depth", "paper", "resnet50", "resnet18"),
        ("structure", "laptop", "resnet8", "alexnet_small"),
        ("depth", "laptop", "resnet14", "resnet8"),
    ],
)
def test_setting_and_size_choose_the_networks(setting, size, teacher, student):
    found = resolve(changed(setting=setting, size=size))
    assert (found.teacher.model, found.student.model) == (teacher, student)
    assert {teacher, student} <= set(MODELS)
    kept = resolve(changed(setting=setting, size=size, **{"student.model": "resnet50"}))
    assert (kept.teacher.model, kept.student.model) == (teacher, "resnet50")


def test_resolve_leaves_its_argument_alone_and_changes_nothing_twice():
    config = changed(smoke=True)
    before = copy.deepcopy(config.to_dict())
    found = resolve(config)
    assert config.to_dict() == before and not config.is_locked
    assert resolve(found).to_dict() == found.to_dict()


def test_without_smoke_only_networks_and_their_learning_rates_are_filled_in():
    found = resolve(base())
    fields = ("model", "learning_rate")
    filled = {f"{stage}.{field}" for stage in STAGES for field in fields}
    assert names_that_differ(base(), found) == filled | {"order_seed"}
    # AlexNet has no batch-norm to bear the teacher's rate.
    assert 0 < found.student.learning_rate < found.teacher.learning_rate
    assert resolve(changed(**{"student.learning_rate": 0.7})).student.learning_rate == 0.7


def test_smoke_shrinks_what_takes_long_and_nothing_else():
    late = {"objective.pretrain_epochs": 100}
    full, small = resolve(changed(**late)), resolve(changed(smoke=True, **late))
    fields = ("epochs", "batch_size", "warmup_epochs", "norm_batches")
    assert names_that_differ(full, small) == {
        *("smoke", "data.limit", "eval_batch_size", "objective.pretrain_epochs"),
        *(f"{stage}.{field}" for stage in STAGES for field in fields),
    }
    assert 0 < small.data.limit <= 64 and small.objective.pretrain_epochs == 1
    for stage in STAGES:
        assert all(0 < small[stage][field] < full[stage][field] for field in fields)
        assert small[stage].batch_size < small.data.limit * (1 - small.data.dev_fraction)
    assert small.student.epochs > small.objective.pretrain_epochs  # so the method runs as well


@pytest.mark.parametrize("smoke", [False, True])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_configs_that_are_shipped_resolve(path, smoke):
    config = runpy.run_path(str(path))["get_config"]()
    config.smoke = smoke
    assert resolve(config).name == path.stem
    assert dict(leaves(config)).keys() == dict(leaves(base())).keys()  # a typo would add a field


def test_a_resolved_config_takes_no_unknown_field():
    found = resolve(base())
    with pytest.raises(AttributeError, match="epochs"):
        found.student.epoch = 3
    with pytest.raises(KeyError, match="mehtod"):
        found.objective["mehtod"] = "ce"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("log_every", 0),
        ("eval_batch_size", 0),
        ("data.dev_fraction", 0.0),
        ("data.dev_fraction", 1.0),
        ("data.limit", -1),
        ("data.pad", -1),
        ("objective.payoff", 1.0),
        ("objective.temperature", 0.0),
        ("objective.lambda", -0.5),
        ("objective.epsilon", -0.1),
        ("objective.pretrain_epochs", -1),
        ("objective.pretrain_epochs", 201),
        *[
            (f"{stage}.{field}", value)
            for stage in STAGES
            for field, value in [
                ("epochs", 0),
                ("batch_size", 0),
                ("step_every", 0),
                ("norm_batches", 0),
                ("width", -1),
                ("weight_decay", -1e-4),
                ("warmup_epochs", -1.0),
                ("learning_rate", -0.1),
                ("step_factor", 0.0),
                ("momentum", -0.1),
                ("momentum", 1.0),
                ("average_start", 1.0),
                ("ema_decay", 1.0),
            ]
        ],
    ],
)
def test_a_field_out_of_range_is_refused_by_name_and_value(field, value):
    with pytest.raises(InputError, match=re.escape(f"{field} {value} is ")):
        resolve(changed(**{field: value}))


@pytest.mark.parametrize("field", [k for k, v in leaves(base()) if isinstance(v, float)])
def test_no_field_may_be_nan(field):
    with pytest.raises(InputError, match=re.escape(f"{field} nan is ")):
        resolve(changed(**{field: math.nan}))


@pytest.mark.parametrize(
    ("field", "wrong", "right"),
    [
        ("setting", "strukture", "structure"),
        ("size", "labtop", "laptop"),
        ("best_metric", "acuracy", "accuracy"),
        ("objective.method", "ka_gamber_sum", "ka_gambler_sum"),
        ("objective.adjustment", "probabilty_shift", "probability_shift"),
        ("teacher.schedule", "cosin", "cosine"),
        ("student.schedule", "stepp", "step"),
        ("student.average", "sma", "swa"),
        ("teacher.average", "emma", "ema"),
        ("student.compute_dtype", "bfloat61", "bfloat16"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(field, wrong, right):
    message = re.escape(f"unknown {field} '{wrong}': did you mean '{right}'? Valid: ")
    with pytest.raises(InputError, match=message):
        resolve(changed(**{field: wrong}))


def test_the_hyper_parameters_are_those_of_the_objective():
    config = base()
    values = {"payoff": 3.5, "temperature": 2.0, "adjustment": "none", "epsilon": 0.05}
    config.objective.update({**values, "lambda": 0.25})
    assert hyper(config) == Hyper(3.5, 0.25, 2.0, "none", 0.05)


def test_differences_name_every_field_that_differs():
    one = {"a": 1, "b": {"c": "x", "d": {"e": [1, 2]}, "same": 0}, "gone": True, "kind": {"f": 1}}
    other = {"a": 1.5, "b": {"c": "x", "d": {"e": [1]}, "same": 0}, "kind": 2, "new": 0}
    assert differences(one, one) == []
    assert differences(one, other, "config.") == [
        "config.a: 1 -> 1.5",
        "config.b.d.e: [1, 2] -> [1]",
        "config.gone: True -> None",
        "config.kind: {'f': 1} -> 2",
        "config.new: None -> 0",
    ]


def test_a_field_that_a_config_file_invents_is_refused_with_the_nearest() -> None:
    config = base()
    config.objective.payof = 3.0
    with pytest.raises(InputError, match=r"'objective\.payof'.*'objective\.payoff'"):
        resolve(config)


def test_a_field_that_a_config_file_drops_is_missed() -> None:
    config = base()
    del config.student.epochs
    with pytest.raises(InputError, match=r"'student\.epochs' is missing"):
        resolve(config)


@pytest.mark.parametrize("stage", ["teacher", "student"])
def test_an_unknown_model_is_refused_before_anything_is_loaded(stage: str) -> None:
    config = base()
    config[stage].model = "resnet20"
    with pytest.raises(InputError, match=rf"{stage}\.model 'resnet20'.*'resnet"):
        resolve(config)
