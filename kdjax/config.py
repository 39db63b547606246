"""The configuration: every field with its default, derived values, and the allowed ranges.

The files in `configs/` start from `base()`. `resolve` derives the open fields and checks all of
them before anything is loaded, compiled or written.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from kdjax import checks, field_types
from kdjax.errors import InputError, unknown_name_error
from kdjax.models import DTYPES, MODELS
from kdjax.objectives import ADJUSTMENTS, METHODS, Hyperparameters
from kdjax.runtime.sharding import PLACEMENTS

# (setting, size) -> (teacher, student). The two settings are those of Xu, Pu, Zhao, ICPR 2020:
# across structures and across depths. The assignment of the networks is our reading of the
# abstract.
PAIRS: Mapping[tuple[str, str], tuple[str, str]] = {
    ("structure", "paper"): ("resnet18", "alexnet"),
    ("depth", "paper"): ("resnet50", "resnet18"),
    ("structure", "laptop"): ("resnet14", "alexnet_small"),
    ("depth", "laptop"): ("resnet14", "resnet8"),
}
# The default of 0.1 is the usual value for networks with batch norm. alexnet has no batch norm and
# needs a smaller one: our choice, not tuned on a development split.
LEARNING_RATES = {"alexnet": 0.03}
DEFAULT_LEARNING_RATE = 0.1
SCHEDULES = ("cosine", "step")
PIPELINES = ("resident", "stream")
CACHES = ("auto", "off")
AVERAGES = ("none", "ema", "swa")
# Metrics that select the best checkpoint on the development split: +1 if higher is better.
BEST_METRICS: Mapping[str, int] = {"accuracy": 1, "nll": -1, "aurc": -1}
# Field names of earlier versions, as they occur in the config.json of existing workdirs.
RENAMED_FIELDS: Mapping[str, str] = {
    "tuned": "cpu_tuning",
    "objective.lambda": "objective.distill_weight",
    "teacher.norm_batches": "teacher.bn_batches",
    "student.norm_batches": "student.bn_batches",
}
# Common abbreviations and other names of fields, in lower case; used only for suggestions.
SYNONYMS: Mapping[str, str] = {
    "lr": "learning_rate",
    "bs": "batch_size",
    "wd": "weight_decay",
    "temp": "temperature",
    "t": "temperature",
    "alpha": "distill_weight",
    **{old.split(".")[-1]: new.split(".")[-1] for old, new in RENAMED_FIELDS.items()},
}
# Largest seed: the random generators take 32 bits.
MAX_SEED = 2**32 - 1
# Largest padding: the number of an augmentation must fit in 32 bits.
MAX_PAD = 16383
# Weight of the group (such as `student`) against the field when names are compared.
_GROUP_WEIGHT = 0.25


def base() -> ConfigDict:
    """Returns the config from which every file in `configs/` starts: all fields, documented.

    It accepts values of any type, such as 2.0 for an integer: `resolve` converts or refuses them.
    """
    config = ConfigDict(type_safe=False)
    config.name = "run"  # any name; the default workdir is runs/<name>
    # Integer seed of the initial weights, and of the order and augmentation of the images unless
    # order_seed is set; from 0 to 2^32 - 1. It does not affect the data splits.
    config.seed = 0
    # Integer seed of the order and augmentation of the images, from 0 to 2^32 - 1; -1: use seed.
    config.order_seed = -1
    # structure | depth: teacher and student differ in architecture or in depth, see PAIRS.
    config.setting = "structure"
    config.size = "paper"  # paper | laptop: full-size or small networks, see PAIRS
    # Whether to use the compiler and allocator options for CPUs of kdjax.runtime.compiler; false:
    # the defaults of XLA and libc.
    config.cpu_tuning = True
    # Whether to train for a few steps on a few images, to test that this config runs.
    config.smoke = False
    # accuracy | nll | aurc: the metric on dev that selects the best checkpoint.
    config.best_metric = "accuracy"
    # Steps between lines of metrics.jsonl and between checks that the loss is finite, >= 1.
    config.log_every = 50
    config.eval_batch_size = 256  # images per batch in evaluation, >= 1

    config.data = ConfigDict(type_safe=False)
    config.data.name = "digits"  # digits, or an image-classification data set of TFDS
    # The TFDS directory; empty: TFDS_DATA_DIR, or ~/tensorflow_datasets.
    config.data.dir = ""
    # The TFDS split from which train, dev and calibration are cut; + joins several. SVHN with its
    # extra images: train+extra.
    config.data.train_split = "train"
    config.data.test_split = "test"  # the TFDS split used as test; + joins several
    # Fraction of train_split used as dev, on which all choices are made; in (0, 1).
    config.data.dev_fraction = 0.1
    # Fraction of train_split used as the calibration split, only for certificates; in (0, 1).
    config.data.calibration_fraction = 0.1
    # Integer seed of both cuts, from 0 to 2^32 - 1, the same for the teacher and all students.
    config.data.split_seed = 0
    # Number of images used of each split, drawn at random with split_seed, >= 0; 0: all.
    config.data.limit = 0
    # resident: all images in memory | stream: images of train, dev and calibration are read from
    # disk when needed. Both give the same batches.
    config.data.pipeline = "resident"
    # replicated: each device holds all resident images | sharded: each device holds an equal part
    # | auto: replicated up to kdjax.runtime.sharding.MAX_REPLICATED_BYTES, sharded above.
    config.data.placement = "auto"
    # Pixels of zero padding on each side before the random crop, >= 0; 4 is usual for 32x32
    # images, e.g. in the code of arXiv 1907.00208.
    config.data.pad = 4
    # Whether to mirror each image left to right with probability 1/2.
    config.data.flip = True

    config.objective = ConfigDict(type_safe=False)
    # A key of kdjax.objectives.METHODS. ka_gambler_sum was better than ka_gambler_soft on the dev
    # split of Fashion-MNIST, measured with an earlier version: experiments/results/sum_or_soft.md.
    config.objective.method = "ka_gambler_sum"
    # Payoff o of the gambler losses, > 1; from the number of classes on, abstaining never lowers
    # the loss. 2.2 is the value for CIFAR-10 in the code of arXiv 1907.00208.
    config.objective.payoff = 2.2
    # Weight lambda of the distillation term in methods with a second term, >= 0. Our choice.
    config.objective.distill_weight = 1.0
    # Distillation temperature T, > 0; 4 is usual, e.g. arXiv 1910.10699.
    config.objective.temperature = 4.0
    # probability_shift | label_smooth_regularization | none: how the label corrects the teacher
    # where it is wrong; arXiv 1911.07471.
    config.objective.adjustment = "probability_shift"
    # Smoothing of label_smooth_regularization, in [0, 1 - 1/classes); 0.1 is the value of two
    # public implementations of arXiv 1911.07471.
    config.objective.epsilon = 0.1
    # Epochs of cross-entropy training before the method, from 0 to student.epochs; prevents
    # abstention on all images at low payoffs, arXiv 1907.00208.
    config.objective.pretrain_epochs = 0

    config.selective = ConfigDict(type_safe=False)
    # Selective risk (error among accepted images) that the certificate guarantees, in (0, 1).
    config.selective.risk = 0.02
    # Probability that the certificate does not hold, in (0, 1).
    config.selective.delta = 0.05

    config.teacher = _stage()
    # Workdir of a trained teacher; empty: train a teacher in <workdir>/teacher.
    config.teacher.workdir = ""
    # auto | off: auto computes the teacher's logits once for every augmentation of every image if
    # an image has at most as many augmentations as the student has epochs, and if they fit in
    # memory; off computes them at every step.
    config.teacher.cache = "auto"
    config.student = _stage()
    # Changes of fields for each of several students of one teacher, trained together, such as
    # ({"objective.method": "kd"}, {"objective.payoff": 1.8, "seed": 1}); empty: one student.
    config.students = ()
    return config


def _stage() -> ConfigDict:
    """Returns the fields of one stage: a network and its training."""
    stage = ConfigDict(type_safe=False)
    stage.model = ""  # a key of kdjax.models.MODELS; empty: derived from setting and size
    stage.width = 0  # channels of the first layer, >= 0; 0: the default of the model
    # float32 | bfloat16: dtype of the network's computation; weights and losses are float32.
    stage.compute_dtype = "float32"
    stage.epochs = 200  # training epochs, >= 1
    stage.batch_size = 128  # images in a global batch, over all devices, >= 1
    # Peak learning rate, > 0; 0: the default of the model, see LEARNING_RATES.
    stage.learning_rate = 0.0
    stage.momentum = 0.9  # momentum of SGD, in [0, 1); as in the code of arXiv 1907.00208
    stage.nesterov = True  # whether to use Nesterov momentum
    stage.weight_decay = 5e-4  # L2 coefficient, >= 0; as in the code of arXiv 1907.00208
    # Whether weight decay also applies to biases and batch-norm parameters.
    stage.decay_all = False
    stage.warmup_epochs = 1.0  # epochs of linear warm-up of the learning rate, >= 0
    # cosine: to zero at the last step | step: multiplied by step_factor every step_every epochs.
    stage.schedule = "cosine"
    stage.step_every = 25  # epochs between the drops of step, >= 1; as in arXiv 1907.00208's code
    stage.step_factor = 0.5  # factor of each drop of step, > 0; as in arXiv 1907.00208's code
    # none | ema: exponential moving average over steps | swa: mean over epochs, arXiv 1803.05407:
    # averaging of the weights.
    stage.average = "none"
    # Fraction of the epochs after which averaging starts, in [0, 1).
    stage.average_start = 0.75
    stage.ema_decay = 0.999  # decay per step of the exponential moving average, in [0, 1)
    # Batches from which the batch-norm statistics of the averaged weights are computed, >= 1.
    stage.bn_batches = 100
    return stage


def resolve(config: ConfigDict) -> ConfigDict:
    """Returns a locked, checked copy with the derived fields and the smoke settings filled in.

    Raises:
        ValueError: for a missing field, a field out of range, or an unknown name (with the nearest
            valid name).
    """
    config = convert_types(config)
    _check_names(config)
    teacher, student = PAIRS[config.setting, config.size]
    config.teacher.model = config.teacher.model or teacher
    config.student.model = config.student.model or student
    for stage in (config.teacher, config.student):
        stage.learning_rate = stage.learning_rate or default_learning_rate(stage.model)
    if config.order_seed == -1:
        config.order_seed = config.seed
    if config.smoke:
        _shrink(config)
    _check_ranges(config)
    return config.lock()


def convert_types(config: ConfigDict) -> ConfigDict:
    """Returns a copy with every value as the type of its field, such as 2 for 2.0.

    Raises:
        InputError: for a missing or unknown field, a value that cannot be converted without loss,
            or a number that is not finite.
    """
    fields, defaults = (flatten_dict(fields.to_dict(), sep=".") for fields in (config, base()))
    if "students" in config:  # a dict would be flattened
        given = config.students
        given = given.to_dict() if isinstance(given, ConfigDict) else given
        field_types.convert("students", given, defaults["students"])
    _check_fields(fields, defaults)
    typed = {
        name: field_types.convert(name, fields[name], default) for name, default in defaults.items()
    }
    return ConfigDict(unflatten_dict(typed, sep="."))


def default_learning_rate(model: str) -> float:
    """Returns the learning rate of a network if the config gives none."""
    return LEARNING_RATES.get(model, DEFAULT_LEARNING_RATE)


def hyperparameters(config: ConfigDict) -> Hyperparameters:
    """Returns the hyperparameters of the objective."""
    objective = config.objective
    return Hyperparameters(
        payoff=objective.payoff,
        weight=objective.distill_weight,
        temperature=objective.temperature,
        adjustment=objective.adjustment,
        epsilon=objective.epsilon,
    )


def _shrink(config: ConfigDict) -> None:
    """Reduces images, batches and epochs for a smoke run; the networks stay the same."""
    config.data.limit = 64
    config.eval_batch_size = 32
    config.objective.pretrain_epochs = min(1, config.objective.pretrain_epochs)
    for stage, epochs in ((config.teacher, 1), (config.student, 2)):
        stage.epochs, stage.batch_size, stage.warmup_epochs = epochs, 16, 0.5
        stage.bn_batches = 2


def field_names(config: Mapping[str, Any] | ConfigDict) -> list[str]:
    """Returns the dotted name of every field of a nested config."""
    nested = config.to_dict() if isinstance(config, ConfigDict) else config
    return list(flatten_dict(nested, sep="."))


def nearest_field(name: str, known: Iterable[str]) -> str:
    """Returns the known field whose dotted name is most similar to `name`.

    The last component counts most, after the replacement of `SYNONYMS`; the group decides between
    similar fields, so `student.lr` gives `student.learning_rate`.

    Args:
        name: dotted name of a field.
        known: dotted names of the valid fields, at least one.
    """
    group, _, field = name.rpartition(".")
    field = SYNONYMS.get(field.lower(), field)

    def similarity(candidate: str) -> float:
        candidate_group, _, candidate_field = candidate.rpartition(".")
        return _similarity(field, candidate_field) + _GROUP_WEIGHT * _similarity(
            group, candidate_group
        )

    return max(sorted(known), key=similarity)


def _similarity(name: str, candidate: str) -> float:
    return difflib.SequenceMatcher(None, name, candidate).ratio()


def unknown_field_error(kind: str, name: str, known: Iterable[str]) -> InputError:
    """Returns the error for a field that does not exist, with the nearest field.

    Args:
        kind: what the field belongs to, such as `"config field"`.
        name: the dotted name that was given.
        known: dotted names of the valid fields.
    """
    return InputError(f"unknown {kind} {name!r}: did you mean {nearest_field(name, known)!r}?")


def rename_legacy_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a stored config with the fields of earlier versions renamed to the current names."""
    fields = flatten_dict(config, keep_empty_nodes=True, sep=".")
    return unflatten_dict(
        {RENAMED_FIELDS.get(name, name): value for name, value in fields.items()}, sep="."
    )


def _check_fields(fields: Iterable[str], defaults: Iterable[str]) -> None:
    names, known = set(fields), set(defaults)
    for name in sorted(names - known):
        if name in RENAMED_FIELDS:
            raise InputError(f"config field {name!r} is now called {RENAMED_FIELDS[name]!r}")
        raise unknown_field_error("config field", name, known)
    for name in sorted(known - names):
        raise InputError(f"config field {name!r} is missing: start from kdjax.config.base()")


def _check_names(config: ConfigDict) -> None:
    choices = {
        "setting": (config.setting, {setting for setting, _ in PAIRS}),
        "size": (config.size, {size for _, size in PAIRS}),
        "best_metric": (config.best_metric, BEST_METRICS),
        "data.pipeline": (config.data.pipeline, PIPELINES),
        "data.placement": (config.data.placement, PLACEMENTS),
        "teacher.cache": (config.teacher.cache, CACHES),
        "objective.method": (config.objective.method, METHODS),
        "objective.adjustment": (config.objective.adjustment, ADJUSTMENTS),
    }
    for name, stage in (("teacher", config.teacher), ("student", config.student)):
        choices[f"{name}.schedule"] = stage.schedule, SCHEDULES
        choices[f"{name}.average"] = stage.average, AVERAGES
        choices[f"{name}.compute_dtype"] = stage.compute_dtype, DTYPES
        choices[f"{name}.model"] = stage.model or next(iter(MODELS)), MODELS
    for field, (value, allowed) in choices.items():
        if value not in allowed:
            raise unknown_name_error(field, value, allowed)


def _check_ranges(config: ConfigDict) -> None:
    for group, field in (
        ("data", "dev_fraction"),
        ("data", "calibration_fraction"),
        ("selective", "risk"),
        ("selective", "delta"),
    ):
        checks.within(f"{group}.{field}", config[group][field], 1e-6, 1)
    checks.above("objective.payoff", config.objective.payoff, 1)
    checks.above("objective.temperature", config.objective.temperature, 0)
    checks.temperature(config.objective.temperature, "objective.temperature")
    _between("seed", config.seed, 0, MAX_SEED)
    _between("order_seed", config.order_seed, -1, MAX_SEED)
    _between("data.split_seed", config.data.split_seed, 0, MAX_SEED)
    _between("data.pad", config.data.pad, 0, MAX_PAD)
    _at_least(config, 1, "log_every", "eval_batch_size")
    _at_least(config.data, 0, "limit", prefix="data.")
    checks.within("objective.epsilon", config.objective.epsilon, 0, 1)
    _at_least(config.objective, 0, "distill_weight", "pretrain_epochs", prefix="objective.")
    if config.objective.pretrain_epochs > config.student.epochs:
        raise InputError(
            f"objective.pretrain_epochs {config.objective.pretrain_epochs} is more than "
            f"student.epochs {config.student.epochs}"
        )
    for name, stage in (("teacher.", config.teacher), ("student.", config.student)):
        _at_least(stage, 1, "epochs", "batch_size", "step_every", "bn_batches", prefix=name)
        _at_least(stage, 0, "width", "weight_decay", "warmup_epochs", prefix=name)
        checks.above(f"{name}learning_rate", stage.learning_rate, 0)
        for field in ("momentum", "average_start", "ema_decay"):
            checks.within(f"{name}{field}", stage[field], 0, 1)
        checks.above(f"{name}step_factor", stage.step_factor, 0)


def _between(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InputError(f"{name} {value} is out of range: it must be from {low} to {high}")


def _at_least(fields: ConfigDict, bound: int, *names: str, prefix: str = "") -> None:
    for name in names:
        if not fields[name] >= bound:
            raise InputError(
                f"{prefix}{name} {fields[name]} is out of range: it must be at least {bound}"
            )


def differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Returns a line `field: before -> after` for every field in which two nested configs differ.

    Args:
        before: a nested config.
        after: another one; a field that only one of them has is shown as None in the other.
        prefix: put before the field names.
    """
    lines = []
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            lines.append(f"{prefix}{key}: {old!r} -> {new!r}")
    return lines
