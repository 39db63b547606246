"""The predictions file of a split, from which all results are computed without a model."""

import pathlib
from typing import NamedTuple

import numpy as np

from kdjax.errors import InputError
from kdjax.runtime import atomic_io


class Predictions(NamedTuple):
    """The outputs of a network on a split.

    Attributes:
        logits: float32 [n, m+1], the last column abstention; [n, m] of a teacher.
        labels: int32 [n].
    """

    logits: np.ndarray
    labels: np.ndarray


def path_of(folder: pathlib.Path, split: str) -> pathlib.Path:
    """Returns the predictions file of a split in a workdir."""
    return folder / "predictions" / f"{split}.npz"


def save(path: pathlib.Path, predictions: Predictions) -> None:
    """Writes `logits` and `labels` as .npz, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_io.write_npz(path, predictions._asdict())


def load(path: pathlib.Path) -> Predictions:
    """Reads what `save` wrote.

    Raises:
        InputError: if the file is missing, damaged, or its arrays have other shapes.
    """
    try:
        predictions = Predictions(*atomic_io.read_npz(path, *Predictions._fields))
    except FileNotFoundError as error:
        raise InputError(f"no predictions at {str(path)!r}") from error
    except InputError as error:
        raise InputError(f"predictions {error}") from error
    logits, labels = predictions
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or logits.shape[1] < 2:
        raise InputError(
            f"predictions {str(path)!r}: logits {logits.shape} and labels {labels.shape} are not "
            "[n, outputs] and [n]"
        )
    return predictions
