"""Evaluation after training: writes the predictions of each split and `results.json`."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdjax import data, objectives, selective
from kdjax.data.batches import load_split
from kdjax.errors import InputError
from kdjax.evaluation import cost, network, per_class, predictions, summary
from kdjax.evaluation.predictions import Predictions
from kdjax.runs import restore, teachers, workdir
from kdjax.runtime import atomic_io, compiler, multihost
from kdjax.selective import validation
from kdjax.training import host_teacher
from kdjax.training.host_teacher import HostTeacher
from kdjax.training.spec import STUDENT, TEACHER

# Without train, where the error is too low because the network was trained on it.
SPLITS = ("dev", "calibration", "test")
Outputs = Mapping[str, Predictions]
Results = dict[str, Any]


def evaluate(
    folder: pathlib.Path,
    dataset: data.Dataset,
    *,
    risk: float | None = None,
    delta: float | None = None,
    teacher_outputs: Outputs | None = None,
    runs: int = 1,
) -> Results:
    """Evaluates the best checkpoint of a workdir, and of its teacher.

    Args:
        folder: the workdir of a student or of a teacher.
        dataset: of the run, see `restore.load_dataset`.
        risk: of the certificate, instead of the config's.
        delta: of the certificate, instead of the config's.
        teacher_outputs: of `predict_teacher`, if already computed.
        runs: number of students among which one may be chosen, see `certification.certify`.

    Returns:
        The content of `results.json`: of `summary.summarize`; `per_class`, see
        `per_class.at_operating_point`; with a teacher also `teacher`, its results,
        `correction`, see `summary.teacher_errors`, and `external_teacher`, the `kind` and `file`
        of a teacher that kdjax has not trained. If a teacher is given as logits of some splits,
        `teacher` has their accuracy metrics only.

    Raises:
        InputError: if there is nothing to evaluate, the data set has changed, or risk or delta are
            out of range.
    """
    config, teacher = restore.load_config(folder), folder / "teacher"
    certificate = {
        "risk": config.selective.risk if risk is None else risk,
        "delta": config.selective.delta if delta is None else delta,
    }
    for name, value in certificate.items():
        validation.probability(name, value)
    if teacher.is_symlink() and not teacher.exists():
        raise InputError(
            f"{str(teacher)!r} points to {str(teacher.readlink())!r}, which is gone: restore the "
            "teacher or fix the symlink"
        )
    compiler.set_tuned(config.cpu_tuning)
    outputs = predict_splits(folder, dataset, SPLITS)
    names = list(dataset.class_names)
    results = _summarize(folder, outputs, certificate | {"runs": runs}, names)
    if teacher.exists():
        if teacher_outputs is None:
            teacher_outputs = predict_teacher(folder, dataset)
        results |= _teacher_results(teacher, teacher_outputs, certificate, names)
    if multihost.is_primary():
        cost.write_cost(folder)
    _write(folder, outputs, results)
    return results


def evaluate_all(
    folders: Sequence[pathlib.Path], dataset: data.Dataset
) -> dict[pathlib.Path, Results]:
    """Evaluates workdirs of students with the same teacher, which is applied once.

    Their results have a second certificate that holds for all students together.
    """
    with_teacher = [folder for folder in folders if (folder / "teacher").exists()]
    outputs = predict_teacher(with_teacher[0], dataset) if with_teacher else None
    return {
        folder: evaluate(folder, dataset, teacher_outputs=outputs, runs=len(folders))
        for folder in folders
    }


def predict_teacher(folder: pathlib.Path, dataset: data.Dataset) -> Outputs:
    """Returns the outputs of a workdir's teacher; those on train are for `teacher_errors`.

    They are on all splits, unless the teacher is given as logits of some splits.
    """
    teacher = teachers.load(folder / "teacher", dataset)
    if isinstance(teacher, HostTeacher):
        return {
            split: Predictions(
                host_teacher.split_logits(teacher, dataset, split),
                np.asarray(getattr(dataset, split).labels, np.int32),
            )
            for split in teacher.splits
        }
    batch_size = restore.load_config(folder / "teacher").eval_batch_size
    return predict(teacher, dataset, ("train", *SPLITS), batch_size)


def predict_splits(
    folder: pathlib.Path, dataset: data.Dataset, splits: Sequence[str]
) -> dict[str, Predictions]:
    """Returns the outputs of a workdir's best checkpoint on some splits."""
    batch_size = restore.load_config(folder).eval_batch_size
    return predict(network.restore_network(folder), dataset, splits, batch_size)


def predict(
    restored: restore.RestoredModel, dataset: data.Dataset, splits: Sequence[str], batch_size: int
) -> dict[str, Predictions]:
    """Returns the outputs of a network on some splits."""

    def predict_split(split: str) -> Predictions:
        examples = load_split(dataset, split)
        logits = network.predict_logits(restored, examples, batch_size=batch_size)
        return Predictions(logits, np.asarray(examples.labels))

    return {split: predict_split(split) for split in splits}


def _teacher_results(
    folder: pathlib.Path,
    outputs: Outputs,
    certificate: Mapping[str, Any],
    class_names: Sequence[str],
) -> Results:
    """Returns what `results.json` of a student holds about its teacher, and writes the teacher's.

    Args:
        folder: the workdir of the teacher.
        outputs: of `predict_teacher`.
        certificate: requested `risk` and `delta`.
        class_names: of the data set, by label.
    """
    evaluated = {split: outputs[split] for split in SPLITS if split in outputs}
    results: Results = {}
    if len(evaluated) == len(SPLITS):
        results["teacher"] = _summarize(folder, evaluated, certificate, class_names)
        if not folder.is_symlink():  # a linked teacher belongs to another run
            _write(folder, evaluated, results["teacher"])
    elif evaluated:
        results["teacher"] = {
            split: summary.accuracy_metrics(_with_abstention(split_outputs))
            for split, split_outputs in evaluated.items()
        }
    results["correction"] = summary.teacher_errors(*outputs["train"])
    if source := teachers.external_source(folder):
        results["external_teacher"] = source
    return results


def _write(folder: pathlib.Path, outputs: Outputs, results: Results) -> None:
    """Writes the predictions, and last the results, whose presence marks a complete evaluation."""
    if multihost.is_primary():
        for split, split_outputs in outputs.items():
            predictions.save(predictions.path_of(folder, split), split_outputs)
        atomic_io.write_json(folder / "results.json", results)


def _summarize(
    folder: pathlib.Path,
    outputs: Outputs,
    certificate: Mapping[str, Any],
    class_names: Sequence[str],
) -> Results:
    """Returns the results of a workdir's network from its outputs on `SPLITS`.

    Args:
        folder: the workdir.
        outputs: by split.
        certificate: requested `risk` and `delta`, and optionally `runs`.
        class_names: of the data set, by label.
    """
    metadata = workdir.read_metadata(folder)
    if metadata["stage"] == TEACHER:
        outputs = {split: _with_abstention(values) for split, values in outputs.items()}
    abstains = (
        metadata["stage"] == STUDENT
        and objectives.METHODS[metadata["config"]["objective"]["method"]].abstains
    )
    results = summary.summarize(outputs, abstains=abstains, **certificate)
    return results | {"per_class": per_class.per_class(results, outputs["test"], class_names)}


def _with_abstention(outputs: Predictions) -> Predictions:
    """Returns a teacher's outputs with an abstention column, which it never chooses."""
    return Predictions(selective.append_abstention(outputs.logits), outputs.labels)
