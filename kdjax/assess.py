"""After training: the logits of each split to predictions files, then to `results.json`."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from kdjax import config as configs
from kdjax import data, objectives, parallel, stage, step, workdir
from kdjax.errors import InputError
from kdjax.report import predictions, results

# Train is left out: how a network does on what it has learnt says nothing of new data.
SPLITS = ("dev", "calibration", "test")


def assess(
    folder: pathlib.Path,
    dataset: data.Dataset,
    *,
    risk: float | None = None,
    delta: float | None = None,
) -> dict[str, Any]:
    """Evaluates the best checkpoint of a workdir, and of the teacher in it.

    Args:
        folder: the workdir of a run or of a teacher.
        dataset: the run's, see `stage.data_of`.
        risk: of the certificate, in place of the config's.
        delta: of the certificate, in place of the config's.

    Returns:
        What it writes to `results.json`: see `results.summarize`; where there is a teacher, with
        `teacher`, the same of it, and `correction`, see `results.correction`.

    Raises:
        InputError: if the workdir holds nothing to evaluate, or the data set has changed.
    """
    config, teacher = ConfigDict(workdir.read(folder)["config"]), folder / "teacher"
    if teacher.is_symlink() and not teacher.exists():
        raise InputError(
            f"{str(teacher)!r} points to {str(teacher.readlink())!r}, which is gone: put the "
            "teacher back, or the link right"
        )
    outputs = predict(folder, dataset, config.eval_batch_size)
    # A teacher's config has no such fields: they are no part of what a teacher is.
    asked = config.get("selective", configs.base().selective)
    risk = asked.risk if risk is None else risk
    delta = asked.delta if delta is None else delta
    report = summarize(folder, outputs, risk=risk, delta=delta)
    if parallel.primary():
        for split, found_there in outputs.items():
            predictions.save(folder / "predictions" / f"{split}.npz", found_there)
    if teacher.exists():
        # Nothing is written into another run's folder.
        report["teacher"] = (
            summarize(
                teacher, predict(teacher, dataset, config.eval_batch_size), risk=risk, delta=delta
            )
            if teacher.is_symlink()
            else assess(teacher, dataset, risk=risk, delta=delta)
        )
        on_train = predict(teacher, dataset, config.eval_batch_size, ("train",))["train"]
        report["correction"] = results.correction(*on_train)
    if parallel.primary():
        workdir.write_json(folder / "results.json", report)
    return report


def predict(
    folder: pathlib.Path,
    dataset: data.Dataset,
    batch_size: int,
    splits: Sequence[str] = SPLITS,
) -> dict[str, predictions.Predictions]:
    """Returns the outputs of the workdir's best checkpoint on some splits."""
    trained = stage.restore(folder)

    def on(split: str) -> predictions.Predictions:
        examples = stage.examples_of(dataset, split)
        logits = step.predict(trained.model, trained.variables, examples, batch_size=batch_size)
        return predictions.Predictions(logits, np.asarray(examples.labels))

    return {split: on(split) for split in splits}


def summarize(
    folder: pathlib.Path,
    outputs: Mapping[str, predictions.Predictions],
    *,
    risk: float,
    delta: float,
) -> dict[str, Any]:
    """Returns the results of a workdir's network from its outputs on dev, calibration and test.

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
    return results.summarize(outputs, abstains=abstains, risk=risk, delta=delta)
