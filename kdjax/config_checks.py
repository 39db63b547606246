"""Allowed values of config fields: names and ranges."""

from collections.abc import Iterable, Mapping

from ml_collections import ConfigDict

from kdjax import checks
from kdjax.data import FITS
from kdjax.data.augment import FLIP_MODES
from kdjax.data.deployment_views import AUTO
from kdjax.data.deployment_views import NAMES as VIEWS
from kdjax.errors import InputError, unknown_name_error
from kdjax.models import DTYPES, MODELS, user_class, user_network
from kdjax.models.common import STEMS
from kdjax.objectives import ADJUSTMENTS, METHODS
from kdjax.runtime.sharding import PLACEMENTS
from kdjax.selective.outliers import GATES
from kdjax.selective.set_scores import SET_METHODS

SCHEDULES = ("cosine", "step", "linear")
OPTIMIZERS = ("sgd", "sam", "muon")
PIPELINES = ("resident", "stream")
CACHES = ("auto", "off")
AVERAGES = ("none", "ema", "swa")
LAYOUTS = ("auto", "nhwc", "nchw")
CHANNEL_ORDERS = ("rgb", "bgr")
SWEEP_METRICS = ("aurc", "accuracy")
# Fields that name a teacher that the run does not train.
TEACHER_SOURCES = ("workdir", "onnx", "logits", "weights")
# Fields of a given teacher, and the sources to which they apply.
TEACHER_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "onnx_output": ("onnx",),
    "class_names": ("onnx", "logits", "weights"),
    "input_scale": ("onnx", "weights"),
    "input_mean": ("onnx", "weights"),
    "input_std": ("onnx", "weights"),
}
# Fields of `config.objective` that are at least 0.
NOT_NEGATIVE = (
    "distill_weight",
    "distill_warmup_epochs",
    "target_weight",
    "non_target_weight",
    "inter_class_weight",
    "intra_class_weight",
    "pretrain_epochs",
)
# Largest seed: the random generators take 32 bits.
MAX_SEED = 2**32 - 1
# Largest number of views: epochs are counted in 32 bits.
MAX_VIEWS = 2**31 - 1
# Largest padding: the number of an augmentation must fit in 32 bits.
MAX_PAD = 16383
# Largest height and width to which own images are resized: our choice.
MAX_IMAGE_SIZE = 4096


def check_choices(config: ConfigDict, choices: Mapping[str, Iterable[str]]) -> None:
    """Raises for a field that holds an unknown name.

    Args:
        config: with all fields, of the right types.
        choices: top-level field -> its allowed names, in addition to those that are listed here.

    Raises:
        InputError: with the nearest valid name.
    """
    allowed_names: dict[str, tuple[str, Iterable[str]]] = {
        **{name: (config[name], names) for name, names in choices.items()},
        "sweep_metric": (config.sweep_metric, SWEEP_METRICS),
        "data.pipeline": (config.data.pipeline, PIPELINES),
        "data.placement": (config.data.placement, PLACEMENTS),
        "data.fit": (config.data.fit, FITS),
        "selective.views": (config.selective.views, (AUTO, *VIEWS)),
        "selective.gate": (config.selective.gate, GATES),
        "selective.set_method": (config.selective.set_method, SET_METHODS),
        "data.flip_mode": (config.data.flip_mode, FLIP_MODES),
        "teacher.cache": (config.teacher.cache, CACHES),
        "teacher.input_layout": (config.teacher.input_layout, LAYOUTS),
        "teacher.input_channels": (config.teacher.input_channels, CHANNEL_ORDERS),
        "objective.method": (config.objective.method, METHODS),
        "objective.adjustment": (config.objective.adjustment, ADJUSTMENTS),
    }
    for name, stage in (("teacher", config.teacher), ("student", config.student)):
        allowed_names[f"{name}.optimizer"] = stage.optimizer, OPTIMIZERS
        allowed_names[f"{name}.schedule"] = stage.schedule, SCHEDULES
        allowed_names[f"{name}.average"] = stage.average, AVERAGES
        allowed_names[f"{name}.compute_dtype"] = stage.compute_dtype, (*DTYPES, "auto")
        allowed_names[f"{name}.stem"] = stage.stem, STEMS
    for field, (value, allowed) in allowed_names.items():
        if value not in allowed:
            raise unknown_name_error(field, value, allowed)


def check_networks(config: ConfigDict) -> None:
    """Raises for a model that does not exist, or arguments that it cannot have.

    Args:
        config: with all fields, of the right types.

    Raises:
        InputError: with the nearest valid name.
    """
    for stage in ("teacher", "student"):
        fields = config[stage]
        if user_class.is_reference(fields.model):
            arguments = user_class.parse_arguments(f"{stage}.model_args", fields.model_args)
            user_network.check_arguments(fields.model, arguments)
        elif fields.model and fields.model not in MODELS:
            raise InputError(
                f"{unknown_name_error(f'{stage}.model', fields.model, MODELS)}; or a class of your "
                "own: package.module:Class or path/to/file.py:Class"
            )
        elif fields.model_args:
            raise InputError(
                f"{stage}.model_args {fields.model_args!r}: only a network of your own takes "
                f"arguments, with {stage}.model=package.module:Class"
            )


def check_ranges(config: ConfigDict) -> None:
    """Raises for a number that is out of its range.

    Args:
        config: with all fields, of the right types.

    Raises:
        InputError: naming the field, its value and the allowed range.
    """
    for group, field in (
        ("data", "test_fraction"),
        ("data", "dev_fraction"),
        ("data", "calibration_fraction"),
        ("selective", "risk"),
        ("selective", "delta"),
        ("selective", "set_alpha"),
        ("selective", "gate_acceptance"),
    ):
        checks.within(f"{group}.{field}", config[group][field], 1e-6, 1)
    checks.within("selective.coverage", config.selective.coverage, 0, 1)
    checks.above("objective.payoff", config.objective.payoff, 1)
    checks.temperature(config.objective.temperature, "objective.temperature")
    _between("seed", config.seed, 0, MAX_SEED)
    _between("order_seed", config.order_seed, -1, MAX_SEED)
    _between("data.split_seed", config.data.split_seed, 0, MAX_SEED)
    _between("data.pad", config.data.pad, 0, MAX_PAD)
    _between("data.image_size", config.data.image_size, 0, MAX_IMAGE_SIZE)
    _at_least(config, 1, "log_every", "eval_batch_size", "eval_every")
    _at_least(config.data, 0, "limit", prefix="data.")
    checks.within("objective.epsilon", config.objective.epsilon, 0, 1)
    checks.within("objective.target_momentum", config.objective.target_momentum, 0, 1)
    _between("objective.rank_weight_start", config.objective.rank_weight_start, 0, 1)
    _between("teacher.views", config.teacher.views, 0, MAX_VIEWS)
    _at_least(config.objective, 0, *NOT_NEGATIVE, prefix="objective.")
    checks.within("teacher.label_smoothing", config.teacher.label_smoothing, 0, 1)
    for name, stage in (("teacher.", config.teacher), ("student.", config.student)):
        _at_least(stage, 1, "epochs", "batch_size", "step_every", "bn_batches", prefix=name)
        _at_least(stage, 0, "width", "weight_decay", "warmup_epochs", prefix=name)
        checks.above(f"{name}learning_rate", stage.learning_rate, 0)
        for field in ("momentum", "average_start", "ema_decay"):
            checks.within(f"{name}{field}", stage[field], 0, 1)
        for field in ("step_factor", "sam_rho", "bn_bias_factor"):
            checks.above(f"{name}{field}", stage[field], 0)


def check_pretraining(config: ConfigDict) -> None:
    """Raises if pre-training is longer than the training of the student.

    Args:
        config: with all fields in their ranges.

    Raises:
        InputError: naming both fields.
    """
    if config.objective.pretrain_epochs > config.student.epochs:
        raise InputError(
            f"objective.pretrain_epochs {config.objective.pretrain_epochs} is more than "
            f"student.epochs {config.student.epochs}"
        )


def check_rank_weights(config: ConfigDict) -> None:
    """Raises if the losses cannot be weighted by the teacher's confidence from the given epoch on.

    Args:
        config: with all fields in their ranges.

    Raises:
        InputError: for a method without a teacher, or a student that is only pre-trained.
    """
    fields = config.objective
    if fields.rank_weight_start == 1:
        return
    given = f"objective.rank_weight_start {fields.rank_weight_start:g}"
    if not METHODS[fields.method].needs_teacher:
        with_teacher = ", ".join(name for name, method in METHODS.items() if method.needs_teacher)
        raise InputError(
            f"{given} needs a teacher, and objective.method {fields.method!r} has none: use one of "
            f"{with_teacher}, or leave it at 1"
        )
    if fields.pretrain_epochs == config.student.epochs:
        raise InputError(
            f"{given} has no effect: all {config.student.epochs} epochs are pre-training "
            "(objective.pretrain_epochs)"
        )


def check_teacher(fields: ConfigDict) -> None:
    """Raises if the fields of a teacher that the run does not train contradict each other.

    Args:
        fields: `config.teacher`, of the right types.

    Raises:
        InputError: for several sources, a field that does not apply to the source, or a number out
            of range.
    """
    sources = [name for name in TEACHER_SOURCES if fields[name]]
    if len(sources) > 1:
        given = " and ".join(f"teacher.{name} {fields[name]!r}" for name in sources)
        raise InputError(f"{given}: only one of them can be the teacher")
    for name, applies_to in TEACHER_OPTIONS.items():
        if fields[name] and not set(sources) & set(applies_to):
            needed = " or ".join(f"teacher.{source}" for source in applies_to)
            raise InputError(f"teacher.{name} {fields[name]!r} has no effect without {needed}")
    for name, default in (("input_layout", LAYOUTS[0]), ("input_channels", CHANNEL_ORDERS[0])):
        if fields[name] != default and "onnx" not in sources:
            raise InputError(f"teacher.{name} {fields[name]!r} has no effect without teacher.onnx")
    if fields.folds == 1 or fields.folds < 0:
        raise InputError(
            f"teacher.folds {fields.folds} is out of range: it must be 0, or at least 2"
        )
    if fields.folds and sources:
        raise InputError(
            f"teacher.folds {fields.folds} has no effect with teacher.{sources[0]} "
            f"{fields[sources[0]]!r}, which is not trained: remove one of them"
        )
    if fields.label_smoothing and sources:
        raise InputError(
            f"teacher.label_smoothing {fields.label_smoothing:g} has no effect with "
            f"teacher.{sources[0]} {fields[sources[0]]!r}, which is not trained: remove one of them"
        )
    if fields.input_scale < 0:
        raise InputError(
            f"teacher.input_scale {fields.input_scale:g} is out of range: it must be above 0, or 0 "
            "for the default"
        )


def _between(name: str, value: float, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InputError(f"{name} {value} is out of range: it must be from {low} to {high}")


def _at_least(fields: ConfigDict, bound: int, *names: str, prefix: str = "") -> None:
    for name in names:
        if not fields[name] >= bound:
            raise InputError(
                f"{prefix}{name} {fields[name]} is out of range: it must be at least {bound}"
            )
