"""Evaluation after training: writes the predictions of each split and `results.json`."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdjax import data, objectives, selective
from kdjax.data.batches import load_split
from kdjax.errors import InputError
from kdjax.evaluation import network, predictions, summary
from kdjax.evaluation.predictions import Predictions
from kdjax.runs import restore, workdir
from kdjax.runtime import atomic_io, compiler, multihost
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
        The content of `results.json`, see `summary.summarize`; with a teacher also `teacher`,
        its results, and `correction`, see `summary.teacher_errors`.

    Raises:
        InputError: if there is nothing to evaluate, or the data set has changed.
    """
    config, teacher = restore.load_config(folder), folder / "teacher"
    if teacher.is_symlink() and not teacher.exists():
        raise InputError(
            f"{str(teacher)!r} points to {str(teacher.readlink())!r}, which is gone: restore the "
            "teacher or fix the symlink"
        )
    compiler.set_tuned(config.cpu_tuning)
    certificate = {
        "risk": config.selective.risk if risk is None else risk,
        "delta": config.selective.delta if delta is None else delta,
    }
    outputs = predict_splits(folder, dataset, SPLITS)
    results = _summarize(folder, outputs, certificate | {"runs": runs})
    if teacher.exists():
        if teacher_outputs is None:
            teacher_outputs = predict_teacher(folder, dataset)
        evaluated = {split: teacher_outputs[split] for split in SPLITS}
        results["teacher"] = _summarize(teacher, evaluated, certificate)
        results["correction"] = summary.teacher_errors(*teacher_outputs["train"])
        if not teacher.is_symlink():  # a linked teacher belongs to another run
            _write(teacher, evaluated, results["teacher"])
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
    """Returns the outputs of a workdir's teacher on all splits; train is for `teacher_errors`."""
    return predict_splits(folder / "teacher", dataset, ("train", *SPLITS))


def predict_splits(
    folder: pathlib.Path, dataset: data.Dataset, splits: Sequence[str]
) -> dict[str, Predictions]:
    """Returns the outputs of a workdir's best checkpoint on some splits."""
    restored = network.restore_network(folder)
    batch_size = restore.load_config(folder).eval_batch_size

    def predict(split: str) -> Predictions:
        examples = load_split(dataset, split)
        logits = network.predict_logits(restored, examples, batch_size=batch_size)
        return Predictions(logits, np.asarray(examples.labels))

    return {split: predict(split) for split in splits}


def _write(folder: pathlib.Path, outputs: Outputs, results: Results) -> None:
    """Writes the predictions, and last the results, whose presence marks a complete evaluation."""
    if multihost.is_primary():
        for split, split_outputs in outputs.items():
            predictions.save(predictions.path_of(folder, split), split_outputs)
        atomic_io.write_json(folder / "results.json", results)


def _summarize(folder: pathlib.Path, outputs: Outputs, certificate: Mapping[str, Any]) -> Results:
    """Returns the results of a workdir's network from its outputs on `SPLITS`.

    Args:
        folder: the workdir.
        outputs: by split.
        certificate: requested `risk` and `delta`, and optionally `runs`.
    """
    metadata = workdir.read_metadata(folder)
    if metadata["stage"] == TEACHER:
        outputs = {
            split: Predictions(selective.append_abstention(logits), labels)
            for split, (logits, labels) in outputs.items()
        }
    abstains = (
        metadata["stage"] == STUDENT
        and objectives.METHODS[metadata["config"]["objective"]["method"]].abstains
    )
    return summary.summarize(outputs, abstains=abstains, **certificate)
