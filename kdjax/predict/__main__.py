"""Predicts the labels of images, or `abstain`, with their confidence.

kdjax predict --model=model/ photo.jpg folder/ images.npz [--json] [--csv]
"""

import functools
import itertools
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from kdjax import cli

if TYPE_CHECKING:
    from kdjax.predict import Model
    from kdjax.predict.rows import Row

MODEL = cli.define_path("model", "the folder written by kdjax.export")
JSON = flags.DEFINE_bool("json", False, "print one JSON object per line")
CSV = flags.DEFINE_bool("csv", False, "print the rows of a CSV file, with its header")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "images per batch")


def main(arguments: list[str]) -> None:
    """Runs the command; errors of single images go to stderr and give exit status 1."""
    from kdjax.errors import InputError
    from kdjax.predict import images as image_files
    from kdjax.predict import load, rows

    if MODEL.value is None:
        raise InputError("no model given: for example --model=model/")
    if JSON.value and CSV.value:
        raise InputError("--json and --csv exclude each other: give one")
    model = load(MODEL.value, batch_size=BATCH_SIZE.value)
    failures: list[str] = []
    decisions: list[bool] = []

    def on_error(message: str) -> None:
        failures.append(message)
        print(f"kdjax: error: {rows.printable(message)}", file=sys.stderr)

    def on_skip(message: str) -> None:
        print(f"kdjax: note: {rows.printable(message)}", file=sys.stderr)

    images = image_files.read_images(
        arguments, model.image_shape, on_error, on_skip, resize=model.resize
    )
    write = _writer(model)
    while batch := list(itertools.islice(images, model.batch_size)):
        prediction = model(np.stack([image.pixels for image in batch]))
        for row in rows.rows(batch, prediction, model.card["classes"]):
            write(row)
        sys.stdout.flush()
        decisions += prediction.accepted.tolist()
    accepted = sum(decisions)
    line = rows.summary(accepted, len(decisions) - accepted, len(failures))
    print(f"kdjax: note: {line}", file=sys.stderr)
    if failures:
        sys.exit(cli.FAILED)


def _writer(model: "Model") -> "Callable[[Row], None]":
    """Returns the function that prints the result of an image."""
    from kdjax.predict import rows

    if CSV.value:
        return rows.CsvWriter(sys.stdout, model.card["classes"]).write
    if JSON.value:
        return lambda row: print(rows.json_line(row))
    width = max(map(len, [*model.card["classes"], "abstain"]))
    line = functools.partial(rows.text_line, width=width)
    return lambda row: print(line(row))


if __name__ == "__main__":
    cli.run(main, positional="IMAGE...", needs=["export"])
