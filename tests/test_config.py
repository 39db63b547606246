import copy
import math
import re
import runpy
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags
from support.user_networks import LINEN, write

import kdjax.cli  # registers the parsers of config fields
import kdjax.config
import kdjax.config_fields
from kdjax import config_help
from kdjax.config import base, hyperparameters, resolve
from kdjax.config_fields import differences, field_names, nearest_field, unknown_field_error
from kdjax.errors import InputError
from kdjax.models import MODELS
from kdjax.objectives import Hyperparameters
from kdjax.runtime import compiler

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "configs").glob("*.py"))
STAGES = ("teacher", "student")


def changed(**fields):
    """Returns the base config with fields changed, given as `{"stage.field": value}`."""
    config = base()
    config.update_from_flattened_dict(fields)
    return config


def changed_names(before, after):
    return {line.partition(":")[0] for line in differences(before.to_dict(), after.to_dict())}


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
        ("structure", "laptop", "resnet14", "alexnet_small"),
        ("depth", "laptop", "resnet14", "resnet8"),
    ],
)
def test_setting_and_size_select_the_networks(setting, size, teacher, student):
    config = resolve(changed(setting=setting, size=size))
    assert (config.teacher.model, config.student.model) == (teacher, student)
    assert {teacher, student} <= set(MODELS)
    explicit = resolve(changed(setting=setting, size=size, **{"student.model": "resnet50"}))
    assert (explicit.teacher.model, explicit.student.model) == (teacher, "resnet50")


def test_resolve_is_idempotent_and_does_not_change_its_argument():
    config = changed(smoke=True)
    before = copy.deepcopy(config.to_dict())
    resolved = resolve(config)
    assert config.to_dict() == before and not config.is_locked
    assert resolve(resolved).to_dict() == resolved.to_dict()


def test_resolve_without_smoke_fills_in_models_learning_rates_order_seed_and_views_only():
    config = resolve(base())
    fields = ("model", "learning_rate")
    derived = {f"{stage}.{field}" for stage in STAGES for field in fields}
    assert changed_names(base(), config) == derived | {"order_seed", "selective.views"}
    for flip, views in ((True, "flip"), (False, "none")):
        assert resolve(changed(**{"data.flip": flip})).selective.views == views
    # AlexNet has no batch norm, and diverges at the learning rate of the teacher.
    assert 0 < config.student.learning_rate < config.teacher.learning_rate
    assert resolve(changed(**{"student.learning_rate": 0.7})).student.learning_rate == 0.7


def test_smoke_run_refuses_what_the_run_would_refuse():
    with pytest.raises(InputError, match=r"data\.limit -5 is out of range"):
        resolve(changed(**{"smoke": True, "data.limit": -5}))


def test_smoke_reduces_images_batches_and_epochs_only():
    pretraining = {"objective.pretrain_epochs": 100}
    full, small = resolve(changed(**pretraining)), resolve(changed(smoke=True, **pretraining))
    fields = ("epochs", "batch_size", "warmup_epochs", "bn_batches")
    assert changed_names(full, small) == {
        *("smoke", "data.limit", "eval_batch_size", "objective.pretrain_epochs"),
        *(f"{stage}.{field}" for stage in STAGES for field in fields),
    }
    assert 0 < small.data.limit <= 64 and small.objective.pretrain_epochs == 1
    for stage in STAGES:
        assert all(0 < small[stage][field] < full[stage][field] for field in fields)
        assert small[stage].batch_size < small.data.limit * (1 - small.data.dev_fraction)
    assert (
        small.student.epochs > small.objective.pretrain_epochs
    )  # so that the method itself runs too


@pytest.mark.parametrize("smoke", [False, True])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_shipped_configs_resolve(path, smoke):
    config = runpy.run_path(str(path))["get_config"]()
    config.smoke = smoke
    assert resolve(config).name == path.stem
    assert set(field_names(config)) == set(field_names(base()))  # a typo would add a field


def parse_flags(*arguments):
    """Returns the config of a command with these flags."""
    values, argv = flags.FlagValues(), ["kdjax.main", *arguments]
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # load_module()
        values(argv)
    return values.config


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_shipped_configs_load_from_another_working_directory(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [entry for entry in sys.path if Path(entry) != ROOT])
    monkeypatch.setitem(sys.modules, "configs", None)
    config = resolve(parse_flags(f"--config={path}", "--config.smoke"))
    assert config.name == path.stem and config.smoke


def overrides():
    """Yields a field, its value on the command line, and the parsed value, for every field."""
    for name, value in leaves(base()):
        if isinstance(value, bool):
            yield from ((name, "true", True), (name, "false", False))
        elif isinstance(value, int):
            yield from ((name, "7", 7), (name, "-7", -7))
        elif isinstance(value, float):
            yield from ((name, "0.375", 0.375), (name, "-2.5e-3", -2.5e-3), (name, "3", 3.0))
        elif isinstance(value, tuple):
            students = ({"objective.method": "kd"}, {"objective.payoff": 1.8, "seed": 1})
            yield from ((name, str(students), students), (name, "()", ()))
        else:
            yield from ((name, "some text", "some text"), (name, "", ""))


@pytest.fixture(scope="module")
def base_file(tmp_path_factory):
    """A config file that returns `base()`."""
    path = tmp_path_factory.mktemp("configs") / "base.py"
    path.write_text("from kdjax.config import base as get_config\n")
    return path


@pytest.mark.slow
def test_every_field_can_be_overridden_on_the_command_line(base_file):
    types = {name: type(value) for name, value in leaves(base())}
    for name, text, value in overrides():
        config = parse_flags(f"--config={base_file}", f"--config.{name}={text}")
        expected = changed()
        with expected.ignore_type():
            expected.update_from_flattened_dict({name: value})
        assert config.to_dict() == expected.to_dict(), (name, text)
        assert type(dict(leaves(config))[name]) is types[name], (name, text)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("wandb", ("wandb",)),
        ("tensorboard, wandb", ("tensorboard", "wandb")),
        ("('wandb', 'mlflow')", ("wandb", "mlflow")),
        ("", ()),
        ("()", ()),
    ],
)
def test_names_are_given_with_commas_or_as_a_tuple(text, names, base_file):
    config = parse_flags(f"--config={base_file}", f"--config.metric_writers={text}")
    assert resolve(config).metric_writers == names


@pytest.mark.parametrize("value", [3, ({"a": 1},), None])
def test_names_of_another_type_are_refused(value):
    config = base()
    config.metric_writers = value
    with pytest.raises(InputError, match=r"^metric_writers .* is not names separated by commas"):
        resolve(config)


def test_boolean_field_can_be_given_as_a_switch(base_file):
    for name in (name for name, value in leaves(base()) if isinstance(value, bool)):
        for flag, value in ((f"--config.{name}", True), (f"--noconfig.{name}", False)):
            assert dict(leaves(parse_flags(f"--config={base_file}", flag)))[name] is value, flag


def test_every_field_has_a_comment():
    described = {(field.group, field.name) for field in config_help.fields() if field.description}
    for name in field_names(base()):
        group, dot, field = name.partition(".")
        own = (group if dot else "", name) in described
        assert own or (group in config_help.STAGES and ("stage", field) in described), name


def test_unknown_field_cannot_be_set_in_a_resolved_config():
    config = resolve(base())
    with pytest.raises(AttributeError, match="epochs"):
        config.student.epoch = 3
    with pytest.raises(KeyError, match="mehtod"):
        config.objective["mehtod"] = "ce"


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
        ("objective.distill_weight", -0.5),
        ("objective.epsilon", -0.1),
        ("objective.distill_warmup_epochs", -1.0),
        ("objective.target_weight", -0.5),
        ("objective.non_target_weight", -0.5),
        ("objective.inter_class_weight", -0.5),
        ("objective.intra_class_weight", -0.5),
        ("objective.target_momentum", 1.0),
        ("objective.pretrain_epochs", -1),
        ("objective.pretrain_epochs", 201),
        ("objective.rank_weight_start", -0.1),
        ("objective.rank_weight_start", 1.1),
        *[
            (f"{stage}.{field}", value)
            for stage in STAGES
            for field, value in [
                ("epochs", 0),
                ("batch_size", 0),
                ("step_every", 0),
                ("bn_batches", 0),
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
def test_field_out_of_range_raises_with_name_and_value(field, value):
    with pytest.raises(InputError, match=re.escape(f"{field} {value} is ")):
        resolve(changed(**{field: value}))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_number_that_is_not_finite_raises_in_every_field(value):
    for field in (name for name, default in leaves(base()) if isinstance(default, float)):
        with pytest.raises(InputError, match=re.escape(f"{field} {value} is ")):
            resolve(changed(**{field: value}))


@pytest.mark.parametrize(
    ("field", "least", "most"),
    [
        ("seed", 0, 2**32 - 1),
        ("order_seed", -1, 2**32 - 1),
        ("data.split_seed", 0, 2**32 - 1),
        ("data.pad", 0, 16383),
        ("teacher.views", 0, 2**31 - 1),
    ],
)
def test_integer_that_would_wrap_raises(field, least, most):
    for value in (least, most):
        resolved = dict(leaves(resolve(changed(**{field: value}))))[field]
        assert resolved == value or (field, value) == ("order_seed", -1)
    for value in (least - 1, most + 1):
        with pytest.raises(InputError, match=re.escape(f"{field} {value} is out of range")):
            resolve(changed(**{field: value}))


@pytest.mark.parametrize(
    ("field", "value", "meant"),
    [
        ("student.epochs", 2.0, 2),
        ("student.epochs", np.float32(2), 2),
        ("student.epochs", np.int64(2), 2),
        ("student.epochs", "2e0", 2),
        ("student.weight_decay", 0, 0.0),
        ("student.weight_decay", np.float32(0.5), 0.5),
        ("smoke", 0, False),
        ("smoke", np.bool_(True), True),
        ("data.dir", Path("/data"), "/data"),
        ("students", [{"seed": 1}], ({"seed": 1},)),
    ],
)
def test_value_of_another_type_in_a_config_file_is_converted(field, value, meant):
    converted = dict(leaves(resolve(changed(**{field: value}))))[field]
    assert converted == meant and type(converted) is type(meant)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("student.epochs", 2.5, "student.epochs 2.5 is not an integer"),
        ("student.epochs", True, "student.epochs True is not an integer"),
        ("student.epochs", None, "student.epochs None is not an integer"),
        ("seed", "1e400", "seed '1e400' is not an integer"),
        ("student.momentum", "high", "student.momentum 'high' is not a number"),
        ("student.momentum", [0.9], "student.momentum [0.9] is not a number"),
        ("smoke", 2, "smoke 2 is not true or false"),
        ("data.name", 5, "data.name 5 is not a string"),
        ("students", None, "students None is not a tuple of dicts"),
        ("students", 5, "students 5 is not a tuple of dicts"),
        ("students", ("kd",), "students ('kd',) is not a tuple of dicts"),
        ("students", {"seed": 1}, "students {'seed': 1} is not a tuple of dicts"),
    ],
)
def test_value_that_cannot_be_converted_raises_one_line(field, value, message):
    with pytest.raises(InputError, match=re.escape(message)) as raised:
        resolve(changed(**{field: value}))
    assert "\n" not in str(raised.value).strip()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("seed", "1e3", 1000),
        ("seed", "2.0", 2),
        ("seed", "0x10", 16),
        ("order_seed", "-1", -1),
        ("student.learning_rate", "1e-2", 0.01),
        ("data.flip", "no", False),
        ("data.flip", "On", True),
        ("data.flip", "0", False),
    ],
)
def test_command_line_value_is_what_a_user_means(name, text, value, base_file):
    parsed = dict(leaves(parse_flags(f"--config={base_file}", f"--config.{name}={text}")))[name]
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("seed", "2.5", "'2.5' is not an integer"),
        ("seed", "", "'' is not an integer"),
        ("seed", "true", "'true' is not an integer"),
        ("student.momentum", "", "'' is not a number"),
        ("student.momentum", "1,5", "'1,5' is not a number"),
        ("data.flip", "", "'' is not true or false"),
        ("data.flip", "2", "'2' is not true or false"),
    ],
)
def test_command_line_value_of_another_type_is_one_line(name, text, reason, base_file):
    with pytest.raises(flags.IllegalFlagValueError) as raised:
        parse_flags(f"--config={base_file}", f"--config.{name}={text}")
    assert str(raised.value) == f"flag --config.{name}={text}: {reason}"


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
def test_unknown_value_raises_with_the_nearest_name(field, wrong, right):
    message = re.escape(f"unknown {field} '{wrong}': did you mean '{right}'? Valid: ")
    with pytest.raises(InputError, match=message):
        resolve(changed(**{field: wrong}))


def test_dtype_auto_is_the_faster_one_of_each_network(monkeypatch):
    fastest = {"resnet18": "bfloat16", "alexnet": "float32"}
    monkeypatch.setattr(compiler, "fastest_dtype", fastest.__getitem__)
    config = changed(**{"teacher.compute_dtype": "auto", "student.compute_dtype": "auto"})
    resolved = resolve(config)
    assert (resolved.teacher.model, resolved.teacher.compute_dtype) == ("resnet18", "bfloat16")
    assert (resolved.student.model, resolved.student.compute_dtype) == ("alexnet", "float32")
    open_config = resolve(config, devices=False)
    assert open_config.teacher.compute_dtype == open_config.student.compute_dtype == "auto"
    assert resolve(open_config).to_dict() == resolved.to_dict()


def test_dtype_auto_of_a_class_of_the_user_is_float32(tmp_path):
    model = f"{write(tmp_path, LINEN)}:Net"
    fields = {"student.model": model, "student.compute_dtype": "auto"}
    assert resolve(changed(**fields)).student.compute_dtype == "float32"


def test_hyperparameters_are_taken_from_the_objective():
    config = base()
    values = {"payoff": 3.5, "temperature": 2.0, "adjustment": "none", "epsilon": 0.05}
    config.objective.update({**values, "distill_weight": 0.25})
    assert hyperparameters(config) == Hyperparameters(3.5, 0.25, 2.0, "none", 0.05)
    values = {"target_weight": 2.0, "non_target_weight": 4.0, "target_momentum": 0.5}
    values |= {"inter_class_weight": 0.3, "intra_class_weight": 0.2, "logit_standardization": True}
    config.objective.update(values)
    expected = Hyperparameters(3.5, 0.25, 2.0, "none", 0.05, **values)
    assert hyperparameters(config) == expected


def test_differences_names_every_field_that_differs():
    before = {"a": 1, "b": {"c": "x", "d": {"e": [1, 2]}, "f": 0}, "removed": True, "g": {"h": 1}}
    after = {"a": 1.5, "b": {"c": "x", "d": {"e": [1]}, "f": 0}, "g": 2, "new": 0}
    assert differences(before, before) == []
    assert differences(before, after, "config.") == [
        "config.a: 1 -> 1.5",
        "config.b.d.e: [1, 2] -> [1]",
        "config.g: {'h': 1} -> 2",
        "config.new: None -> 0",
        "config.removed: True -> None",
    ]


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("student.lr", "student.learning_rate"),
        ("teacher.lr", "teacher.learning_rate"),
        ("lr", "student.learning_rate"),
        ("studnt.lr", "student.learning_rate"),
        ("teacher.bs", "teacher.batch_size"),
        ("student.wd", "student.weight_decay"),
        ("objective.temp", "objective.temperature"),
        ("objective.T", "objective.temperature"),
        ("student.temperature", "objective.temperature"),
        ("objective.alpha", "objective.distill_weight"),
        ("objective.lambda", "objective.distill_weight"),
        ("student.norm_batches", "student.bn_batches"),
        ("student.epoch", "student.epochs"),
        ("student.limit", "data.limit"),
        ("payoff", "objective.payoff"),
        ("student", "students"),
        ("data.batch_size", "student.batch_size"),
        ("objective.qqq", None),
    ],
)
def test_nearest_field_prefers_the_same_group_and_knows_synonyms(name, nearest):
    known = field_names(base())
    assert nearest_field(name, known) == nearest
    prefixed = [f"config.{field}" for field in known]
    assert nearest_field(f"config.{name}", prefixed) == (nearest and f"config.{nearest}")
    assert "--help lists" in str(unknown_field_error("config field", "qqq", known))


def test_every_synonym_is_the_name_of_a_field():
    components = {name.rpartition(".")[-1] for name in field_names(base())}
    assert set(kdjax.config_fields.SYNONYMS.values()) <= components
    assert not set(kdjax.config_fields.SYNONYMS) & components


def test_unknown_field_in_a_config_file_raises_with_the_nearest_field() -> None:
    config = base()
    config.objective.payof = 3.0
    with pytest.raises(InputError, match=r"'objective\.payof'.*'objective\.payoff'"):
        resolve(config)


def test_missing_field_in_a_config_file_raises() -> None:
    config = base()
    del config.student.epochs
    with pytest.raises(InputError, match=r"'student\.epochs' is missing"):
        resolve(config)


@pytest.mark.parametrize("stage", ["teacher", "student"])
def test_unknown_model_raises_with_the_nearest_name(stage: str) -> None:
    config = base()
    config[stage].model = "resnet21"
    with pytest.raises(InputError, match=rf"{stage}\.model 'resnet21'.*'resnet"):
        resolve(config)
