"""Outputs of a teacher on each split, and what they show: errors, adjustment, disagreement."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from kdjax import config as configs
from kdjax import data, objectives, selective
from kdjax.evaluation import summary
from kdjax.evaluation.predictions import Predictions
from kdjax.models import apply
from kdjax.models.apply import Variables
from kdjax.runs.restore import RestoredModel
from kdjax.runtime import atomic_io
from kdjax.training import out_of_fold, teacher_network
from kdjax.training.teacher_network import Ensemble, OutOfFold

TRAIN = "train"
MEASURED = ("dev", "test")  # splits on which the disagreement is measured

# `(network, split, rows or None for all) -> logits [r, m]` of a network without folds.
PredictRows = Callable[[RestoredModel, str, np.ndarray | None], np.ndarray]


class TeacherOutputs(NamedTuple):
    """The outputs of a teacher.

    Attributes:
        splits: by split; on train the logits that teach the student, without augmentation. A
            teacher that is given as logits may lack some splits.
        members: logits [K, n, m] of the networks of an ensemble, of `MEASURED`, and of train where
            they have folds.
        folds: of the training images, int32 [n]; None for a teacher without folds.
        weights_sha256: of its networks, see `apply.weights_hash`; None if it is not in JAX.
    """

    splits: Mapping[str, Predictions]
    members: Mapping[str, np.ndarray]
    folds: np.ndarray | None
    weights_sha256: str | None = None


def predict(
    teacher: RestoredModel,
    dataset: data.Dataset,
    splits: tuple[str, ...],
    predict_rows: PredictRows,
) -> TeacherOutputs:
    """Returns the outputs of a teacher in JAX on train and other splits.

    Args:
        teacher: the network.
        dataset: of the run.
        splits: without train.
        predict_rows: applies a network.
    """
    model, variables = teacher
    logits = {split: predict_rows(teacher, split, None) for split in splits}
    members = _members(model, variables, predict_rows) if isinstance(model, Ensemble) else {}

    def predict_train(model: Any, variables: Variables, rows: np.ndarray | None) -> np.ndarray:
        return predict_rows(RestoredModel(model, variables), TRAIN, rows)

    folds = out_of_fold.folds_of(variables) if isinstance(model, OutOfFold) else None
    if folds is not None:
        logits[TRAIN] = members[TRAIN][folds, np.arange(len(folds))]
    else:
        logits[TRAIN] = out_of_fold.train_logits(model, variables, predict_train)
    labels = {name: np.asarray(getattr(dataset, name).labels, np.int32) for name in logits}
    return TeacherOutputs(
        {name: Predictions(values, labels[name]) for name, values in logits.items()},
        members,
        folds,
        apply.weights_hash(variables),
    )


def _members(
    model: Ensemble, variables: Variables, predict_rows: PredictRows
) -> dict[str, np.ndarray]:
    """Returns the logits [K, n, m] of the networks of an ensemble, by split."""
    networks = [RestoredModel(*network) for network in teacher_network.members(model, variables)]
    splits = (TRAIN, *MEASURED) if isinstance(model, OutOfFold) else MEASURED
    return {
        split: np.stack([predict_rows(network, split, None) for network in networks])
        for split in splits
    }


def correction(outputs: TeacherOutputs, config: ConfigDict) -> dict[str, Any]:
    """Returns how often a teacher is wrong on train, and how often its distribution is adjusted.

    Args:
        outputs: of the teacher.
        config: of the student, resolved.

    Returns:
        See `summary.teacher_errors`; `adjusted`, the number of training images of which the
        adjustment changes the distribution, None without an adjustment; and with folds
        `in_sample_error` and `out_of_fold_error`, see `fold_errors`, and `folds`.
    """
    logits, labels, _ = outputs.splits[TRAIN]
    errors = summary.teacher_errors(logits, labels)
    errors["adjusted"] = None
    fields = config.objective
    if objectives.METHODS[fields.method].adjusts and fields.adjustment != "none":
        errors["adjusted"] = count_adjusted(logits, labels, configs.hyperparameters(config))
    if outputs.folds is None:
        return errors
    return errors | fold_errors(outputs.members[TRAIN], labels, outputs.folds)


def count_adjusted(
    logits: np.ndarray, labels: np.ndarray, hyper: objectives.Hyperparameters
) -> int:
    """Returns the number of examples of which the adjustment changes the teacher's distribution.

    Args:
        logits: of the teacher, [n, m].
        labels: [n].
        hyper: the adjustment, and its parameters.
    """
    before = objectives.teacher_targets(jnp.asarray(logits), hyper)
    after = objectives.adjusted_targets(jnp.asarray(logits), jnp.asarray(labels), hyper)
    return int(np.any(np.asarray(before != after), axis=-1).sum())


def fold_errors(logits: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> dict[str, Any]:
    """Returns the errors of the teachers of folds on images that they have and have not seen.

    Args:
        logits: [K, n, m], of the teacher of each fold on all training images.
        labels: [n].
        folds: int [n], the fold of each image, which the teacher of that number has not seen.

    Returns:
        `folds`: for each teacher `examples`, the size of its fold, `in_sample_error` on the other
        images, with which it was trained, and `out_of_fold_error` on its fold; `in_sample_error`:
        the mean over the teachers; `out_of_fold_error`: the error over all images, each classified
        by the teacher that has not seen it.
    """
    wrong = logits.argmax(axis=-1) != labels
    unseen = folds == np.arange(len(logits))[:, None]
    by_fold = [
        {
            "examples": int(own.sum()),
            "in_sample_error": float(errors[~own].mean()),
            "out_of_fold_error": float(errors[own].mean()),
        }
        for errors, own in zip(wrong, unseen, strict=True)
    ]
    return {
        "in_sample_error": float(np.mean([fold["in_sample_error"] for fold in by_fold])),
        "out_of_fold_error": float(wrong[unseen].mean()),
        "folds": by_fold,
    }


def disagreement(
    outputs: TeacherOutputs, student: Mapping[str, Predictions]
) -> dict[str, Any] | None:
    """Returns how much the networks of an ensemble disagree; None for one network.

    Args:
        outputs: of the teacher.
        student: outputs of the student by split, with the abstention output.

    Returns:
        `members`, their number, and for each of `MEASURED` the `mean` over the images of
        `selective.mutual_information`, in nats; `teacher_auroc` and `student_auroc`: the AUROC of
        separating the wrong predictions of the ensemble, and of the student, by it; None where all
        are right or all are wrong.
    """
    if not outputs.members:
        return None
    measured: dict[str, Any] = {"members": len(outputs.members[MEASURED[0]])}
    for split in MEASURED:
        information = selective.mutual_information(outputs.members[split])
        teacher = outputs.splits[split]
        correct = {
            "teacher": teacher.logits.argmax(axis=1) == teacher.labels,
            "student": student[split].correct,
        }
        aurocs = {
            f"{name}_auroc": atomic_io.finite_or_none(selective.auroc(-information, values))
            for name, values in correct.items()
        }
        measured[split] = {"mean": float(information.mean()), **aurocs}
    return measured
