"""The results of images as lines of text, JSON objects and rows of a CSV file."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

from kdjax.predict.images import LoadedImage
from kdjax.predict.model import Prediction

Row = Mapping[str, Any]
_COLUMNS = ("path", "index", "label", "accepted", "confidence", "score", "note")
PROBABILITY = "p:"  # before the name of a class, in the header of a CSV file


def rows(
    batch: Sequence[LoadedImage], prediction: Prediction, classes: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yields the result of each image.

    Label and probabilities are given for abstained images too. `abstain` is the opposite of
    `accepted`.

    Args:
        batch: the images.
        prediction: for them.
        classes: names of the classes, by number.
    """
    for i, image in enumerate(batch):
        probabilities = prediction.probabilities[i].tolist()
        yield {
            "path": image.path,
            **({} if image.position is None else {"index": image.position}),
            "label": str(prediction.labels[i]),
            "accepted": bool(prediction.accepted[i]),
            "abstain": not prediction.accepted[i],
            "confidence": float(prediction.confidence[i]),
            "score": float(prediction.score[i]),
            "probabilities": dict(zip(classes, probabilities, strict=True)),
            "note": image.note,
        }


def text_line(row: Row, width: int) -> str:
    """Returns a result as a line of text: the label, or `abstain`, and the confidence.

    Args:
        row: of `rows`.
        width: of the label.
    """
    index = f"[{row['index']}]" if "index" in row else ""
    note = f"  ({row['note']})" if row["note"] else ""
    label = row["label"] if row["accepted"] else "abstain"
    return f"{label:{width}}  {row['confidence']:.4f}  {printable(row['path'])}{index}{note}"


def json_line(row: Row) -> str:
    """Returns a result as a JSON object."""
    return json.dumps(row)


class CsvWriter:
    """Writes results as rows of a CSV file, the header first."""

    def __init__(self, file: IO[str], classes: Sequence[str]) -> None:
        self._writer = csv.writer(file, lineterminator="\n")
        self._writer.writerow([*_COLUMNS, *(f"{PROBABILITY}{name}" for name in classes)])

    def write(self, row: Row) -> None:
        """Writes a result of `rows`."""
        values = {**row, "index": row.get("index", ""), "accepted": str(row["accepted"]).lower()}
        probabilities = row["probabilities"].values()
        self._writer.writerow([*(values[name] for name in _COLUMNS), *probabilities])


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
