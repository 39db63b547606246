"""The predictions file: all that later numbers need, without a model."""

import io
import pathlib
import zipfile
from typing import NamedTuple

import numpy as np

from kdjax import files
from kdjax.errors import InputError

# What numpy and zipfile raise, depending on which byte is wrong.
_DAMAGE = (OSError, ValueError, KeyError, EOFError, TypeError, RuntimeError, zipfile.BadZipFile)


class Predictions(NamedTuple):
    """A network's outputs on one split.

    Attributes:
        logits: float32 [n, m+1], the last column abstention, or [n, m] of a teacher.
        labels: int32 [n].
    """

    logits: np.ndarray
    labels: np.ndarray


def save(path: pathlib.Path, predictions: Predictions) -> None:
    """Writes `logits` and `labels` as npz, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez(buffer, **predictions._asdict())
    files.write(path, buffer.getvalue())


def load(path: pathlib.Path) -> Predictions:
    """Reads what `save` wrote.

    Raises:
        InputError: if the file is missing, damaged, or of other shapes.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            found = Predictions(*(np.asarray(arrays[name]) for name in Predictions._fields))
    except FileNotFoundError as error:
        raise InputError(f"no predictions at {str(path)!r}") from error
    except _DAMAGE as error:
        raise InputError(f"predictions {str(path)!r} are damaged: {error}") from error
    rows, columns = (*found.logits.shape, 0, 0)[:2]
    if found.logits.ndim != 2 or found.labels.shape != (rows,) or columns < 2:
        raise InputError(
            f"predictions {str(path)!r}: logits {found.logits.shape} and labels "
            f"{found.labels.shape} are not [n, outputs] and [n]"
        )
    return found
