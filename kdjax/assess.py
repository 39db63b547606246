"""After training: logits of dev and test to predictions files, then to `results.json`."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from kdjax import data, objectives, stage, step, workdir
from kdjax.report import predictions, results


def assess(
    folder: pathlib.Path, dataset: data.Dataset | None = None, *, data_dir: str | None = None
) -> dict[str, Any]:
    """Evaluates the best checkpoint of a workdir, and of the teacher in it.

    Args:
        folder: the workdir of a run or of a teacher.
        dataset: the run's, if it is loaded already.
        data_dir: of TFDS, if the data have moved since.

    Returns:
        What it writes to `results.json`: see `results.summarize`; with `teacher`, the same of the
        teacher, where there is one.

    Raises:
        InputError: if the workdir holds nothing to evaluate, or the data set has changed.
    """
    found = workdir.read(folder)
    config = ConfigDict(found["config"])
    if dataset is None:
        config.data.dir = data_dir or config.data.dir
        dataset = stage.load_data(config)
        workdir.check_same(folder, {"dataset": workdir.describe(dataset)})
    outputs = predict(folder, dataset, config.eval_batch_size)
    for split, found_there in outputs.items():
        predictions.save(folder / "predictions" / f"{split}.npz", found_there)
    report = summarize(folder, outputs)
    teacher = folder / "teacher"
    if teacher.is_symlink():  # another run's folder: nothing is written there
        outputs = predict(teacher, dataset, config.eval_batch_size)
        report["teacher"] = summarize(teacher, outputs)
    elif teacher.exists():
        report["teacher"] = assess(teacher, dataset)
    workdir.write_json(folder / "results.json", report)
    return report


def predict(
    folder: pathlib.Path, dataset: data.Dataset, batch_size: int
) -> dict[str, predictions.Predictions]:
    """Returns the outputs of the workdir's best checkpoint on dev and test."""
    trained = stage.restore(folder)

    def on(split: str) -> predictions.Predictions:
        examples = stage.examples_of(dataset, split)
        logits = step.predict(trained.model, trained.variables, examples, batch_size=batch_size)
        return predictions.Predictions(logits, np.asarray(examples.labels))

    return {split: on(split) for split in ("dev", "test")}


def summarize(
    folder: pathlib.Path, outputs: Mapping[str, predictions.Predictions]
) -> dict[str, Any]:
    """Returns the results of a workdir's network from its outputs on dev and test.

    Raises:
        FloatingPointError: if a logit is not finite.
    """
    found = workdir.read(folder)
    dev, test = outputs["dev"], outputs["test"]
    if found["stage"] == stage.TEACHER:
        dev, test = (
            one._replace(logits=results.with_abstention(one.logits)) for one in (dev, test)
        )
        return results.summarize(dev, test, abstains=False)
    abstains = found["config"]["objective"]["method"] in objectives.WITH_ABSTENTION
    return results.summarize(dev, test, abstains=abstains)
