"""Compares a model that was taken away with its run, on the run's whole test split.

python experiments/export_check.py --workdir=runs/digits --model=model/ [--data_dir=DIR]

Each file runs in a process that cannot import kdjax: StableHLO with JAX, ONNX with ONNX Runtime
alone. Exit status 1 if a logit is off by more than 1e-4, or a decision differs.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kdjax import card, stage
from kdjax.export.serving import TOLERANCE
from kdjax.formats import ONNX, STABLEHLO
from kdjax.report import predictions, results

COMMON = ("kdjax", "flax", "optax", "orbax", "ml_collections", "tensorflow_datasets", "jax2onnx")
# Arguments: the model's file, images as .npy, where the outputs go as .npz.
BARE = """
import sys
sys.modules.update(dict.fromkeys({forbidden!r}))
import numpy as np
{load}
images = np.load(sys.argv[2])
batches = [run(images[start : start + 500]) for start in range(0, len(images), 500)]
names = "logits", "label", "confidence", "accepted"
np.savez(sys.argv[3], **dict(zip(names, map(np.concatenate, zip(*batches)))))
"""
LOAD_STABLEHLO = """
import jax.export
run = jax.jit(jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read())).call)
"""
LOAD_ONNX = """
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
run = lambda images: session.run(None, {"images": images})
"""
PROGRAMS = {
    STABLEHLO: BARE.format(forbidden=(*COMMON, "onnxruntime", "onnx"), load=LOAD_STABLEHLO),
    ONNX: BARE.format(forbidden=(*COMMON, "jax", "jaxlib", "onnx"), load=LOAD_ONNX),
}


class Comparison(NamedTuple):
    """One file against its run.

    Attributes:
        file: its name.
        images: how many there are in the test split.
        difference: the largest of a logit from the run's own.
        accepted: how many images the file accepts.
        decisions: how many of them, or of the others, the run decides otherwise.
    """

    file: str
    images: int
    difference: float
    accepted: int
    decisions: int


def outputs(file: pathlib.Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """Returns what a model's file makes of images, in a process without kdjax."""
    with tempfile.TemporaryDirectory() as scratch:
        given, made = pathlib.Path(scratch, "images.npy"), pathlib.Path(scratch, "outputs.npz")
        np.save(given, images)
        program = [sys.executable, "-P", "-c", PROGRAMS[file.name]]
        subprocess.run([*program, str(file), str(given), str(made)], check=True)
        with np.load(made) as arrays:
            return dict(arrays)


def compare(
    workdir: pathlib.Path, model: pathlib.Path, data_dir: str | None = None
) -> list[Comparison]:
    """Returns how each file of a model compares with `predictions/test.npz` of its run."""
    about = card.read(model)
    own = predictions.load(workdir / "predictions" / "test.npz").logits
    score, threshold = about["score"], about["threshold"]
    confidence = results.scores_with(score["pnorm"])[score["name"]](own)
    accepted = confidence >= (np.inf if threshold is None else threshold)
    images = stage.data_of(workdir, data_dir).test.images

    def one(name: str) -> Comparison:
        found = outputs(model / name, images)
        difference = float(np.abs(found["logits"] - own).max())
        decisions = int(np.sum(found["accepted"] != accepted))
        return Comparison(name, len(images), difference, int(found["accepted"].sum()), decisions)

    return [one(name) for name in about["files"]]


def agree(found: Sequence[Comparison]) -> bool:
    """Returns whether all files do what the run did."""
    return all(one.difference <= TOLERANCE and not one.decisions for one in found)


def main() -> None:
    """Prints a line for each file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--data_dir")
    options = parser.parse_args()
    found = compare(options.workdir, options.model, options.data_dir)
    for one in found:
        print(
            f"{one.file}: logits within {one.difference:.1e} of the run's on {one.images} test "
            f"images; {one.accepted} accepted, {one.decisions} decided otherwise than by the run"
        )
    sys.exit(not agree(found))


if __name__ == "__main__":
    main()
