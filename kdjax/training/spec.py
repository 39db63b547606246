"""From a config to a `TrainSpec`: all that stays constant while a network is trained."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import flax.linen as nn
import jax
import optax
from ml_collections import ConfigDict

from kdjax import checks, losses, models, objectives
from kdjax import config as configs
from kdjax.data.augment import Augmentation
from kdjax.data.batches import BatchSpec
from kdjax.errors import InputError
from kdjax.models import user_class
from kdjax.training import averaging, optimizer

TEACHER, STUDENT = "teacher", "student"
MAX_STEPS = 2**31 - 1  # the state counts the steps in 32 bits
Options = TypeVar("Options")

# `(logits, teacher logits or None, labels) -> (loss [b], its terms by name, [b] each)`.
Objective = Callable[
    [jax.Array, jax.Array | None, jax.Array], tuple[jax.Array, dict[str, jax.Array]]
]


@dataclasses.dataclass(frozen=True)
class TrainSpec:
    """All that stays constant while a network is trained.

    Attributes:
        stage: `teacher` or `student`.
        model: the network; its `dtype` is the precision of the computation.
        num_classes: m; a student has one output more, abstention.
        seed: of the initial weights.
        objective: the loss.
        pretrain_epochs: epochs of cross-entropy before `objective`.
        teacher: the network of the frozen teacher; None if the objective needs none.
        optimizer: the optax transformation.
        learning_rate: step -> learning rate, for the log.
        average_weight: finished steps -> weight of the newest parameters in the average; None
            without averaging.
        bn_batches: batches from which the averaged network's batch statistics are computed.
        batches: size, order and augmentation of the batches.
        epochs: of the whole stage.
        eval_batch_size: batch size on the development split.
        best_metric: a key of `config.BEST_METRICS`, by which the best checkpoint is chosen.
        log_every: steps between log lines, and between checks for finite losses.
        metric_writers: names of metric writers beside JSON lines.
    """

    stage: str
    model: nn.Module
    num_classes: int
    seed: int
    objective: Objective
    pretrain_epochs: int
    teacher: nn.Module | None
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    average_weight: Callable[[jax.Array], jax.Array] | None
    bn_batches: int
    batches: BatchSpec
    epochs: int
    eval_batch_size: int
    best_metric: str
    log_every: int
    metric_writers: tuple[str, ...] = ("tensorboard",)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole stage."""
        return self.epochs * self.batches.steps_per_epoch


def create_network(
    config: ConfigDict, stage: str, num_classes: int, image_shape: Sequence[int] | None = None
) -> nn.Module:
    """Returns the network of a stage: m outputs for a teacher, m+1 for a student.

    Args:
        config: resolved.
        stage: `teacher` or `student`.
        num_classes: m.
        image_shape: height, width and channels, for a class of the user that takes it.

    Raises:
        InputError: if the network is a class of the user that cannot be loaded, or that has other
            arguments.
    """
    fields = config[stage]
    options: dict[str, Any] = {"dtype": fields.compute_dtype}
    if fields.width:
        options["width"] = fields.width
    if fields.stem != "auto":
        options["stem"] = fields.stem
    if user_class.is_reference(fields.model):
        options["arguments"] = user_class.parse_arguments(f"{stage}.model_args", fields.model_args)
        options["image_shape"] = tuple(image_shape or ()) or None
    return models.create(fields.model, num_classes + (stage == STUDENT), **options)


def train_spec(
    config: ConfigDict, stage: str, dataset: dict[str, Any], teacher: nn.Module | None = None
) -> TrainSpec:
    """Returns the spec of a stage.

    Args:
        config: resolved.
        stage: `teacher` or `student`.
        dataset: of `data.dataset_metadata`.
        teacher: the network of the teacher, for a student whose method needs one.

    Raises:
        InputError: if the data set does not fit the config, such as fewer images than a batch.
    """
    fields, num_classes = config[stage], len(dataset["class_names"])
    steps_per_epoch = _steps_per_epoch(stage, fields, dataset["train_examples"])
    learning_rate = optimizer.learning_rate_schedule(
        fields.schedule,
        _from_fields(optimizer.ScheduleOptions, fields),
        steps_per_epoch=steps_per_epoch,
    )
    return TrainSpec(
        stage=stage,
        model=create_network(config, stage, num_classes, dataset.get("image_shape")),
        num_classes=num_classes,
        seed=config.seed,
        objective=_objective(config, num_classes) if stage == STUDENT else _teacher_objective,
        pretrain_epochs=config.objective.pretrain_epochs if stage == STUDENT else 0,
        teacher=teacher,
        optimizer=optimizer.make_optimizer(
            learning_rate,
            momentum=fields.momentum,
            nesterov=fields.nesterov,
            weight_decay=fields.weight_decay,
            decay_all=fields.decay_all,
        ),
        learning_rate=learning_rate,
        average_weight=averaging.average_weight(
            fields.average,
            start=fields.average_start,
            ema_decay=fields.ema_decay,
            epochs=fields.epochs,
            steps_per_epoch=steps_per_epoch,
        ),
        bn_batches=fields.bn_batches,
        batches=BatchSpec(
            batch_size=fields.batch_size,
            steps_per_epoch=steps_per_epoch,
            order_seed=config.order_seed,
            augmentation=_from_fields(Augmentation, config.data),
        ),
        epochs=fields.epochs,
        eval_batch_size=config.eval_batch_size,
        best_metric=config.best_metric,
        log_every=config.log_every,
        metric_writers=tuple(config.metric_writers),
    )


def _steps_per_epoch(stage: str, fields: ConfigDict, examples: int) -> int:
    if fields.batch_size > examples:
        raise InputError(
            f"{stage}.batch_size {fields.batch_size} is more than the {examples} training images; "
            f"the largest that fits is {examples}"
        )
    steps = examples // fields.batch_size
    if fields.epochs * steps > MAX_STEPS:
        raise InputError(
            f"{stage}.epochs {fields.epochs} is out of range: with {steps} steps in an epoch it "
            f"must be at most {MAX_STEPS // steps}"
        )
    return steps


def _from_fields(options: type[Options], fields: ConfigDict) -> Options:
    """Returns a dataclass with the values of the config's fields of the same names."""
    names = [field.name for field in dataclasses.fields(options)]  # type: ignore[arg-type]
    return options(**{name: fields[name] for name in names})


def _teacher_objective(
    logits: jax.Array, teacher_logits: jax.Array | None, labels: jax.Array
) -> objectives.Loss:
    """Cross-entropy over all outputs: a teacher has no abstention output."""
    loss = losses.cross_entropy(logits, labels)
    return loss, {"cross_entropy": loss}


def _objective(config: ConfigDict, num_classes: int) -> Objective:
    fields = config.objective
    method = objectives.METHODS[fields.method]
    if method.adjusts and fields.adjustment == "label_smooth_regularization":
        checks.within("objective.epsilon", fields.epsilon, 0, 1 - 1 / num_classes)
    return functools.partial(method, hyper=configs.hyperparameters(config))


def pretraining_spec(spec: TrainSpec) -> TrainSpec:
    """Returns the spec of the first epochs: cross-entropy on the class logits, no teacher."""
    ce = functools.partial(objectives.ce, hyper=objectives.Hyperparameters())
    return dataclasses.replace(spec, objective=ce, teacher=None)
