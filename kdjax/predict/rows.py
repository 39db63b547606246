"""The results of images as lines of text, JSON objects and rows of a CSV file."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np

from kdjax.predict import sets
from kdjax.predict.cascade import CascadePrediction
from kdjax.predict.images import LoadedImage
from kdjax.predict.model import Prediction
from kdjax.predict.outcome_file import ANSWERED_BY

Row = Mapping[str, Any]
_COLUMNS = ("path", "index", "label", "accepted", "confidence", "score", "note", "set")
OUTLIER = "outlier"  # note of an image that the gate stops
PROBABILITY = "p:"  # before the name of a class, in the header of a CSV file


def rows(
    batch: Sequence[LoadedImage],
    prediction: Prediction | CascadePrediction,
    classes: Sequence[str],
) -> Iterator[dict[str, Any]]:
    """Yields the result of each image.

    Label and probabilities are given for abstained images too. `abstain` is the opposite of
    `accepted`. The note begins with `outlier` if the gate of the model stops the image.

    A model with prediction sets adds `set`, a list of class names, see `Prediction.sets`; a cascade
    `answered_by`.

    Args:
        batch: the images.
        prediction: for them.
        classes: names of the classes, by number.
    """
    stopped = np.zeros(len(batch), bool) if prediction.outlier is None else prediction.outlier
    for i, image in enumerate(batch):
        probabilities = prediction.probabilities[i].tolist()
        yield {
            "path": image.path,
            **({} if image.position is None else {"index": image.position}),
            "label": str(prediction.labels[i]),
            "accepted": bool(prediction.accepted[i]),
            "abstain": not prediction.accepted[i],
            **_set(prediction, i),
            **_answered_by(prediction, i),
            "confidence": float(prediction.confidence[i]),
            "score": float(prediction.score[i]),
            "probabilities": dict(zip(classes, probabilities, strict=True)),
            "note": note(image, stopped[i]),
        }


def _set(prediction: Prediction | CascadePrediction, row: int) -> dict[str, list[str]]:
    return {} if prediction.sets is None else {"set": list(prediction.sets[row])}


def _answered_by(prediction: Prediction | CascadePrediction, row: int) -> dict[str, str]:
    if isinstance(prediction, CascadePrediction):
        return {ANSWERED_BY: str(prediction.answered_by[row])}
    return {}


def note(image: LoadedImage, outlier: bool) -> str:
    """Returns the note of a result: `outlier` if the gate stops the image, and the conversion."""
    return "; ".join(filter(None, (OUTLIER if outlier else "", image.note)))


def text_line(row: Row, width: int) -> str:
    """Returns a result as a line of text: the label, the confidence, and who answers.

    Instead of the label, `abstain` with the prediction set if the model has one.

    Args:
        row: of `rows`.
        width: of the label.
    """
    index = f"[{row['index']}]" if "index" in row else ""
    note = f"  ({row['note']})" if row["note"] else ""
    label = printable(row["label"]) if row["accepted"] else _abstention(row)
    by = f"  {row[ANSWERED_BY]:8}" if ANSWERED_BY in row else ""
    return f"{label:{width}}  {row['confidence']:.4f}{by}  {printable(row['path'])}{index}{note}"


def _abstention(row: Row) -> str:
    return printable(f"abstain{sets.text(row.get('set'), len(row['probabilities']))}")


def json_line(row: Row) -> str:
    """Returns a result as a JSON object."""
    return json.dumps(row)


class CsvWriter:
    """Writes results as rows of a CSV file, the header first; a cascade adds who answers."""

    def __init__(self, file: IO[str], classes: Sequence[str], *, cascade: bool = False) -> None:
        self._writer = csv.writer(file, lineterminator="\n")
        self._columns = (*_COLUMNS, ANSWERED_BY) if cascade else _COLUMNS
        self._writer.writerow([*self._columns, *(f"{PROBABILITY}{name}" for name in classes)])

    def write(self, row: Row) -> None:
        """Writes a result of `rows`."""
        values = {
            **row,
            "index": row.get("index", ""),
            "accepted": str(row["accepted"]).lower(),
            # As JSON, because a name may contain any separator.
            "set": json.dumps(row["set"], ensure_ascii=False) if "set" in row else "",
        }
        probabilities = row["probabilities"].values()
        self._writer.writerow([*(values[name] for name in self._columns), *probabilities])


def summary(accepted: int, abstained: int, failures: int) -> str:
    """Returns a line with the counts of a run."""
    total = accepted + abstained
    images = "1 image" if total == 1 else f"{total:,} images"
    share = f" ({100 * accepted / total:.1f} %)" if total else ""
    unread = f"; {failures:,} could not be read" if failures else ""
    return f"{images}: {accepted:,} accepted{share}, {abstained:,} abstained{unread}"


def printable(text: str) -> str:
    """Returns a text with line breaks, control characters and invalid bytes escaped.

    A file name may contain all of them; each result stays on one line.
    """
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return "".join(escaped)
