"""The predictions file of a split, from which all results are computed without a model."""

import pathlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from kdjax import selective
from kdjax.data import Dataset
from kdjax.errors import InputError
from kdjax.runtime import atomic_io

# Without train, where the error is too low because the network was trained on it.
SPLITS = ("dev", "calibration", "test")


class Predictions(NamedTuple):
    """The outputs of a network on a split.

    Attributes:
        logits: float32 [n, m+1], the last column abstention; [n, m] of a teacher.
        labels: int32 [n].
        gate: float32 [n], the score of a gate that the logits do not determine, see `Gate`; None
            without one.
    """

    logits: np.ndarray
    labels: np.ndarray
    gate: np.ndarray | None = None

    @property
    def correct(self) -> np.ndarray:
        """Whether the class with the largest logit, abstention apart, is the label; bool [n]."""
        return selective.is_correct(self.logits, self.labels)

    def with_abstention(self) -> "Predictions":
        """Returns the outputs of a teacher with an abstention column, -inf, as scores need it."""
        return self._replace(logits=selective.append_abstention(self.logits))

    def select(self, rows: np.ndarray) -> "Predictions":
        """Returns the predictions for some of the images, given as bool [n] or their indices."""
        gate = None if self.gate is None else self.gate[rows]
        return Predictions(self.logits[rows], self.labels[rows], gate)


def accepts(confidence: np.ndarray, threshold: float) -> np.ndarray:
    """Returns whether confidence >= threshold, bool [n]; the threshold is not rounded to float32.

    Args:
        confidence: [n], float32 or float64.
        threshold: the lowest accepted confidence; infinite if nothing is accepted.
    """
    return np.asarray(confidence >= np.float64(threshold))


def counts(accepted: np.ndarray, correct: np.ndarray) -> dict[str, int]:
    """Returns the numbers of `images`, of those that are `accepted`, and of `errors` among these.

    Args:
        accepted: whether each prediction is accepted, bool [n].
        correct: whether each prediction is correct, bool [n].
    """
    return {
        "images": len(accepted),
        "accepted": int(accepted.sum()),
        "errors": int((accepted & ~correct).sum()),
    }


def path_of(folder: pathlib.Path, split: str) -> pathlib.Path:
    """Returns the predictions file of a split in a workdir."""
    return folder / "predictions" / f"{split}.npz"


def save(path: pathlib.Path, predictions: Predictions, groups: np.ndarray | None = None) -> None:
    """Writes `logits` and `labels`, and `gate` and `group` if it has them, as .npz, atomically.

    Args:
        path: the file.
        predictions: of the split.
        groups: of its images, such as the device, str or int [n]; None: there are none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {**predictions._asdict(), "group": groups}
    given = {name: array for name, array in arrays.items() if array is not None}
    atomic_io.write_npz(path, given)


def load(path: pathlib.Path) -> Predictions:
    """Reads what `save` wrote.

    Raises:
        InputError: if the file is missing, damaged, or its arrays have other shapes.
    """
    try:
        predictions = Predictions(*atomic_io.read_npz(path, "logits", "labels"))
    except FileNotFoundError as error:
        raise InputError(f"no predictions at {str(path)!r}") from error
    except InputError as error:
        raise InputError(f"predictions {error}") from error
    logits, labels, _ = predictions
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or logits.shape[1] < 2:
        raise InputError(
            f"predictions {str(path)!r}: logits {logits.shape} and labels {labels.shape} are not "
            "[n, outputs] and [n]"
        )
    return predictions._replace(gate=_gate(path, labels))


def _gate(path: pathlib.Path, labels: np.ndarray) -> np.ndarray | None:
    if "gate" not in atomic_io.npz_names(path):
        return None
    (scores,) = atomic_io.read_npz(path, "gate")
    if scores.shape != labels.shape or scores.dtype.kind != "f" or not np.isfinite(scores).all():
        raise InputError(
            f"predictions {str(path)!r}: gate must hold finite numbers {list(labels.shape)}"
        )
    return scores


def load_groups(path: pathlib.Path) -> np.ndarray | None:
    """Returns the groups of the images of a predictions file, str [n]; None if it has none.

    "" is the group of images in no group. Groups that are integers become text.

    Raises:
        InputError: if the file is damaged, or its array `group` is neither strings nor integers
            [n].
    """
    if "group" not in atomic_io.npz_names(path):
        return None
    groups, labels = atomic_io.read_npz(path, "group", "labels")
    if groups.shape != labels.shape or groups.dtype.kind not in "iuU":
        raise InputError(
            f"predictions {str(path)!r}: group has dtype {groups.dtype} and shape {groups.shape}: "
            f"must be strings or integers {list(labels.shape)}"
        )
    return groups.astype(np.str_)


def stored_groups(folder: pathlib.Path, splits: Iterable[str]) -> dict[str, np.ndarray]:
    """Returns the groups of the splits of a workdir whose predictions files have them.

    Raises:
        InputError: for a damaged file, or an invalid array `group`.
    """
    paths = {split: path_of(folder, split) for split in splits}
    loaded = {split: load_groups(path) for split, path in paths.items() if path.exists()}
    return {split: groups for split, groups in loaded.items() if groups is not None}


def kept_groups(path: pathlib.Path, labels: np.ndarray) -> np.ndarray | None:
    """Returns the groups of a predictions file that is about to be replaced; None without any.

    Args:
        path: the file, which may be missing.
        labels: of the new predictions; groups of a file with other labels are not kept.

    Raises:
        InputError: for an invalid array `group`.
    """
    try:
        same = np.array_equal(load(path).labels, labels)
    except InputError:  # missing or damaged
        return None
    return load_groups(path) if same else None


def groups_to_save(
    folder: pathlib.Path, dataset: Dataset, outputs: Mapping[str, Predictions]
) -> dict[str, np.ndarray]:
    """Returns the groups of the images by split, of the splits that have any.

    Those of the data set, else those that the user has added to the predictions files.

    Args:
        folder: the workdir.
        dataset: of the run.
        outputs: the new predictions by split.

    Raises:
        InputError: for an invalid array `group` of a file.
    """
    by_split = {}
    for split, predicted in outputs.items():
        groups = getattr(dataset, split).groups
        if groups is None:
            groups = kept_groups(path_of(folder, split), predicted.labels)
        by_split[split] = groups
    return {split: groups for split, groups in by_split.items() if groups is not None}
