"""From a config to a `TrainSpec`: all that stays constant while a network is trained."""

import dataclasses
import enum
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import flax.linen as nn
import jax
import optax
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from kdjax import checks, losses, models, objectives
from kdjax import config as configs
from kdjax.data.augment import Augmentation
from kdjax.data.batches import BatchSpec
from kdjax.errors import InputError
from kdjax.models import apply, user_class
from kdjax.models.common import at_least_float32
from kdjax.runtime import compiler, prng
from kdjax.training import averaging, optimizer

TEACHER, STUDENT = "teacher", "student"
MAX_STEPS = 2**31 - 1  # the state counts the steps in 32 bits
Options = TypeVar("Options")

# `(logits, teacher logits or None, labels) -> (loss [b], its terms by name, [b] each)`; also with
# the keywords `warmup` and `running` if the spec has `distill_warmup` and `target_momentum`.
Objective = Callable[..., tuple[jax.Array, dict[str, jax.Array]]]


@dataclasses.dataclass(frozen=True)
class TrainSpec:
    """All that stays constant while a network is trained.

    Attributes:
        stage: `teacher` or `student`.
        model: the network; its `dtype` is the precision of the computation.
        num_classes: m; a student has one output more, abstention.
        seed: of the initial weights and of dropout; may be traced.
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
        eval_every: epochs between evaluations on dev, each with a checkpoint.
        metric_writers: names of metric writers beside JSON lines.
        rank_weight_epoch: the first epoch, from 0, whose losses are weighted by the rank of the
            teacher's confidence; None: none.
        weighted: whether this is the spec of such epochs, see `phase_spec`.
        distill_warmup: finished steps -> factor of the distillation weight; None: always 1.
        target_momentum: of the targets that are kept for each training image, see
            `objectives.update_running_target`; None if there are none, or during pre-training.
        train_examples: number of training images; used only for these targets.
    """

    stage: str
    model: nn.Module
    num_classes: int
    seed: int | jax.Array
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
    eval_every: int = 1
    metric_writers: tuple[str, ...] = ("tensorboard",)
    rank_weight_epoch: int | None = None
    weighted: bool = False
    distill_warmup: Callable[[jax.Array], jax.Array] | None = None
    target_momentum: float | None = None
    train_examples: int = 0

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole stage."""
        return self.epochs * self.batches.steps_per_epoch

    def is_evaluated(self, epoch: int) -> bool:
        """Whether the network is evaluated on dev and saved after an epoch, counted from 0."""
        return (epoch + 1) % self.eval_every == 0 or epoch + 1 == self.epochs


prng.register_seed(TrainSpec, "seed", "batches")


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


def last_layer(
    config: ConfigDict, stage: str, num_classes: int, image_shape: Sequence[int]
) -> frozenset[tuple[str, ...]]:
    """Returns the paths of the variables whose shape depends on the number of classes.

    Args:
        config: resolved.
        stage: `teacher` or `student`.
        num_classes: m.
        image_shape: height, width and channels.

    Raises:
        InputError: see `create_network`.
    """
    shapes, larger = (
        flatten_dict(
            apply.abstract_variables(
                create_network(config, stage, classes, image_shape), tuple(image_shape)
            )
        )
        for classes in (num_classes, num_classes + 1)
    )
    other = {path: leaf.shape for path, leaf in larger.items()}
    return frozenset(path for path, leaf in shapes.items() if other.get(path) != leaf.shape)


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
    batches = batch_spec(config, stage, dataset["train_examples"])
    steps_per_epoch = batches.steps_per_epoch
    learning_rate = optimizer.learning_rate_schedule(
        fields.schedule,
        _from_fields(optimizer.ScheduleOptions, fields),
        steps_per_epoch=steps_per_epoch,
    )
    image_shape = dataset.get("image_shape")
    options = _from_fields(optimizer.OptimizerOptions, fields)
    if fields.optimizer == "muon" and image_shape:
        layer = last_layer(config, stage, num_classes, image_shape)
        options = dataclasses.replace(options, last_layer=layer)
    return TrainSpec(
        stage=stage,
        model=create_network(config, stage, num_classes, image_shape),
        num_classes=num_classes,
        seed=config.seed,
        objective=_objective(config, num_classes)
        if stage == STUDENT
        else compiler.shared(
            functools.partial, _teacher_objective, smoothing=config.teacher.label_smoothing
        ),
        pretrain_epochs=config.objective.pretrain_epochs if stage == STUDENT else 0,
        teacher=teacher,
        optimizer=optimizer.make_optimizer(fields.optimizer, learning_rate, options),
        learning_rate=learning_rate,
        average_weight=compiler.shared(
            averaging.average_weight,
            fields.average,
            start=fields.average_start,
            ema_decay=fields.ema_decay,
            epochs=fields.epochs,
            steps_per_epoch=steps_per_epoch,
        ),
        bn_batches=fields.bn_batches,
        batches=batches,
        epochs=fields.epochs,
        eval_batch_size=config.eval_batch_size,
        best_metric=config.best_metric,
        log_every=config.log_every,
        eval_every=config.eval_every,
        metric_writers=tuple(config.metric_writers),
        rank_weight_epoch=_rank_weight_epoch(config) if stage == STUDENT else None,
        distill_warmup=_distill_warmup(config, steps_per_epoch) if stage == STUDENT else None,
        target_momentum=_target_momentum(config) if stage == STUDENT else None,
        train_examples=dataset["train_examples"],
    )


def batch_spec(config: ConfigDict, stage: str, examples: int) -> BatchSpec:
    """Returns how the batches of a stage are formed; only students have fixed views.

    Args:
        config: resolved.
        stage: `teacher` or `student`.
        examples: number of training images.

    Raises:
        InputError: if there are fewer images than in a batch, or too many steps.
    """
    return BatchSpec(
        batch_size=config[stage].batch_size,
        steps_per_epoch=_steps_per_epoch(stage, config, examples),
        order_seed=config.order_seed,
        augmentation=augmentation(config),
        views=config.teacher.views if stage == STUDENT else 0,
    )


def augmentation(config: ConfigDict) -> Augmentation:
    """Returns the random transformations of the training images."""
    return _from_fields(Augmentation, config.data)


def _steps_per_epoch(stage: str, config: ConfigDict, examples: int) -> int:
    fields = config[stage]
    if fields.batch_size > examples:
        # Both are named, so that one run is enough to correct them.
        other = STUDENT if stage == TEACHER else TEACHER
        trained = other == STUDENT or objectives.METHODS[config.objective.method].needs_teacher
        too_large = trained and config[other].batch_size > examples
        also = f", also for {other}.batch_size" if too_large else ""
        raise InputError(
            f"{stage}.batch_size {fields.batch_size} is more than the {examples} training images; "
            f"the largest that fits is {examples}{also}"
        )
    steps = examples // fields.batch_size
    if fields.epochs * steps > MAX_STEPS:
        raise InputError(
            f"{stage}.epochs {fields.epochs} is out of range: with {steps} steps in an epoch it "
            f"must be at most {MAX_STEPS // steps}"
        )
    return steps


def _rank_weight_epoch(config: ConfigDict) -> int | None:
    start, pretraining = config.objective.rank_weight_start, config.objective.pretrain_epochs
    if start == 1:
        return None
    # The tolerance is for products such as 0.29 * 100 = 28.999999999999996.
    first = min(int(start * config.student.epochs + 1e-9), config.student.epochs - 1)
    return max(pretraining, first)


def _from_fields(options: type[Options], fields: ConfigDict) -> Options:
    """Returns a dataclass with the values of the config's fields of the same names."""
    names = [field.name for field in dataclasses.fields(options)]  # type: ignore[arg-type]
    return options(**{name: fields[name] for name in names if name in fields})


def _teacher_objective(
    logits: jax.Array, teacher_logits: jax.Array | None, labels: jax.Array, *, smoothing: float
) -> objectives.Loss:
    """Cross-entropy over all outputs: a teacher has no abstention output.

    With label smoothing, the target is (1 - smoothing) for the label plus smoothing / m for every
    class.
    """
    loss = losses.cross_entropy(logits, labels)
    if smoothing:
        uniform = -jax.nn.log_softmax(at_least_float32(logits)).mean(axis=-1)
        loss = (1 - smoothing) * loss + smoothing * uniform
    return loss, {"cross_entropy": loss}


def _objective(config: ConfigDict, num_classes: int) -> Objective:
    fields = config.objective
    method = objectives.METHODS[fields.method]
    if method.adjusts and fields.adjustment == "label_smooth_regularization":
        checks.within("objective.epsilon", fields.epsilon, 0, 1 - 1 / num_classes)
    if fields.method == "dkd" and num_classes == 2:
        raise InputError(
            "objective.method 'dkd' is not defined for 2 classes: without the label there is one "
            "class left; use 'kd' or 'rld'"
        )
    hyper = configs.hyperparameters(config)
    if _distill_warmup(config, 1) is None:
        return compiler.shared(functools.partial, method, hyper=hyper)
    return compiler.shared(functools.partial, _warmed_up_objective, method=method, hyper=hyper)


def _warmed_up_objective(
    *args: Any,
    method: objectives.Method,
    hyper: objectives.Hyperparameters,
    warmup: jax.Array | float,
    **running: Any,
) -> objectives.Loss:
    loss: objectives.Loss = method(
        *args, hyper=hyper.replace(distill_weight=hyper.distill_weight * warmup), **running
    )
    return loss


def _distill_warmup(
    config: ConfigDict, steps_per_epoch: int
) -> Callable[[jax.Array], jax.Array] | None:
    fields = config.objective
    if not fields.distill_warmup_epochs:
        return None
    if "distill_warmup_epochs" not in objectives.METHODS[fields.method].fields:
        return None
    steps = max(round(fields.distill_warmup_epochs * steps_per_epoch), 1)
    return compiler.shared(
        optax.linear_schedule, 0.0, 1.0, steps, fields.pretrain_epochs * steps_per_epoch
    )


def _target_momentum(config: ConfigDict) -> float | None:
    fields = config.objective
    running_targets = objectives.METHODS[fields.method].running_targets
    return fields.target_momentum if running_targets else None


def pretraining_spec(spec: TrainSpec) -> TrainSpec:
    """Returns the spec of the first epochs: cross-entropy on the class logits, no teacher."""
    ce = compiler.shared(functools.partial, objectives.ce, hyper=objectives.Hyperparameters())
    return dataclasses.replace(
        spec, objective=ce, teacher=None, distill_warmup=None, target_momentum=None
    )


class Phase(enum.Enum):
    """A part of the training of a network; they follow each other in this order."""

    PRETRAINING = enum.auto()
    OBJECTIVE = enum.auto()
    WEIGHTED_OBJECTIVE = enum.auto()


def phase(spec: TrainSpec, epoch: int) -> Phase:
    """Returns the phase of an epoch.

    Args:
        spec: of the whole training.
        epoch: from 0.
    """
    if epoch < spec.pretrain_epochs:
        return Phase.PRETRAINING
    if spec.rank_weight_epoch is None or epoch < spec.rank_weight_epoch:
        return Phase.OBJECTIVE
    return Phase.WEIGHTED_OBJECTIVE


def phase_spec(spec: TrainSpec, phase: Phase) -> TrainSpec:
    """Returns the spec of the epochs of a phase.

    Args:
        spec: of the whole training.
        phase: of these epochs.
    """
    if phase is Phase.PRETRAINING:
        return pretraining_spec(spec)
    weighted = phase is Phase.WEIGHTED_OBJECTIVE
    return dataclasses.replace(spec, weighted=True) if weighted else spec
