"""Warnings of valid configs that train badly, or that promise what the data cannot show."""

import itertools
import warnings
from collections.abc import Iterator

from ml_collections import ConfigDict

from kdjax.data import Dataset
from kdjax.evaluation import certification
from kdjax.objectives import METHODS
from kdjax.runs import teachers
from kdjax.selective import outliers
from kdjax.training.spec import STUDENT

# Up to this ratio of the gradients of distillation and cross-entropy, dkd and rld need no warm-up:
# our choice. They diverged on digits at 16.
MAX_GRADIENT_RATIO = 10


def warn_of_student(config: ConfigDict, dataset: Dataset) -> None:
    """Warns of fields of a student with which it trains badly, or no risk can be certified.

    Args:
        config: resolved, of a student.
        dataset: of the run.
    """
    classes, calibration = dataset.num_classes, len(dataset.calibration.labels)
    for message in itertools.chain(
        _payoff_is_too_high(config, classes),
        _soft_targets_collapse(config, classes),
        _teacher_has_seen_the_images(config),
        _distillation_starts_too_fast(config),
        _calibration_is_too_small(config, calibration),
        _gate_stops_nothing(config, calibration),
    ):
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    warn_of_warm_up(config, STUDENT)


def warn_of_warm_up(config: ConfigDict, stage: str) -> None:
    """Warns if the warm-up of a stage leaves no epoch after it."""
    fields = config[stage]
    if fields.warmup_epochs >= fields.epochs and not config.smoke:
        warnings.warn(
            f"{stage}.warmup_epochs {fields.warmup_epochs:g} is not below {stage}.epochs "
            f"{fields.epochs}: the learning rate does not fall after its warm-up",
            RuntimeWarning,
            stacklevel=2,
        )


# Each of these yields its message if its docstring is true of the config.


def _payoff_is_too_high(config: ConfigDict, num_classes: int) -> Iterator[str]:
    """The payoff is so high that abstaining never pays."""
    fields = config.objective
    if "payoff" in METHODS[fields.method].fields and fields.payoff >= num_classes:
        yield (
            f"objective.payoff {fields.payoff} is not below the number of classes, {num_classes}: "
            f"abstaining never pays; choose a payoff between 1 and {num_classes}"
        )


def _calibration_is_too_small(config: ConfigDict, examples: int) -> Iterator[str]:
    """Even without an error the calibration split cannot certify the requested risk."""
    risk, delta = config.selective.risk, config.selective.delta
    needed = certification.least_examples(risk, delta)
    if examples < needed and not config.smoke:
        yield (
            f"selective.risk {risk:g} cannot be certified with delta {delta:g} from {examples:,} "
            f"calibration images: {needed:,} are needed even without an error; choose a higher "
            "risk, or a larger data.calibration_fraction"
        )


def _gate_stops_nothing(config: ConfigDict, examples: int) -> Iterator[str]:
    """The calibration split cannot certify the acceptance of any gate."""
    fields = config.selective
    needed = outliers.least_examples(fields.gate_acceptance, fields.delta)
    if fields.gate != outliers.NONE and examples < needed and not config.smoke:
        yield (
            f"selective.gate {fields.gate} will stop no image: {examples:,} calibration images "
            f"cannot certify that it passes {fields.gate_acceptance:g} of all images, {needed:,} "
            "are needed; choose a lower selective.gate_acceptance, or a larger "
            "data.calibration_fraction"
        )


def _soft_targets_collapse(config: ConfigDict, num_classes: int) -> Iterator[str]:
    """In this setting `ka_gambler_soft` learns to abstain on every image."""
    fields = config.objective
    far_from_classes = fields.payoff < 0.9 * num_classes
    if fields.method == "ka_gambler_soft" and fields.temperature > 1 and far_from_classes:
        yield (
            f"objective.temperature {fields.temperature} with ka_gambler_soft: the student "
            "abstains where the teacher's largest probability is at most 1 / payoff = "
            f"{1 / fields.payoff:.2g}, possibly on every image; use "
            "--config.objective.temperature=1, or a payoff near the number of classes, "
            f"{num_classes}"
        )


def _teacher_has_seen_the_images(config: ConfigDict) -> Iterator[str]:
    """A field needs the errors of the teacher, which hardly errs where it teaches."""
    fields = config.objective
    used = [f"objective.method {fields.method}"] * (fields.method == "reservation_distillation")
    if fields.rank_weight_start < 1:
        used.append(f"objective.rank_weight_start {fields.rank_weight_start:g}")
    if used and teachers.has_seen_train(config):
        yield (
            f"{' and '.join(used)} with a teacher that is trained on the same images: it "
            "hardly errs there, and the student does not learn where it errs on others; use "
            "--config.teacher.folds=5, or a teacher.workdir that was trained with it"
        )


def _distillation_starts_too_fast(config: ConfigDict) -> Iterator[str]:
    """`dkd` and `rld` have their full weight from the first step on."""
    fields = config.objective
    # The gradient of b T^2 KL is up to b T times that of cross-entropy.
    ratio = fields.distill_weight * fields.non_target_weight * fields.temperature
    decoupled = "non_target_weight" in METHODS[fields.method].fields
    if decoupled and ratio > MAX_GRADIENT_RATIO and not fields.distill_warmup_epochs:
        yield (
            f"objective.method {fields.method} without warm-up: the first gradients of distillation"
            f" are up to {ratio:g} times those of cross-entropy, with which training can diverge; "
            "use --config.objective.distill_warmup_epochs=20, or fewer in a short training"
        )
