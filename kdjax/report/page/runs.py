"""Reads a finished run from its files, without a model."""

import json
import pathlib
from typing import Any, NamedTuple

import numpy as np

from kdjax import config as configs
from kdjax import selective
from kdjax.errors import InputError
from kdjax.evaluation import fallback, predictions, promises
from kdjax.evaluation.certification import (
    OperatingPoint,
    certify_again,
    operating_point,
    scores_of,
)
from kdjax.evaluation.predictions import Predictions
from kdjax.runs import workdir
from kdjax.runtime import atomic_io
from kdjax.selective.scales import LOG_FORMS


class Run(NamedTuple):
    """The data of a run that a page shows.

    Attributes:
        folder: the workdir.
        metadata: its `config.json`: stage, config and dataset.
        results: its `results.json`.
        operating_point: by which predictions are accepted.
        test: logits [n, m+1] and labels [n] of the test split.
        predicted: predicted classes [n].
        correct: whether they are the labels, bool [n].
        confidence: values [n] by the name of each reported score.
    """

    folder: pathlib.Path
    metadata: dict[str, Any]
    results: dict[str, Any]
    operating_point: OperatingPoint
    test: Predictions
    predicted: np.ndarray
    correct: np.ndarray
    confidence: dict[str, np.ndarray]

    @property
    def classes(self) -> list[str]:
        """The names of the m classes."""
        return self.metadata["dataset"]["class_names"]

    @property
    def best_score(self) -> str:
        """The score with the lowest AURC on dev."""
        return self.operating_point.score

    @property
    def response(self) -> np.ndarray:
        """The softmax response of each test image, [n], which every network has."""
        return selective.numpy_score(selective.softmax_response, self.test.logits)

    @property
    def response_ranking(self) -> np.ndarray:
        """The softmax response as log-odds, by which runs are compared, [n]."""
        return selective.numpy_score(selective.softmax_response_log_odds, self.test.logits)

    @property
    def response_metrics(self) -> dict[str, Any]:
        """The results of the softmax response; earlier versions ranked by the probability."""
        scores = self.results["scores"]
        name = LOG_FORMS["softmax_response"]
        return scores[name] if name in scores else scores["softmax_response"]

    @property
    def accepted(self) -> np.ndarray:
        """Whether each test image is accepted, bool [n]."""
        confidence = self.confidence[self.best_score].astype(np.float64)
        accepted = np.asarray(self.operating_point.accepts(confidence))
        gate = self.operating_point.gate
        return accepted if gate is None else accepted & gate.passed(self.test)


def read(folder: pathlib.Path, *, risk: float | None = None, delta: float | None = None) -> Run:
    """Reads a finished run.

    Args:
        folder: the workdir of a student or of a teacher.
        risk: of the certificate, instead of the run's.
        delta: of the certificate, instead of the run's.

    Raises:
        InputError: if a file is missing, damaged, belongs to another run, or has invalid content.
    """
    metadata = workdir.read_metadata(folder)
    results = _read_results(folder, len(metadata["dataset"]["class_names"]))
    test = _read_split(folder, "test", results["classes"])
    if len(test.labels) != results["test"]["examples"]:
        raise InputError(
            f"{str(folder)!r}: results.json has {results['test']['examples']} test images, "
            f"predictions/test.npz {len(test.labels)}: {workdir.evaluate_command(folder)} writes "
            "both again"
        )
    if not results.get("pnorm"):
        dev = _read_split(folder, "dev", results["classes"])
        results["pnorm"] = selective.best_pnorm(dev.logits, dev.labels)
    if risk is not None or delta is not None:
        results["guarantee"] = _certify(folder, results, test, risk, delta)
        results["promises"] = _promises(folder, metadata, results, test)
    scores = scores_of(results)
    return Run(
        folder=folder,
        metadata=metadata,
        results=results,
        operating_point=operating_point(results),
        test=test,
        predicted=selective.predicted_classes(test.logits),
        correct=test.correct,
        confidence={name: scores[name](test.logits) for name in results["scores"]},
    )


def certify_for_all(run: Run, runs: int) -> dict[str, Any] | None:
    """Returns the run's certificate if one of several runs is chosen after a look at them.

    Args:
        run: of `read`.
        runs: their number S.

    Returns:
        `all_runs` of `certification.certify`: certified at delta / S; None without a guarantee or
        without the predictions of the calibration split.

    Raises:
        InputError: if these predictions are damaged.
    """
    if not run.operating_point.guarantee:
        return None
    if not predictions.path_of(run.folder, "calibration").exists():
        return None
    calibration = _read_split(run.folder, "calibration", run.results["classes"])
    guarantee: dict[str, Any] = certify_again(run.results, calibration, run.test, runs=runs)
    return guarantee["all_runs"]


def read_history(folder: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the lines of `metrics.jsonl`, without lines and values that are damaged."""
    try:
        lines = (folder / "metrics.jsonl").read_text(errors="replace").splitlines()
    except OSError:
        return []
    return [line for line in map(_parse_line, lines) if {"step", "split"} <= line.keys()]


def read_shift(folder: pathlib.Path) -> dict[str, Any] | None:
    """Returns the content of `shift.json`, see `evaluate_shifts`; None if there is none.

    Raises:
        InputError: if the file is damaged.
    """
    path = folder / "shift.json"
    if not path.exists():
        return None
    shifts, needed = atomic_io.read_json(path), {"threshold", "clean", "shifts", "ood"}
    if not isinstance(shifts, dict) or not needed <= shifts.keys():
        raise InputError(
            f"{str(path)!r} was not written by kdjax: {workdir.evaluate_command(folder)} --shift="
            "... writes it again"
        )
    return shifts


def _parse_line(line: str) -> dict[str, Any]:
    try:
        metrics = json.loads(line)
    except ValueError:
        return {}
    if not isinstance(metrics, dict):
        return {}
    return {name: value for name, value in metrics.items() if _is_metric(name, value)}


def _is_metric(name: str, value: Any) -> bool:
    return isinstance(value, str) if name == "split" else isinstance(value, int | float)


def _read_results(folder: pathlib.Path, num_classes: int) -> dict[str, Any]:
    """Returns the results of a run, also those of a version without certificates."""
    results = workdir.read_results(folder, needed=("classes", "test", "best_score", "scores"))
    if results["classes"] != num_classes:
        raise InputError(
            f"{str(folder / 'results.json')!r} has {results['classes']} classes, config.json "
            f"{num_classes}"
        )
    return results


def _read_split(folder: pathlib.Path, split: str, num_classes: int) -> Predictions:
    """Reads predictions; a teacher's get an abstention output, which its file does not have."""
    path = predictions.path_of(folder, split)
    loaded = predictions.load(path)
    logits, labels, _ = loaded
    if not len(labels):
        raise InputError(f"predictions {str(path)!r} contain no example")
    if logits.shape[1] not in (num_classes, num_classes + 1):
        raise InputError(
            f"predictions {str(path)!r}: logits {logits.shape} for {num_classes} classes"
        )
    if logits.dtype.kind != "f" or not np.isfinite(logits).all():
        raise InputError(f"predictions {str(path)!r} contain logits that are not finite")
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= num_classes:
        raise InputError(f"predictions {str(path)!r}: labels must be integers 0..{num_classes - 1}")
    return loaded.with_abstention() if logits.shape[1] == num_classes else loaded


def _certify(
    folder: pathlib.Path,
    results: dict[str, Any],
    test: Predictions,
    risk: float | None,
    delta: float | None,
) -> dict[str, Any]:
    """Returns the guarantee for a risk or delta other than the run's."""
    requested = results.get("guarantee") or configs.base().selective
    calibration = _read_split(folder, "calibration", results["classes"])
    return certify_again(
        {**results, "guarantee": requested}, calibration, test, risk=risk, delta=delta
    )


def _promises(
    folder: pathlib.Path, metadata: dict[str, Any], results: dict[str, Any], test: Predictions
) -> dict[str, Any]:
    """Returns the promises at another risk or delta, as far as the files of the workdir allow."""
    outputs = {"test": test}
    for split in ("dev", "calibration"):
        if not predictions.path_of(folder, split).exists():
            return {}
        outputs[split] = _read_split(folder, split, results["classes"])
    groups = predictions.stored_groups(folder, outputs)
    evidence = promises.evidence_of(
        results,
        outputs,
        class_names=metadata["dataset"]["class_names"],
        settings=configs.base().selective.to_dict() | metadata["config"].get("selective", {}),
        extras=fallback.saved_extras(folder, results, outputs)._replace(groups=groups),
    )
    return promises.compute_all(evidence)
