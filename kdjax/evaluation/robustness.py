"""Evaluation on shifted inputs and on other data sets, at the operating point of a run."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
from jax.tree_util import Partial

from kdjax import data, selective
from kdjax.data.batches import Examples, load_split, put_split
from kdjax.data.deployment_views import View
from kdjax.data.fit import STRETCH, fit
from kdjax.data.shift import SEVERITIES, SHIFTS
from kdjax.errors import InputError, unknown_name_error
from kdjax.evaluation import gate_features, network
from kdjax.evaluation.certification import (
    FALLBACK_COVERAGE,
    OperatingPoint,
    operating_point,
)
from kdjax.evaluation.gate import load_fitted
from kdjax.runs import restore, workdir
from kdjax.runtime import atomic_io, compiler
from kdjax.selective import outliers
from kdjax.training import inference
from kdjax.training.spec import TEACHER

OOD_PREFIX = "ood:"  # before the name of another data set
SEED = 0  # of the noise, and of the direction of a rotation


def evaluate_shifts(
    folder: pathlib.Path,
    names: Sequence[str],
    *,
    data_dir: str | None = None,
    dataset: data.Dataset | None = None,
) -> dict[str, Any]:
    """Evaluates a run's best checkpoint on shifted copies of its test split, and on other data.

    Args:
        folder: the workdir of a student or of a teacher, with its `results.json`.
        names: keys of `kdjax.data.shift.SHIFTS`, and `ood:NAME` for another data set:
            the test split of one of TFDS, or own images, such as `ood:folder:PATH`.
        data_dir: the TFDS directory, if not the one of the run.
        dataset: of the run, if it is already loaded.

    Returns:
        The content of `shift.json`: `score`, `threshold`, `threshold_from` and `examples`;
        `clean`: the `coverage` at that threshold, the `error` among the accepted (None if there
        are none), the `accuracy` over all, the mean `confidence` as people read it, see
        `selective.shown`; `shifts`: by name, the same at
        each `severity`; `ood`: by name, the number of `examples`, the share `accepted`, the
        `auroc` of separating the run's test split from them by confidence, and `fitted`, how the
        images were converted. With a gate also `gate`, its `name` and `threshold`; in each entry
        `passed`, the share of images that pass it, and `without_gate`, the `coverage` and `error`,
        or the share `accepted`, by the threshold alone; and in `ood` the `gate_auroc` of the same
        separation by the gate score, and `gate_fpr`, the share of the other images that pass where
        95 % of the test split do.

    Raises:
        InputError: for an unknown name, or a workdir that has not been evaluated.
    """
    check_names(names)
    metadata = workdir.read_metadata(folder)
    results = workdir.read_results(folder)
    point = operating_point(results, fallback_coverage=FALLBACK_COVERAGE)
    other_sets = {
        name.removeprefix(OOD_PREFIX): _load_other(
            name.removeprefix(OOD_PREFIX), metadata, data_dir
        )
        for name in names
        if name not in SHIFTS
    }
    compiler.set_tuned(restore.load_config(folder).cpu_tuning)
    dataset = restore.load_dataset(folder, data_dir) if dataset is None else dataset
    views = network.evaluated_views(folder, results)
    sample, test = _sampler(folder, point, views), load_split(dataset, "test")
    clean = sample(test)

    def shifted(name: str, severity: int) -> ScoredSample:
        return sample(test, Partial(SHIFTS[name], severity=severity, seed=SEED))

    def ood(split: data.Split) -> ScoredSample:
        return sample(put_split(split, dataset.mean, dataset.std))

    result = {
        "score": point.score,
        "threshold": point.threshold,
        "threshold_from": point.source,
        **({"gate": point.gate._asdict()} if point.gate else {}),
        "examples": len(dataset.test.labels),
        "clean": _selective_metrics(point, clean),
        "shifts": {
            name: [
                {"severity": severity, **_selective_metrics(point, shifted(name, severity))}
                for severity in SEVERITIES
            ]
            for name in names
            if name in SHIFTS
        },
        "ood": {
            name: {**_ood_metrics(point, clean, ood(split)), "fitted": note}
            for name, (split, note) in other_sets.items()
        },
    }
    atomic_io.write_json(folder / "shift.json", result)
    return result


def check_names(names: Sequence[str]) -> None:
    """Raises for a shift that does not exist.

    Raises:
        InputError: with the nearest valid name.
    """
    if not names:
        raise InputError(f"no shift given: {', '.join(SHIFTS)} or {OOD_PREFIX}NAME of a data set")
    for name in names:
        if name == OOD_PREFIX:
            raise InputError(
                f"shift {name!r} names no data set: for example {OOD_PREFIX}fashion_mnist"
            )
        if name not in SHIFTS and not name.startswith(OOD_PREFIX):
            raise unknown_name_error("shift", name, [*SHIFTS, f"{OOD_PREFIX}NAME"])


def _load_other(
    name: str, metadata: Mapping[str, Any], data_dir: str | None
) -> tuple[data.Split, str]:
    """Returns the test split of another data set in the run's image shape, and the conversion.

    All labels are 0, because the other classes are not those of the run.
    """
    fields = metadata["config"]["data"]
    shape = tuple(metadata["dataset"]["image_shape"])
    if location := data.own.parse(name):
        height, width, channels = shape
        resize = metadata["dataset"].get("fit", STRETCH)
        note = f"each to {height}x{width}, {'grey' if channels == 1 else 'RGB'} ({resize})"
        return _own_images(location, shape, resize), note
    loaded = data.load(name, data_dir=data_dir or fields["dir"] or None)
    if fields["limit"]:
        loaded = data.limit_examples(loaded, fields["limit"], fields["split_seed"])
    images = loaded.test.images
    if images.shape[1:] == shape:
        return _unlabelled(images), ""
    # Pillow expects grey images without a channel axis.
    arrays = images[..., 0] if images.shape[-1] == 1 else images
    fitted, notes = zip(*(fit(PIL.Image.fromarray(array), shape) for array in arrays), strict=True)
    return _unlabelled(np.stack(fitted)), "; ".join(sorted(set(notes)))


def _unlabelled(images: np.ndarray) -> data.Split:
    return data.Split(images, np.zeros(len(images), np.int32))


def _own_images(
    location: data.own.Location, shape: tuple[int, int, int], resize: str
) -> data.Split:
    """Returns own images as the network reads them: their test split, or all if they have none."""
    labelled = data.own.read_labelled(location, shape, resize)
    is_test = np.array([split == "test" for split in labelled.splits])
    rows = np.flatnonzero(is_test if is_test.any() else ~is_test)
    return _unlabelled(np.asarray(labelled.images[rows]))


class ScoredSample(NamedTuple):
    """Images with the confidence of their predictions and what the gate says.

    Attributes:
        confidence: [n].
        correct: whether the predictions are correct, bool [n].
        passed: whether the images pass the gate, bool [n]; None without a gate.
        gate_scores: [n]; None without a gate.
    """

    confidence: np.ndarray
    correct: np.ndarray
    passed: np.ndarray | None
    gate_scores: np.ndarray | None

    def accepted_at(self, threshold: float) -> tuple[float, float]:
        """Returns coverage and selective risk of a threshold, with the gate if there is one."""
        confidence = self.confidence
        if self.passed is not None:
            confidence = np.where(self.passed, confidence, -np.inf)
        return selective.accept_at(confidence, self.correct, threshold)

    def ungated(self) -> "ScoredSample":
        """Returns the same without the gate."""
        return self._replace(passed=None, gate_scores=None)


def _sampler(
    folder: pathlib.Path, point: OperatingPoint, views: Sequence[View]
) -> Callable[..., ScoredSample]:
    """Returns `(examples, change) -> sample` of the workdir's network, averaged over views."""
    metadata, restored = workdir.read_metadata(folder), network.restore_network(folder)
    batch_size = metadata["config"]["eval_batch_size"]
    fitted = load_fitted(folder, point.gate)

    def sample(examples: Examples, change: Partial = inference.NO_CHANGE) -> ScoredSample:
        split = gate_features.predict(
            restored, fitted, examples, batch_size=batch_size, change=change, views=views
        )
        if metadata["stage"] == TEACHER:
            split = split.with_abstention()
        correct = split.correct
        confidence = point.numpy_confidence(split.logits)
        if point.gate is None:
            return ScoredSample(confidence, correct, None, None)
        return ScoredSample(
            confidence, correct, point.gate.passed(split), point.gate.scores_of(split)
        )

    return sample


def _selective_metrics(point: OperatingPoint, sample: ScoredSample) -> dict[str, Any]:
    metrics: dict[str, Any] = {
        **_coverage_and_error(point, sample),
        "accuracy": float(sample.correct.mean()),
        "confidence": float(selective.shown(point.score, sample.confidence).mean()),
    }
    if sample.passed is None:
        return metrics
    without = _coverage_and_error(point, sample.ungated())
    return metrics | {"passed": float(sample.passed.mean()), "without_gate": without}


def _coverage_and_error(point: OperatingPoint, sample: ScoredSample) -> dict[str, float | None]:
    coverage, error = sample.accepted_at(point.threshold)
    return {"coverage": coverage, "error": error if coverage else None}


def _ood_metrics(point: OperatingPoint, clean: ScoredSample, ood: ScoredSample) -> dict[str, Any]:
    """Returns the accepted share of another data set, and its separation from the test split."""
    metrics: dict[str, Any] = {
        "examples": len(ood.confidence),
        "accepted": ood.accepted_at(point.threshold)[0],
        "auroc": outliers.separation(clean.confidence, ood.confidence).auroc,
    }
    if ood.passed is None or clean.gate_scores is None or ood.gate_scores is None:
        return metrics
    separation = outliers.separation(clean.gate_scores, ood.gate_scores)
    return metrics | {
        "passed": float(ood.passed.mean()),
        "without_gate": {"accepted": ood.ungated().accepted_at(point.threshold)[0]},
        "gate_auroc": separation.auroc,
        "gate_fpr": separation.fpr,
    }
