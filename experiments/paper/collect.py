"""Result files of a job: its metrics as JSON, and the order of its predictions as npz.

The npz file holds what every table needs: of each method, deployment view, score and split, whether
each prediction is correct, and the rank of its confidence. Ranks are exact, also of ties, and take
less space than logits.
"""

import dataclasses
import io
import pathlib
import platform
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.paper.plan import Job
from kdjax.data import Dataset
from kdjax.data import deployment_views as views
from kdjax.errors import InputError
from kdjax.evaluation import certification, evaluate, predictions, summary
from kdjax.evaluation.predictions import Predictions
from kdjax.objectives import METHODS
from kdjax.runs import restore
from kdjax.runtime import atomic_io

SPLITS = ("dev", "test")
VIEWS = (views.NONE, views.FLIP)
# The score that was chosen on dev, and the paper's: 1 - q_a, of methods that abstain.
CHOSEN, RESERVATION = "chosen", "reservation"
PACKAGES = ("kdjax", "jax", "flax", "optax")
METRICS = ("dev_aurc", "aurc", "augrc", "error_at_coverage")
RISK, DELTA = 0.05, 0.05


class Ranking(NamedTuple):
    """The predictions of a network on a split, as far as selective prediction depends on them.

    Attributes:
        rank: uint16 [n], dense rank of the confidence, 0 for the lowest; ties have the same.
        correct: bool [n].
    """

    rank: np.ndarray
    correct: np.ndarray


def ranking(confidence: np.ndarray, correct: np.ndarray) -> Ranking:
    """Returns the ranking of confidences [n] and correctness [n].

    Raises:
        InputError: for more than 65,536 different confidences.
    """
    levels, ranks = np.unique(confidence, return_inverse=True)
    if len(levels) > np.iinfo(np.uint16).max + 1:
        raise InputError(f"{len(levels):,} different confidences: at most 65,536 can be ranked")
    return Ranking(ranks.astype(np.uint16), np.asarray(correct, bool))


def collect(
    job: Job,
    workdirs: Mapping[str, pathlib.Path],
    dataset: Dataset,
    out: pathlib.Path,
    command: str,
) -> None:
    """Writes the result files of a finished job.

    Args:
        job: which one.
        workdirs: of the students, by method.
        dataset: of the job.
        out: folder of the result files.
        command: with which the job was started.
    """
    students: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    for method, workdir in workdirs.items():
        outputs = {
            name: evaluate.predict_splits(workdir, dataset, predictions.SPLITS, views=name)
            for name in VIEWS
        }
        students[method], rankings = judge(method, outputs, abstains=METHODS[method].abstains)
        arrays |= rankings
    out.mkdir(parents=True, exist_ok=True)
    write_compressed(out / f"{job.name}.npz", arrays)
    atomic_io.write_json(
        out / f"{job.name}.json",
        {
            "job": dataclasses.asdict(job),
            "command": command,
            "versions": {name: metadata.version(name) for name in PACKAGES},
            "python": platform.python_version(),
            "device": jax.devices()[0].device_kind,
            "networks": _networks(next(iter(workdirs.values()))),
            "teacher": _teacher(workdirs.values()),
            "needs_teacher": {name: METHODS[name].needs_teacher for name in workdirs},
            "students": students,
        },
    )


def judge(
    method: str, outputs: Mapping[str, Mapping[str, Predictions]], *, abstains: bool
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns the results of a network for the JSON file, and its rankings for the npz file.

    Args:
        method: its name in the files.
        outputs: logits [n, m+1] and labels by deployment views, of `VIEWS`, and by split.
        abstains: whether the abstention output was trained.
    """
    results: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    for name, splits in outputs.items():
        results[name] = _summarize(splits, abstains=abstains)
        chosen = {CHOSEN: results[name]["best_score"]}
        reservation = {RESERVATION: "reservation_log_odds"} if abstains else {}
        for score, log_form in (chosen | reservation).items():
            arrays |= _arrays(f"{method}/{name}/{score}", splits, results[name], log_form)
    return results, arrays


def _summarize(outputs: Mapping[str, Predictions], *, abstains: bool) -> dict[str, Any]:
    """Returns what the tables need of `summary.summarize`."""
    results = summary.summarize(outputs, abstains=abstains, risk=RISK, delta=DELTA)
    scores = {
        name: {metric: values[metric] for metric in METRICS}
        for name, values in results["scores"].items()
    }
    names = (*predictions.SPLITS, "best_score", "pnorm", "combination")
    return {name: results[name] for name in names} | {"scores": scores}


def _arrays(
    prefix: str, outputs: Mapping[str, Predictions], results: Mapping[str, Any], name: str
) -> dict[str, np.ndarray]:
    """Returns the rankings of dev and test by a score."""
    score = certification.scores_of(results)[name]
    arrays = {}
    for split in SPLITS:
        ranked = ranking(score(outputs[split].logits), outputs[split].correct)
        arrays[f"{prefix}/{split}/rank"] = ranked.rank
        arrays[f"{prefix}/{split}/correct"] = ranked.correct
    return arrays


def write_compressed(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an .npz file, compressed."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # names, not options
    atomic_io.write_file(path, buffer.getvalue())


def _networks(workdir: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Returns the name and the epochs of teacher and student."""
    config = restore.load_config(workdir)
    return {
        stage: {"model": config[stage].model, "epochs": config[stage].epochs}
        for stage in ("teacher", "student")
    }


def _teacher(workdirs: Iterable[pathlib.Path]) -> dict[str, Any]:
    """Returns the results of the teacher; empty if no method has one.

    The number of adjusted images is that of the first method that adjusts.
    """
    results_of_students = [atomic_io.read_json(workdir / "results.json") for workdir in workdirs]
    results_of_students = [results for results in results_of_students if "teacher" in results]
    if not results_of_students:
        return {}
    teacher = {split: results_of_students[0]["teacher"][split] for split in predictions.SPLITS}
    adjusted = (results["correction"]["adjusted"] for results in results_of_students)
    first = next((count for count in adjusted if count is not None), None)
    return teacher | {"correction": results_of_students[0]["correction"] | {"adjusted": first}}
