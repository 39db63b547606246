"""A finished run as its files tell it: all that a page shows, without a model."""

import json
import pathlib
from typing import Any, NamedTuple

import numpy as np

from kdjax import config as configs
from kdjax import selective, workdir
from kdjax.errors import InputError
from kdjax.report import guarantees, predictions, results
from kdjax.report.predictions import Predictions


class Run(NamedTuple):
    """What a page needs of a run.

    Attributes:
        folder: the workdir.
        identity: its `config.json`: stage, config and dataset.
        results: its `results.json`.
        guarantee: see `guarantees.guarantee`; None for a run without a calibration split.
        test: logits [n, m+1] and labels [n] of the test split.
        predicted: classes [n].
        right: bool [n], whether they are the labels.
        confidence: each score that is reported, [n].
    """

    folder: pathlib.Path
    identity: dict[str, Any]
    results: dict[str, Any]
    guarantee: dict[str, Any] | None
    test: Predictions
    predicted: np.ndarray
    right: np.ndarray
    confidence: dict[str, np.ndarray]

    @property
    def classes(self) -> list[str]:
        """The names of the m classes."""
        return self.identity["dataset"]["class_names"]

    @property
    def best(self) -> str:
        """The score with the lowest AURC on dev."""
        return self.results["best_score"]

    @property
    def threshold(self) -> float | None:
        """From which confidence on the run answers; None where nothing is certified."""
        return guarantees.operating(self.guarantee)["threshold"] if self.guarantee else None

    @property
    def accepted(self) -> np.ndarray:
        """Bool [n]: which test images the run answers."""
        if self.threshold is None:
            return np.zeros(len(self.right), bool)
        return self.confidence[self.best].astype(np.float64) >= self.threshold


def read(folder: pathlib.Path, *, risk: float | None = None, delta: float | None = None) -> Run:
    """Reads a finished run.

    Args:
        folder: the workdir of a run or of a teacher.
        risk: of the certificate, in place of the run's own.
        delta: of the certificate, in place of the run's own.

    Raises:
        InputError: if a file is missing, damaged, of another run, or holds what has no meaning.
    """
    identity = workdir.read(folder)
    found = _results(folder, len(identity["dataset"]["class_names"]))
    test = _split(folder, "test", found["classes"])
    if len(test.labels) != found["test"]["examples"]:
        raise InputError(
            f"{str(folder)!r}: results.json tells of {found['test']['examples']} test images, "
            f"predictions/test.npz of {len(test.labels)}: {_evaluate(folder)} writes both anew"
        )
    pnorm = found.get("pnorm")
    found["pnorm"] = pnorm or results.best_pnorm(_split(folder, "dev", found["classes"]))
    scores = results.scores_with(found["pnorm"])
    return Run(
        folder=folder,
        identity=identity,
        results=found,
        guarantee=_guarantee(folder, found, test, risk, delta),
        test=test,
        predicted=np.asarray(selective.predict(test.logits)),
        right=results.correct(*test),
        confidence={name: scores[name](test.logits) for name in found["scores"]},
    )


def history(folder: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the lines of `metrics.jsonl`, without those that a kill has cut short."""
    try:
        lines = (folder / "metrics.jsonl").read_text(errors="replace").splitlines()
    except OSError:
        return []
    return [line for line in map(_parsed, lines) if {"step", "split"} <= line.keys()]


def shift(folder: pathlib.Path) -> dict[str, Any] | None:
    """Returns `shift.json`, see `kdjax.shifted`; None where nothing was shifted.

    Raises:
        InputError: if the file is damaged.
    """
    path = folder / "shift.json"
    if not path.exists():
        return None
    found = workdir.read_json(path)
    if not isinstance(found, dict) or not {"threshold", "clean", "shifts", "ood"} <= found.keys():
        raise InputError(f"{str(path)!r} is no run's: {_evaluate(folder)} --shift=... writes it")
    return found


def _parsed(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _results(folder: pathlib.Path, classes: int) -> dict[str, Any]:
    path = folder / "results.json"
    try:
        found = workdir.read_json(path)
    except OSError as error:
        raise InputError(
            f"{str(folder)!r} has no results.json: {_evaluate(folder)} writes it once the "
            "training is finished"
        ) from error
    needed = {"classes", "test", "best_score", "scores"}
    if not isinstance(found, dict) or not needed <= found.keys():
        raise InputError(f"{str(path)!r} is no run's: {_evaluate(folder)} writes it anew")
    if found["classes"] != classes:
        raise InputError(f"{str(path)!r} has {found['classes']} classes, config.json {classes}")
    return found


def _evaluate(folder: pathlib.Path) -> str:
    return f"python -m kdjax.evaluate --workdir={folder}"


def _split(folder: pathlib.Path, split: str, classes: int) -> Predictions:
    """Predictions with a column of abstention, which a teacher's file has not."""
    path = folder / "predictions" / f"{split}.npz"
    logits, labels = predictions.load(path)
    if not len(labels):
        raise InputError(f"predictions {str(path)!r} hold no example")
    if logits.shape[1] not in (classes, classes + 1):
        raise InputError(f"predictions {str(path)!r}: logits {logits.shape} of {classes} classes")
    if logits.dtype.kind != "f" or not np.isfinite(logits).all():
        raise InputError(f"predictions {str(path)!r} hold logits that are not finite numbers")
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= classes:
        raise InputError(f"predictions {str(path)!r}: labels must be integers 0..{classes - 1}")
    if logits.shape[1] == classes:
        logits = results.with_abstention(logits)
    return Predictions(logits, labels)


def _guarantee(
    folder: pathlib.Path,
    found: dict[str, Any],
    test: Predictions,
    risk: float | None,
    delta: float | None,
) -> dict[str, Any] | None:
    """The run's own guarantee, or the one for another risk or delta."""
    own = found.get("guarantee")
    if risk is None and delta is None:
        return own
    usual = own or configs.base().selective
    score = results.scores_with(found["pnorm"])[found["best_score"]]
    calibration, judged = (
        (score(split.logits), results.correct(*split))
        for split in (_split(folder, "calibration", found["classes"]), test)
    )
    return guarantees.guarantee(
        calibration,
        judged,
        risk=usual["risk"] if risk is None else risk,
        delta=usual["delta"] if delta is None else delta,
    )
