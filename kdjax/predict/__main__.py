"""Says of pictures what a model makes of them: the label with its confidence, or `abstain`.

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
    from kdjax.predict.pictures import Picture

MODEL = flags.DEFINE_string("model", None, "the folder that kdjax.export made")
JSON = flags.DEFINE_bool("json", False, "one JSON object a line, for programs")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "pictures that are read and run at once")


def main(arguments: list[str]) -> None:
    """Runs the command; what cannot be read is told on stderr, and ends it with status 1."""
    from kdjax.errors import InputError
    from kdjax.predict import load, pictures

    if MODEL.value is None:
        raise InputError("no model given: for example --model=model/")
    model = load(MODEL.value, batch_size=BATCH_SIZE.value)
    unread: list[str] = []

    def report(line: str) -> None:
        unread.append(line)
        print(f"kdjax: error: {line}", file=sys.stderr)

    found = pictures.read(arguments, model.image_shape, report)
    width = max(map(len, [*model.card["classes"], "abstain"]))
    while batch := list(itertools.islice(found, model.batch_size)):
        for row in _rows(batch, model(np.stack([picture.image for picture in batch]))):
            print(json.dumps(row) if JSON.value else _line(row, width), flush=True)
    if unread:
        sys.exit(cli.FAILED)


def _rows(batch: "list[Picture]", said: "Prediction") -> Iterator[dict]:
    for picture, label, confidence, accepted in zip(
        batch, said.labels, said.confidence, said.accepted, strict=True
    ):
        yield {
            "path": picture.path,
            **({} if picture.place is None else {"index": picture.place}),
            "label": str(label) if accepted else None,
            "abstain": not accepted,
            "confidence": float(confidence),
            "note": picture.note,
        }


def _line(row: dict, width: int) -> str:
    place = f"[{row['index']}]" if "index" in row else ""
    note = f"  ({row['note']})" if row["note"] else ""
    return (
        f"{row['label'] or 'abstain':{width}}  {row['confidence']:.4f}  {row['path']}{place}{note}"
    )


if __name__ == "__main__":
    cli.run(main, positional="IMAGE...")
