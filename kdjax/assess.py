"""After training: the logits of each split to predictions files, then to `results.json`."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdjax import compiler, data, objectives, parallel, stage, step, workdir
from kdjax.errors import InputError
from kdjax.report import predictions, results

# Train is left out: how a network does on what it has learnt says nothing of new data.
SPLITS = ("dev", "calibration", "test")
Outputs = Mapping[str, predictions.Predictions]
Results = dict[str, Any]


def assess(
    folder: pathlib.Path,
    dataset: data.Dataset,
    *,
    risk: float | None = None,
    delta: float | None = None,
    said: Outputs | None = None,
) -> Results:
    """Evaluates the best checkpoint of a workdir, and of the teacher in it.

    Args:
        folder: the workdir of a run or of a teacher.
        dataset: the run's, see `stage.data_of`.
        risk: of the certificate, in place of the config's.
        delta: of the certificate, in place of the config's.
        said: the outputs of its teacher, if they are known, see `teacher_outputs`.

    Returns:
        What it writes to `results.json`: see `results.summarize`; where there is a teacher, with
        `teacher`, the same of it, and `correction`, see `results.correction`.

    Raises:
        InputError: if the workdir holds nothing to evaluate, or the data set has changed.
    """
    config, teacher = stage.config_of(folder), folder / "teacher"
    if teacher.is_symlink() and not teacher.exists():
        raise InputError(
            f"{str(teacher)!r} points to {str(teacher.readlink())!r}, which is gone: put the "
            "teacher back, or the link right"
        )
    compiler.tune(config.tuned)
    promise = {
        "risk": config.selective.risk if risk is None else risk,
        "delta": config.selective.delta if delta is None else delta,
    }
    outputs = predict(folder, dataset, SPLITS)
    report = summarize(folder, outputs, promise)
    if teacher.exists():
        said = teacher_outputs(folder, dataset) if said is None else said
        judged = {split: said[split] for split in SPLITS}
        report["teacher"] = summarize(teacher, judged, promise)
        report["correction"] = results.correction(*said["train"])
        if not teacher.is_symlink():  # nothing is written into another run's folder
            _write(teacher, judged, report["teacher"])
    _write(folder, outputs, report)
    return report


def assess_all(
    folders: Sequence[pathlib.Path], dataset: data.Dataset
) -> dict[pathlib.Path, Results]:
    """Evaluates workdirs that share their teacher, which is asked once; see `assess`."""
    taught = [folder for folder in folders if (folder / "teacher").exists()]
    said = teacher_outputs(taught[0], dataset) if taught else None
    return {folder: assess(folder, dataset, said=said) for folder in folders}


def teacher_outputs(folder: pathlib.Path, dataset: data.Dataset) -> Outputs:
    """Returns the outputs of a workdir's teacher, on train too: what it is corrected in."""
    return predict(folder / "teacher", dataset, ("train", *SPLITS))


def _write(folder: pathlib.Path, outputs: Outputs, report: Results) -> None:
    """Writes the predictions and, when all is there, the results, which say that all is done."""
    if parallel.primary():
        for split, found in outputs.items():
            predictions.save(folder / "predictions" / f"{split}.npz", found)
        workdir.write_json(folder / "results.json", report)


def predict(folder: pathlib.Path, dataset: data.Dataset, splits: Sequence[str]) -> Outputs:
    """Returns the outputs of the workdir's best checkpoint on some splits."""
    trained, size = stage.restore(folder), stage.config_of(folder).eval_batch_size

    def on(split: str) -> predictions.Predictions:
        examples = stage.examples_of(dataset, split)
        logits = step.predict(trained.model, trained.variables, examples, batch_size=size)
        return predictions.Predictions(logits, np.asarray(examples.labels))

    return {split: on(split) for split in splits}


def summarize(
    folder: pathlib.Path,
    outputs: Outputs,
    promise: Mapping[str, float],
) -> Results:
    """Returns the results of a workdir's network from its outputs on dev, calibration and test.

    Args:
        folder: the workdir.
        outputs: by split.
        promise: `risk` and `delta` of the certificate.

    Raises:
        FloatingPointError: if a logit is not finite.
    """
    found = workdir.read(folder)
    abstains = found["stage"] == stage.STUDENT and (
        found["config"]["objective"]["method"] in objectives.WITH_ABSTENTION
    )
    if found["stage"] == stage.TEACHER:
        outputs = {
            split: one._replace(logits=results.with_abstention(one.logits))
            for split, one in outputs.items()
        }
    return results.summarize(outputs, abstains=abstains, **promise)
