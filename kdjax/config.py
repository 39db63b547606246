"""Every field of a config with its default, what follows from it, and what is allowed.

`configs/*.py` start from `base()`; `resolve` fills in what the fields leave open and refuses what
cannot work, before anything is loaded, compiled or written.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from kdjax import checks
from kdjax.errors import InputError, nearest, unknown
from kdjax.models import DTYPES, MODELS
from kdjax.objectives import ADJUSTMENTS, METHODS, Hyper
from kdjax.parallel import PLACEMENTS

# (setting, size) -> (teacher, student). The two settings are those of Xu, Pu, Zhao, ICPR 2020:
# across structures and across depths; which network teaches which is our reading of its abstract.
PAIRS: Mapping[tuple[str, str], tuple[str, str]] = {
    ("structure", "paper"): ("resnet18", "alexnet"),
    ("depth", "paper"): ("resnet50", "resnet18"),
    ("structure", "laptop"): ("resnet8", "alexnet_small"),
    ("depth", "laptop"): ("resnet14", "resnet8"),
}
# With batch-norm 0.1, the usual value. alexnet has none and wants less: our choice, not tuned on a
# development split.
LEARNING_RATES = {"alexnet": 0.03}
USUAL_LEARNING_RATE = 0.1
SCHEDULES = ("cosine", "step")
PIPELINES = ("resident", "stream")
CACHES = ("auto", "off")
AVERAGES = ("none", "ema", "swa")
# How the best checkpoint is chosen on the development split: +1 where more is better.
BEST_METRICS: Mapping[str, int] = {"accuracy": 1, "nll": -1, "aurc": -1}


def base() -> ConfigDict:
    """Returns the config that every file in `configs/` starts from: all fields, documented."""
    config = ConfigDict()
    config.name = "run"  # names the default workdir, runs/<name>
    config.seed = 0  # of initial weights, order and augmentation; never of the dev split
    config.order_seed = -1  # of order and augmentation alone; -1: the seed
    config.setting = "structure"  # structure | depth: a row of PAIRS
    config.size = "paper"  # paper | laptop: full-size networks or their small kin
    config.tuned = True  # the settings of kdjax.compiler; False: what XLA and the C library do
    config.smoke = False  # a few steps on a few images: does this config run here at all?
    config.best_metric = "accuracy"  # accuracy | nll | aurc on dev chooses the best checkpoint
    config.log_every = 50  # steps between lines of metrics.jsonl and the check for finite losses
    config.eval_batch_size = 256

    config.data = ConfigDict()
    config.data.name = "digits"  # a TFDS image-classification set
    config.data.dir = ""  # of TFDS; empty: TFDS's own default, or TFDS_DATA_DIR
    config.data.train_split = "train"  # SVHN's extra images: train+extra
    config.data.test_split = "test"
    config.data.dev_fraction = 0.1  # of train, cut away for every choice that is made
    config.data.calibration_fraction = 0.1  # of train, cut away for the certificate alone
    config.data.split_seed = 0  # of both cuts: shared by teacher and students of any seed
    config.data.limit = 0  # use so many images of each split; 0: all
    # resident (all images in memory) | stream: those of train, dev and calibration are read from
    # disk as they are needed. The batches are the same.
    config.data.pipeline = "resident"
    # Where images in memory lie: replicated (every device has all), sharded (each its part), auto.
    config.data.placement = "auto"
    config.data.pad = 4  # zero padding around the image before the random crop
    config.data.flip = True  # mirror half of the images

    config.objective = ConfigDict()
    # A name of kdjax.objectives.METHODS; better than ka_gambler_soft on Fashion-MNIST's dev split,
    # see experiments/results/sum_or_soft.md.
    config.objective.method = "ka_gambler_sum"
    config.objective.payoff = 2.2  # o, 1 < o < classes; CIFAR-10's in arXiv 1907.00208's code
    config.objective["lambda"] = 1.0  # weight of the distillation term; 1: our choice
    config.objective.temperature = 4.0  # T; 4 is usual in distillation code, e.g. arXiv 1910.10699
    config.objective.adjustment = "probability_shift"  # arXiv 1911.07471
    config.objective.epsilon = 0.1  # of label_smooth_regularization; arXiv 1911.07471's code
    config.objective.pretrain_epochs = 0  # cross-entropy first, against collapse: 1907.00208

    config.selective = ConfigDict()
    config.selective.risk = 0.02  # error among the accepted that the certificate promises ...
    config.selective.delta = 0.05  # ... with probability 1 - delta

    config.teacher = _stage()
    config.teacher.workdir = ""  # a finished teacher; empty: train one in <workdir>/teacher
    # auto (its logits are computed once where an image has fewer views than it is shown) | off
    config.teacher.cache = "auto"
    config.student = _stage()
    # Many students of one teacher, trained together: the fields in which each differs from this
    # config, such as ({"objective.method": "kd"}, {"objective.payoff": 1.8, "seed": 1}).
    config.students = ()
    return config


def _stage() -> ConfigDict:
    """Returns the fields of one stage: a network and how it is trained."""
    stage = ConfigDict()
    stage.model = ""  # a name of kdjax.models; empty: from setting and size
    stage.width = 0  # channels of the first layer; 0: the model's own
    stage.compute_dtype = "float32"  # float32 | bfloat16; weights and losses stay float32
    stage.epochs = 200
    stage.batch_size = 128  # the global batch, whatever the number of devices
    stage.learning_rate = 0.0  # of the peak; 0: what suits the model, see LEARNING_RATES
    stage.momentum = 0.9
    stage.nesterov = True
    stage.weight_decay = 5e-4
    stage.decay_all = False  # decay biases and batch-norm too
    stage.warmup_epochs = 1.0
    stage.schedule = "cosine"  # cosine | step
    stage.step_every = 25  # epochs between the drops of `step` ...
    stage.step_factor = 0.5  # ... and the factor of each: the recipe of 1907.00208's code
    stage.average = "none"  # none | ema (of steps) | swa (of epochs, arXiv 1803.05407)
    stage.average_start = 0.75  # share of the epochs after which averaging begins
    stage.ema_decay = 0.999  # a step
    stage.norm_batches = 100  # batches that the averaged weights' batch statistics come from
    return stage


def resolve(config: ConfigDict) -> ConfigDict:
    """Returns a locked copy in which smoke, setting and size are applied and all is checked.

    Raises:
        ValueError: for a field out of range, or an unknown name (with the nearest valid one).
    """
    config = ConfigDict(config.to_dict())
    _check_fields(config)
    _check_names(config)
    teacher, student = PAIRS[config.setting, config.size]
    config.teacher.model = config.teacher.model or teacher
    config.student.model = config.student.model or student
    for stage in (config.teacher, config.student):
        stage.learning_rate = stage.learning_rate or usual_learning_rate(stage.model)
    if config.order_seed == -1:
        config.order_seed = config.seed
    if config.smoke:
        _shrink(config)
    _check_ranges(config)
    return config.lock()


def usual_learning_rate(model: str) -> float:
    """Returns the learning rate of a network where the config names none."""
    return LEARNING_RATES.get(model, USUAL_LEARNING_RATE)


def hyper(config: ConfigDict) -> Hyper:
    """Returns the objective's hyper-parameters."""
    objective = config.objective
    return Hyper(
        payoff=objective.payoff,
        weight=objective["lambda"],
        temperature=objective.temperature,
        adjustment=objective.adjustment,
        epsilon=objective.epsilon,
    )


def _shrink(config: ConfigDict) -> None:
    """Leaves the networks as they are, and shrinks everything that takes long."""
    config.data.limit = 64
    config.eval_batch_size = 32
    config.objective.pretrain_epochs = min(1, config.objective.pretrain_epochs)
    for stage, epochs in ((config.teacher, 1), (config.student, 2)):
        stage.epochs, stage.batch_size, stage.warmup_epochs = epochs, 16, 0.5
        stage.norm_batches = 2


def leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yields the dotted name of every field of a nested config."""
    for key, value in config.items():
        if isinstance(value, (Mapping, ConfigDict)):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def _check_fields(config: ConfigDict) -> None:
    given, known = set(leaves(config)), set(leaves(base()))
    for name in sorted(given - known):
        raise unknown("config field", name, [nearest(name, known)])
    for name in sorted(known - given):
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
            raise unknown(field, value, allowed)


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
    _at_least(config, 1, "log_every", "eval_batch_size")
    _at_least(config.data, 0, "limit", "pad", prefix="data.")
    checks.within("objective.epsilon", config.objective.epsilon, 0, 1)
    _at_least(config.objective, 0, "lambda", "pretrain_epochs", prefix="objective.")
    if config.objective.pretrain_epochs > config.student.epochs:
        raise InputError(
            f"objective.pretrain_epochs {config.objective.pretrain_epochs} is more than "
            f"student.epochs {config.student.epochs}"
        )
    for name, stage in (("teacher.", config.teacher), ("student.", config.student)):
        _at_least(stage, 1, "epochs", "batch_size", "step_every", "norm_batches", prefix=name)
        _at_least(stage, 0, "width", "weight_decay", "warmup_epochs", prefix=name)
        checks.above(f"{name}learning_rate", stage.learning_rate, 0)
        for field in ("momentum", "average_start", "ema_decay"):
            checks.within(f"{name}{field}", stage[field], 0, 1)
        checks.above(f"{name}step_factor", stage.step_factor, 0)


def _at_least(fields: ConfigDict, bound: int, *names: str, prefix: str = "") -> None:
    for name in names:
        if not fields[name] >= bound:
            raise InputError(
                f"{prefix}{name} {fields[name]} is out of range: it must be at least {bound}"
            )


def differences(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Returns a line `field: one -> other` for every field in which two nested configs differ."""
    lines = []
    for key in sorted({*one, *other}):
        old, new = one.get(key), other.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            lines.append(f"{prefix}{key}: {old!r} -> {new!r}")
    return lines
