"""Result files of networks that other libraries trained, from their logits.

They have the format of `experiments.paper.collect` and the same metrics: the score is chosen on
dev, and test is ranked by it, so that the tables show them beside our networks.
"""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.paper import collect, plan
from experiments.paper.baselines.exported import EVALUATED
from kdjax.data import deployment_views as views
from kdjax.errors import InputError
from kdjax.evaluation.predictions import Predictions
from kdjax.runtime import atomic_io

# Entries of the JSON file beside the logits.
ENTRIES = ("name", "job", "classes", "abstains", "needs_teacher", "command", "export", "device")


def write(logits: pathlib.Path, out: pathlib.Path, split: pathlib.Path | None) -> pathlib.Path:
    """Writes the result files of a baseline.

    Args:
        logits: the .npz file of a training script; its JSON file lies beside it.
        out: folder of the result files.
        split: file of `export_split` whose labels the logits must have; None: not compared.

    Returns:
        The JSON file.

    Raises:
        InputError: for missing or wrong files.
    """
    record = _read_record(logits)
    outputs = read_outputs(logits, record["classes"], abstains=record["abstains"])
    if split is not None:
        _check_labels(logits, outputs, split)
    job = plan.Job(**record["job"])
    students, arrays = collect.judge(record["name"], outputs, abstains=record["abstains"])
    path = out / f"{job.name}-{_file_name(record['name'])}.json"
    out.mkdir(parents=True, exist_ok=True)
    collect.write_compressed(path.with_suffix(".npz"), arrays)
    atomic_io.write_json(
        path,
        {
            **record,
            "command": f"{record['export']}\n{record['command']}",
            "teacher": {},
            "needs_teacher": {record["name"]: record["needs_teacher"]},
            "students": {record["name"]: students},
        },
    )
    return path


def _read_record(logits: pathlib.Path) -> dict[str, Any]:
    path = logits.with_suffix(".json")
    if logits.suffix != ".npz" or not path.exists():
        raise InputError(f"{str(logits)!r}: must be an .npz file with a .json file beside it")
    record = atomic_io.read_json(path)
    missing = [name for name in ENTRIES if name not in record]
    if missing:
        raise InputError(f"{str(path)!r} lacks {', '.join(missing)}")
    if "/" in record["name"]:
        raise InputError(f"name {record['name']!r} of {str(path)!r}: must not contain '/'")
    return record


def read_outputs(
    path: pathlib.Path, classes: int, *, abstains: bool
) -> Mapping[str, Mapping[str, Predictions]]:
    """Returns logits [n, m+1] and labels of a file by deployment views and split.

    With views `flip`, logits are means over an image and its mirror image, as ours.

    Args:
        path: the .npz file.
        classes: m.
        abstains: whether the last column is abstention. If not, it is set to 0, or appended where
            the file has m columns.

    Raises:
        InputError: if an array is missing, or is not finite.
    """
    names = [name + end for name in EVALUATED for end in ("", "_mirrored", "_labels")]
    arrays = dict(zip(names, atomic_io.read_npz(path, *names), strict=True))
    outputs: dict[str, dict[str, Predictions]] = {views.NONE: {}, views.FLIP: {}}
    for name in EVALUATED:
        labels = arrays[f"{name}_labels"].astype(np.int32)
        plain, mirrored = (
            _with_abstention(path, arrays[key], len(labels), classes, trained=abstains)
            for key in (name, f"{name}_mirrored")
        )
        outputs[views.NONE][name] = Predictions(plain, labels)
        outputs[views.FLIP][name] = Predictions((plain + mirrored) / 2, labels)
    return outputs


def _with_abstention(
    path: pathlib.Path, logits: np.ndarray, examples: int, classes: int, *, trained: bool
) -> np.ndarray:
    """Returns float32 logits [n, m+1]."""
    columns = (classes + 1,) if trained else (classes, classes + 1)
    if logits.ndim != 2 or len(logits) != examples or logits.shape[1] not in columns:
        raise InputError(
            f"{str(path)!r}: logits {list(logits.shape)} for {examples} labels of {classes} classes"
        )
    if not np.isfinite(logits).all():
        raise InputError(f"{str(path)!r}: logits are not finite")
    logits = logits.astype(np.float32)
    if trained:
        return logits
    return np.concatenate([logits[:, :classes], np.zeros((examples, 1), np.float32)], axis=1)


def _check_labels(
    path: pathlib.Path, outputs: Mapping[str, Mapping[str, Predictions]], split: pathlib.Path
) -> None:
    names = [f"{name}_labels" for name in EVALUATED]
    for name, labels in zip(EVALUATED, atomic_io.read_npz(split, *names), strict=True):
        if not np.array_equal(labels, outputs[views.NONE][name].labels):
            raise InputError(f"labels of {name} in {str(path)!r} are not those of {str(split)!r}")


def _file_name(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
