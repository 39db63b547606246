"""Compares an exported model with its run on the whole test split.

python experiments/export_check.py --workdir=runs/digits --model=model/ [--data_dir=DIR]

Each model file runs in a process that cannot import kdjax: StableHLO with JAX only, ONNX with ONNX
Runtime only. Exit status 1 if a logit differs by more than 1e-4, or a decision to accept differs.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kdjax import selective
from kdjax.evaluation import predictions
from kdjax.export import card
from kdjax.export.formats import ONNX, STABLEHLO
from kdjax.export.reference import TOLERANCE
from kdjax.runs import restore

FORBIDDEN = ("kdjax", "flax", "optax", "orbax", "ml_collections", "tensorflow_datasets", "jax2onnx")
# Arguments: the model file, the images as .npy, the .npz file for the outputs.
PROGRAM = """
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
    STABLEHLO: PROGRAM.format(forbidden=(*FORBIDDEN, "onnxruntime", "onnx"), load=LOAD_STABLEHLO),
    ONNX: PROGRAM.format(forbidden=(*FORBIDDEN, "jax", "jaxlib", "onnx"), load=LOAD_ONNX),
}


class Comparison(NamedTuple):
    """A model file compared with its run.

    Attributes:
        file: the file name.
        images: number of images in the test split.
        difference: the largest difference between a logit of the file and of the run.
        accepted: number of images that the file accepts.
        decisions: number of images that one of the two accepts and the other does not.
    """

    file: str
    images: int
    difference: float
    accepted: int
    decisions: int


def outputs(file: pathlib.Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the outputs of a model file for images, computed in a process without kdjax."""
    with tempfile.TemporaryDirectory() as scratch:
        images_file = pathlib.Path(scratch, "images.npy")
        outputs_file = pathlib.Path(scratch, "outputs.npz")
        np.save(images_file, images)
        program = [sys.executable, "-P", "-c", PROGRAMS[file.name]]
        subprocess.run([*program, str(file), str(images_file), str(outputs_file)], check=True)
        with np.load(outputs_file) as arrays:
            return dict(arrays)


def compare(
    workdir: pathlib.Path, model: pathlib.Path, data_dir: str | None = None
) -> list[Comparison]:
    """Returns a comparison of each model file with `predictions/test.npz` of its run.

    Args:
        workdir: the workdir of the run.
        model: the folder of the exported model.
        data_dir: the TFDS directory, if not the one of the run.
    """
    model_card = card.read(model)
    run_logits = predictions.load(workdir / "predictions" / "test.npz").logits
    score = model_card["score"]
    scores = selective.numpy_scores(score["pnorm"], score.get("combination"))
    confidence = scores[score["name"]](run_logits)
    confident = confidence >= _thresholds(model_card, run_logits)
    images = restore.load_dataset(workdir, data_dir).test.images

    def compare_file(name: str) -> Comparison:
        arrays = outputs(model / name, images)
        # Which images a gate stops is taken from the file.
        run_accepts = confident & ~arrays.get("outlier", np.zeros(len(images), bool))
        return Comparison(
            file=name,
            images=len(images),
            difference=float(np.abs(arrays["logits"] - run_logits).max()),
            accepted=int(arrays["accepted"].sum()),
            decisions=int(np.sum(arrays["accepted"] != run_accepts)),
        )

    return [compare_file(name) for name in model_card["files"]]


def _thresholds(model_card: Mapping[str, Any], logits: np.ndarray) -> np.ndarray:
    """Returns the threshold of each prediction, [n], that of its class if each class has one."""
    values = model_card.get("class_thresholds") or [model_card["threshold"]]
    thresholds = np.array([np.inf if value is None else value for value in values])
    classes = selective.predicted_classes(logits) if len(values) > 1 else np.zeros(len(logits), int)
    return thresholds[classes]


def agree(comparisons: Sequence[Comparison]) -> bool:
    """Returns whether all files agree with the run in logits and decisions."""
    return all(
        comparison.difference <= TOLERANCE and not comparison.decisions
        for comparison in comparisons
    )


def main() -> None:
    """Prints a line for each file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--workdir", type=pathlib.Path, required=True, help="the workdir of the run"
    )
    parser.add_argument(
        "--model", type=pathlib.Path, required=True, help="the folder of the exported model"
    )
    parser.add_argument("--data_dir", help="the TFDS directory, if not the one of the run")
    options = parser.parse_args()
    comparisons = compare(options.workdir, options.model, options.data_dir)
    for comparison in comparisons:
        print(
            f"{comparison.file}: largest difference of a logit {comparison.difference:.1e} on "
            f"{comparison.images} test images; {comparison.accepted} accepted; "
            f"{comparison.decisions} decisions differ from those of the run"
        )
    sys.exit(not agree(comparisons))


if __name__ == "__main__":
    main()
