"""The gate `mahalanobis`: distributions of the features on train, and scores of further images."""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from kdjax import data
from kdjax.data.batches import Examples, load_split
from kdjax.data.deployment_views import View
from kdjax.errors import InputError
from kdjax.evaluation import gate as gates
from kdjax.evaluation import network
from kdjax.evaluation.predictions import SPLITS, Predictions
from kdjax.models.features import WithFeatures
from kdjax.runs import workdir
from kdjax.runs.restore import RestoredModel
from kdjax.selective import outliers
from kdjax.selective.outliers import MAHALANOBIS, NONE, ClassGaussian, Moments
from kdjax.training.spec import TEACHER

# Training images whose features are in memory at once.
CHUNK = 8192


def with_features(restored: RestoredModel) -> RestoredModel:
    """Returns a network that gives its features behind its logits."""
    wrapped: Any = WithFeatures(restored.model)  # of a module, it has the method that is called
    return restored._replace(model=wrapped)


class GatedOutputs(NamedTuple):
    """The outputs of a run with its gate.

    Attributes:
        outputs: by split.
        gate: of `gate.measure`; None without a gate.
        fitted: distributions of the features; None unless the gate needs them.
    """

    outputs: dict[str, Predictions]
    gate: dict[str, Any] | None
    fitted: ClassGaussian | None


def gated_outputs(
    folder: pathlib.Path,
    restored: RestoredModel,
    dataset: data.Dataset,
    request: gates.Request,
    *,
    delta: float,
    **options: Any,
) -> GatedOutputs:
    """Returns the outputs of a workdir's network on dev, calibration and test, and its gate.

    Args:
        folder: the workdir of a student, or of a teacher without a gate.
        restored: its network.
        dataset: of the run.
        request: the gate.
        delta: at which its acceptance is certified.
        **options: `batch_size` and `views` of the evaluation.

    Raises:
        InputError: for a gate of a teacher, or one that cannot be fitted.
    """
    if request.name != NONE and workdir.read_metadata(folder)["stage"] == TEACHER:
        raise InputError(
            f"gate {request.name!r}: {str(folder)!r} is the workdir of a teacher; a student has a "
            "gate"
        )
    fitted = fit(restored, dataset, **options) if request.name == MAHALANOBIS else None
    outputs = predict_splits(restored, fitted, dataset, SPLITS, **options)
    chosen = gates.choose(request.name, outputs, acceptance=request.acceptance, delta=delta)
    if chosen is None:
        return GatedOutputs(outputs, None, None)
    measured = gates.measure(chosen, outputs, acceptance=request.acceptance, delta=delta)
    return GatedOutputs(outputs, measured, fitted)


def fit(
    restored: RestoredModel,
    dataset: data.Dataset,
    *,
    batch_size: int,
    views: Sequence[View],
) -> ClassGaussian:
    """Returns the distributions of the features of the training images, by class.

    The features are averaged over the views, as the logits are.

    Args:
        restored: the student.
        dataset: of the run.
        batch_size: of the evaluation.
        views: with which it is evaluated.

    Raises:
        InputError: if the network has no features, or they are not finite or do not vary.
    """
    examples, wrapped = load_split(dataset, "train"), with_features(restored)
    labels = np.asarray(examples.labels)
    sums: Moments | None = None
    for start in range(0, len(labels), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(labels)))
        outputs = network.predict_logits(
            wrapped, examples, batch_size=batch_size, rows=rows, views=views
        )
        features = outputs[:, dataset.num_classes + 1 :]
        sums = outliers.moments(
            features, labels[rows], num_classes=dataset.num_classes, earlier=sums
        )
    if sums is None:
        raise InputError("no training images to which the gate could be fitted")
    return outliers.gaussian(sums)


def predict(
    restored: RestoredModel, fitted: ClassGaussian | None, examples: Examples, **options: Any
) -> Predictions:
    """Returns the outputs for every example, with the scores of the gate.

    Args:
        restored: the network.
        fitted: of `fit`; None without this gate.
        examples: of any data set.
        **options: of `network.predict_logits`.
    """
    labels = np.asarray(examples.labels)
    if fitted is None:
        return Predictions(network.predict_logits(restored, examples, **options), labels)
    outputs = network.predict_logits(with_features(restored), examples, **options)
    size = fitted.center.size
    scores = outliers.mahalanobis(outputs[:, -size:].astype(np.float64), fitted)
    return Predictions(outputs[:, :-size], labels, scores.astype(np.float32))


def predict_splits(
    restored: RestoredModel,
    fitted: ClassGaussian | None,
    dataset: data.Dataset,
    splits: Sequence[str],
    **options: Any,
) -> dict[str, Predictions]:
    """Returns the outputs for each example of some splits; see `predict`."""
    return {
        split: predict(restored, fitted, load_split(dataset, split), **options) for split in splits
    }
