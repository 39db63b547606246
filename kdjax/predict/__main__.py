"""Predicts the labels of images, or `abstain`, with their confidence.

python -m kdjax.predict --model=model/ photo.jpg folder/ images.npz [--json] [--batch_size=256]
"""

import itertools
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from kdjax import cli

if TYPE_CHECKING:
    from kdjax.predict import Prediction
    from kdjax.predict.images import LoadedImage

MODEL = cli.define_path("model", "the folder written by kdjax.export")
JSON = flags.DEFINE_bool("json", False, "print one JSON object per line")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "images per batch")


def main(arguments: list[str]) -> None:
    """Runs the command; errors of single images go to stderr and give exit status 1."""
    from kdjax.errors import InputError
    from kdjax.predict import images as image_files
    from kdjax.predict import load

    if MODEL.value is None:
        raise InputError("no model given: for example --model=model/")
    model = load(MODEL.value, batch_size=BATCH_SIZE.value)
    failures: list[str] = []

    def on_error(message: str) -> None:
        failures.append(message)
        print(f"kdjax: error: {_printable(message)}", file=sys.stderr)

    def on_skip(message: str) -> None:
        print(f"kdjax: note: {_printable(message)}", file=sys.stderr)

    images = image_files.read_images(arguments, model.image_shape, on_error, on_skip)
    width = max(map(len, [*model.card["classes"], "abstain"]))
    while batch := list(itertools.islice(images, model.batch_size)):
        for row in _rows(batch, model(np.stack([image.pixels for image in batch]))):
            print(json.dumps(row) if JSON.value else _line(row, width), flush=True)
    if failures:
        sys.exit(cli.FAILED)


def _rows(batch: "list[LoadedImage]", prediction: "Prediction") -> Iterator[dict]:
    """Yields the result of each image, as the object of `--json`."""
    for image, label, confidence, accepted in zip(
        batch, prediction.labels, prediction.confidence, prediction.accepted, strict=True
    ):
        yield {
            "path": image.path,
            **({} if image.position is None else {"index": image.position}),
            "label": str(label) if accepted else None,
            "abstain": not accepted,
            "confidence": float(confidence),
            "note": image.note,
        }


def _line(row: dict, width: int) -> str:
    """Returns the result of an image as a line of text; `width` is that of the label."""
    index = f"[{row['index']}]" if "index" in row else ""
    note = f"  ({row['note']})" if row["note"] else ""
    path = _printable(row["path"])
    return f"{row['label'] or 'abstain':{width}}  {row['confidence']:.4f}  {path}{index}{note}"


def _printable(text: str) -> str:
    """Returns a text with line breaks, control characters and invalid bytes escaped.

    A file name may contain all of them; each result stays on one line.
    """
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return "".join(escaped)


if __name__ == "__main__":
    cli.run(main, positional="IMAGE...")
