"""Predicts the labels of images, or `abstain`, with their confidence.

kdjax predict --model=model/ photo.jpg folder/ images.npz [--json] [--csv]
kdjax predict --model=student/ --fallback=teacher/ photo.jpg

With a fallback every image gets an answer: of the student, or of the fallback where the student
does not accept.
"""

import functools
import itertools
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from kdjax import cli

if TYPE_CHECKING:
    from kdjax.predict import CascadePrediction, Model, Prediction
    from kdjax.predict.images import LoadedImage
    from kdjax.predict.rows import Row

    Answer = Callable[[Sequence[LoadedImage]], Prediction | CascadePrediction]

MODEL = cli.define_path("model", "the folder written by kdjax.export")
JSON = flags.DEFINE_bool("json", False, "print one JSON object per line")
CSV = flags.DEFINE_bool("csv", False, "print the rows of a CSV file, with its header")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "images per batch")
CASCADE = cli.define_cascade_flags()


def main(arguments: list[str]) -> None:
    """Runs the command; errors of single images go to stderr and give exit status 1."""
    from kdjax.errors import InputError
    from kdjax.predict import images as image_files
    from kdjax.predict import rows

    if JSON.value and CSV.value:
        raise InputError("--json and --csv exclude each other: give one")
    model, answer, notes = _load()
    failures: list[str] = []
    decided: Counter[bool] = Counter()

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
        prediction = answer(batch)
        for row in rows.rows(batch, prediction, model.card["classes"]):
            write(row)
        sys.stdout.flush()
        decided.update(prediction.accepted.tolist())
    line = rows.summary(decided[True], decided[False], len(failures))
    for note in (line, *notes()):
        print(f"kdjax: note: {note}", file=sys.stderr)
    if failures:
        sys.exit(cli.FAILED)


def _load() -> "tuple[Model, Answer, Callable[[], list[str]]]":
    """Returns the model, what predicts images, and the notes about a cascade at the end."""
    from kdjax.errors import InputError
    from kdjax.predict import cascade as cascades
    from kdjax.predict import load

    if MODEL.value is None:
        raise InputError("no model given: for example --model=model/")
    if not (options := CASCADE.options()):
        model = load(MODEL.value, batch_size=BATCH_SIZE.value)
        return model, lambda batch: model(np.stack([image.pixels for image in batch])), list
    cascade = cascades.load_cascade(MODEL.value, batch_size=BATCH_SIZE.value, **options)
    answered_by: Counter[str] = Counter()

    def answer(batch: "Sequence[LoadedImage]") -> "CascadePrediction":
        sources = [image.path if image.position is None else image.pixels for image in batch]
        prediction = cascade.predict(np.stack([image.pixels for image in batch]), sources)
        answered_by.update(prediction.answered_by.tolist())
        return prediction

    def notes() -> list[str]:
        passed_on = answered_by[cascades.FALLBACK]
        return [cascades.summary(cascade, passed_on, answered_by.total()), cascade.rule.note]

    return cascade.student, answer, notes


def _writer(model: "Model") -> "Callable[[Row], None]":
    """Returns the function that prints the result of an image."""
    from kdjax.predict import rows

    if CSV.value:
        return rows.CsvWriter(
            sys.stdout, model.card["classes"], cascade=CASCADE.fallback.value is not None
        ).write
    if JSON.value:
        return lambda row: print(rows.json_line(row))
    width = max(map(len, [*model.card["classes"], "abstain"]))
    line = functools.partial(rows.text_line, width=width)
    return lambda row: print(line(row))


if __name__ == "__main__":
    cli.run(main, positional="IMAGE...", needs=["export"])
