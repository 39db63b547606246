"""The configuration: fields of `config_base.base`, derived values, and checks.

The files in `configs/` start from `base()`. `resolve` derives the open fields and checks all of
them before anything is loaded, compiled or written.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from kdjax import config_checks, config_fields, config_sweep, field_types, recipes
from kdjax.config_base import base
from kdjax.data import deployment_views
from kdjax.data.own.names import absolute
from kdjax.errors import InputError
from kdjax.models import user_class
from kdjax.objectives import Hyperparameters
from kdjax.runtime import compiler

# (setting, size) -> (teacher, student). The two settings are those of Xu, Pu, Zhao, ICPR 2020:
# across structures and across depths. The assignment of the networks is our reading of the
# abstract.
PAIRS: Mapping[tuple[str, str], tuple[str, str]] = {
    ("structure", "paper"): ("resnet18", "alexnet"),
    ("depth", "paper"): ("resnet50", "resnet18"),
    ("structure", "laptop"): ("resnet14", "alexnet_small"),
    ("depth", "laptop"): ("resnet14", "resnet8"),
}
# setting -> (teacher, student) of the recipe `fast`.
FAST_PAIRS: Mapping[str, tuple[str, str]] = {
    "structure": ("fast_cnn", "alexnet_small"),
    "depth": ("fast_cnn", "fast_cnn_shallow"),
}
# The default of 0.1 is the usual value for networks with batch norm. alexnet has no batch norm and
# needs a smaller one, not tuned on a development split: with 0.03 cross-entropy trains, but
# distillation at temperature 4, whose gradients are up to four times as large, was not finite
# within three epochs of CIFAR-10.
LEARNING_RATES = {"alexnet": 0.01}
DEFAULT_LEARNING_RATE = 0.1
# Muon has the learning rates of Adam, which do not depend on the network: our choice.
OPTIMIZER_LEARNING_RATES = {"muon": 0.01}
# Metrics that select the best checkpoint on the development split: +1 if higher is better.
BEST_METRICS: Mapping[str, int] = {"accuracy": 1, "nll": -1, "aurc": -1}
# Texts with values separated by commas, which may be given as a tuple or a list.
_LISTS = ("teacher.workdir", "teacher.class_names", "teacher.input_mean", "teacher.input_std")


def resolve(config: ConfigDict, *, devices: bool = True) -> ConfigDict:
    """Returns a locked, checked copy with the derived fields and the smoke settings filled in.

    Args:
        config: of `base`; a resolved one is not changed.
        devices: whether JAX may be asked for its devices, by which `compute_dtype` is chosen; if
            not, "auto" remains.

    Raises:
        ValueError: for a missing field, a field out of range, or an unknown name (with the nearest
            valid name).
    """
    config = convert_types(config)
    settings, sizes = zip(*PAIRS, strict=True)
    config_checks.check_choices(
        config, {"setting": set(settings), "size": set(sizes), "best_metric": BEST_METRICS}
    )
    config.data.name = absolute(config.data.name)
    config_checks.check_networks(config)
    recipes.check_applied(config)
    fast = config.recipe == "fast"
    teacher, student = FAST_PAIRS[config.setting] if fast else PAIRS[config.setting, config.size]
    config.teacher.model = config.teacher.model or teacher
    config.student.model = config.student.model or student
    for stage in (config.teacher, config.student):
        stage.model = user_class.absolute(stage.model)
        stage.learning_rate = stage.learning_rate or default_learning_rate(
            stage.model, stage.optimizer
        )
        if devices and stage.compute_dtype == "auto":
            is_own = user_class.is_reference(stage.model)
            stage.compute_dtype = "float32" if is_own else compiler.fastest_dtype(stage.model)
    if config.order_seed == -1:
        config.order_seed = config.seed
    config.selective.views = deployment_views.resolve(config.selective.views, flip=config.data.flip)
    config_checks.check_ranges(config)
    config.sweep_seeds = config_sweep.canonical_seeds(config.sweep_seeds, config.sweep, config.seed)
    if config.sweep and config.students:
        raise InputError("sweep and students exclude each other: write all settings into sweep")
    config_checks.check_teacher(config.teacher)
    if config.smoke:
        _shrink(config)
    config_checks.check_pretraining(config)
    config_checks.check_rank_weights(config)
    return config.lock()


def convert_types(config: ConfigDict) -> ConfigDict:
    """Returns a copy with every value as the type of its field, such as 2 for 2.0.

    Raises:
        InputError: for a missing or unknown field, a value that cannot be converted without loss,
            or a number that is not finite.
    """
    nested = config.to_dict()
    sweep = {"sweep": nested.pop("sweep")} if "sweep" in nested else {}  # it would be flattened
    fields, defaults = (
        flatten_dict(_with_argument_texts(values), sep=".") for values in (nested, base().to_dict())
    )
    if "students" in config:  # a dict would be flattened
        given = config.students
        given = given.to_dict() if isinstance(given, ConfigDict) else given
        field_types.convert("students", given, defaults["students"])
    _check_fields(fields | sweep, defaults)
    fields["sweep"] = config_sweep.canonical(sweep["sweep"], defaults)
    fields["sweep_seeds"] = config_sweep.seeds_text(fields["sweep_seeds"])
    for name in _LISTS:
        fields[name] = field_types.comma_separated(fields[name])
    typed = {
        name: field_types.convert(name, fields[name], default) for name, default in defaults.items()
    }
    return ConfigDict(unflatten_dict(typed, sep="."))


def _with_argument_texts(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns a nested config with dicts of arguments as JSON text."""
    return {
        name: {**group, "model_args": field_types.json_object(group["model_args"])}
        if isinstance(group, dict) and "model_args" in group
        else group
        for name, group in fields.items()
    }


def default_learning_rate(model: str, optimizer: str) -> float:
    """Returns the learning rate of a network and an optimizer if the config gives none."""
    of_model = LEARNING_RATES.get(model, DEFAULT_LEARNING_RATE)
    return OPTIMIZER_LEARNING_RATES.get(optimizer, of_model)


def hyperparameters(config: ConfigDict) -> Hyperparameters:
    """Returns the hyperparameters of the objective."""
    fields = (field.name for field in dataclasses.fields(Hyperparameters))
    return Hyperparameters(**{field: config.objective[field] for field in fields})


def _shrink(config: ConfigDict) -> None:
    """Reduces images, batches and epochs for a smoke run; the networks stay the same."""
    config.data.limit = 64
    config.eval_batch_size = 32
    config.teacher.folds = min(2, config.teacher.folds)
    config.objective.pretrain_epochs = min(1, config.objective.pretrain_epochs)
    for stage, epochs in ((config.teacher, 1), (config.student, 2)):
        stage.epochs, stage.batch_size, stage.warmup_epochs = epochs, 16, 0.5
        stage.bn_batches = 2


def _check_fields(fields: Iterable[str], defaults: Iterable[str]) -> None:
    names, known = set(fields), set(defaults)
    for name in sorted(names - known):
        if name in config_fields.RENAMED_FIELDS:
            raise InputError(
                f"config field {name!r} is now called {config_fields.RENAMED_FIELDS[name]!r}"
            )
        raise config_fields.unknown_field_error("config field", name, known)
    for name in sorted(known - names):
        raise InputError(f"config field {name!r} is missing: start from kdjax.config.base()")
