"""After training: logits of dev and test to predictions files, then to `results.json`."""

import pathlib
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from kdjax import data, objectives, stage, step, workdir
from kdjax.report import predictions, results

SPLITS = ("dev", "test")


def assess(folder: pathlib.Path, dataset: data.Dataset | None = None) -> dict[str, Any]:
    """Evaluates the best checkpoint of a workdir, and of the teacher in it.

    Args:
        folder: the workdir of a run or of a teacher.
        dataset: the run's, if it is loaded already.

    Returns:
        What it writes to `results.json`: see `results.summarize`; with `teacher`, the same of the
        teacher, where there is one.

    Raises:
        InputError: if the workdir holds nothing to evaluate, or the data set has changed.
    """
    found = workdir.read(folder)
    config = ConfigDict(found["config"])
    if dataset is None:
        dataset = stage.load_data(config)
        workdir.check_same(folder, {"dataset": workdir.describe(dataset)})
    predict(folder, dataset, config.eval_batch_size)
    report = from_predictions(folder)
    if (folder / "teacher" / "config.json").exists():
        report["teacher"] = assess(folder / "teacher", dataset)
    workdir.write_json(folder / "results.json", report)
    return report


def predict(folder: pathlib.Path, dataset: data.Dataset, batch_size: int) -> None:
    """Writes `predictions/{dev,test}.npz` of the workdir's best checkpoint."""
    trained = stage.restore(folder)
    for split in SPLITS:
        examples = stage.examples_of(dataset, split)
        logits = step.predict(trained.model, trained.variables, examples, batch_size=batch_size)
        found = predictions.Predictions(logits, np.asarray(examples.labels))
        predictions.save(folder / "predictions" / f"{split}.npz", found)


def from_predictions(folder: pathlib.Path) -> dict[str, Any]:
    """Returns the results of a workdir from its predictions files alone.

    Raises:
        InputError: if a predictions file is missing, damaged or not finite.
    """
    found = workdir.read(folder)
    loaded = [predictions.load(folder / "predictions" / f"{split}.npz") for split in SPLITS]
    if found["stage"] == stage.TEACHER:
        loaded = [one._replace(logits=results.with_abstention(one.logits)) for one in loaded]
        return results.summarize(*loaded, abstains=False)
    abstains = found["config"]["objective"]["method"] in objectives.WITH_ABSTENTION
    return results.summarize(*loaded, abstains=abstains)
