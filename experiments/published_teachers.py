"""Deployment views and scores without saturation, measured on networks that others trained.

python experiments/published_teachers.py --teachers=DIR --data=FILE.zip [--json]

DIR holds `cifar10_resnet20.onnx` and `cifar10_resnet56.onnx`, CIFAR-10 ResNets with input `images`,
uint8 [n, 32, 32, 3]. FILE.zip holds the test images of CIFAR-10 as sheets of 10 x 10 images,
`test/NNN.webp`, and their labels, `test_labels.npy`. Nothing is trained. Prints the tables of
`experiments/results/published_teachers.md`.
"""

import argparse
import io
import json
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import PIL.Image

from kdjax import selective
from kdjax.data import deployment_views

NETWORKS = ("resnet20", "resnet56")
# Scores without fitted parameters, of class logits.
SCORES = (
    "softmax_response",
    "softmax_response_log_odds",
    "margin",
    "margin_log",
    "negative_entropy",
    "max_logit_pnorm",
    "doctor",
    "energy",
)
BATCH_SIZE = 250
SHEET = 10  # images in a row and in a column of a sheet


class Images(NamedTuple):
    """Labelled images: uint8 [n, 32, 32, 3] and [n]."""

    images: np.ndarray
    labels: np.ndarray


def read_images(path: pathlib.Path, split: str = "test") -> Images:
    """Returns the images of a split of the archive, in its order."""
    with zipfile.ZipFile(path) as archive:
        labels = np.load(io.BytesIO(archive.read(f"{split}_labels.npy")))
        sheets = [
            np.asarray(PIL.Image.open(io.BytesIO(archive.read(name))).convert("RGB"))
            for name in sorted(archive.namelist())
            if name.startswith(f"{split}/") and name.endswith(".webp")
        ]
    size = sheets[0].shape[0] // SHEET
    grid = np.stack(sheets).reshape(-1, SHEET, size, SHEET, size, 3)
    images = grid.swapaxes(2, 3).reshape(-1, size, size, 3)
    return Images(images[: len(labels)], labels.astype(np.int64))


def network_logits(path: pathlib.Path, images: np.ndarray, views: str = "none") -> np.ndarray:
    """Returns the logits of an ONNX network, float32 [n, classes].

    Args:
        path: the ONNX file.
        images: uint8 [n, h, w, c].
        views: a name of `deployment_views.NAMES`, over which logits are averaged.
    """
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def network(batch: Any) -> np.ndarray:
        logits: np.ndarray = session.run(["logits"], {"images": np.asarray(batch)})[0]
        return logits

    averaged = deployment_views.views(views, flip=True)
    batches = [
        np.asarray(
            deployment_views.average_logits(network, images[start : start + BATCH_SIZE], averaged)
        )
        for start in range(0, len(images), BATCH_SIZE)
    ]
    return np.concatenate(batches)


def log_odds(logits: np.ndarray) -> np.ndarray:
    """Returns the log-odds of the softmax response of class logits [n, classes], [n]."""
    return np.asarray(selective.softmax_response_log_odds(logits, abstention=False))


def correct(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns whether each prediction is the label, bool [n]."""
    return np.asarray(selective.predict(logits, abstention=False)) == labels


def ranking(confidence: np.ndarray, right: np.ndarray) -> dict[str, float]:
    """Returns error %, AURC x 1000 and error % at 80 % coverage of a ranking."""
    (at_80,) = selective.error_at_coverage(confidence, right, [0.8])
    return {
        "error": 100 * float(np.mean(~right)),
        "aurc": 1000 * selective.aurc(confidence, right),
        "error_at_80": 100 * float(at_80),
    }


def saturation(logits: np.ndarray) -> dict[str, float]:
    """Returns how the softmax response and its log-odds resolve the most confident images.

    Returns:
        `ones`: % of images with a float32 softmax response of exactly 1; `smallest_coverage`: % of
        images accepted by the strictest threshold of the softmax response that accepts any;
        `log_odds_groups`: distinct values of the log-odds among n images, and `largest_tie`, the
        size of the largest group of equal ones.
    """
    response = np.asarray(selective.softmax_response(logits, abstention=False))
    _, counts = np.unique(log_odds(logits), return_counts=True)
    return {
        "ones": 100 * float(np.mean(response == 1)),
        "smallest_coverage": 100 * float(np.mean(response >= response.max())),
        "log_odds_groups": len(counts),
        "largest_tie": int(counts.max()),
    }


def every_score(logits: np.ndarray, labels: np.ndarray) -> dict[str, dict[str, float]]:
    """Returns AURC x 1000 and the size of the largest tie of each score of the class logits."""
    figures = {}
    for name in SCORES:
        confidence = np.asarray(selective.SCORES[name](logits, abstention=False))
        _, counts = np.unique(confidence, return_counts=True)
        area = 1000 * selective.aurc(confidence, correct(logits, labels))
        figures[name] = {"aurc": area, "largest_tie": int(counts.max())}
    return figures


def teacher_ranking(student: np.ndarray, teacher: np.ndarray, labels: np.ndarray) -> float:
    """Returns AURC x 1000 of a student ranked by the teacher's probability of its predictions.

    Args:
        student: logits [n, classes], which predict.
        teacher: logits [n, classes], which rank.
        labels: [n].
    """
    predicted = np.asarray(selective.predict(student, abstention=False))
    chosen = np.arange(teacher.shape[1]) == predicted[:, None]
    # The log-odds of the predicted class, z_i - logsumexp of the others, do not saturate either.
    rest = np.where(chosen, -np.inf, teacher.astype(np.float64))
    confidence = teacher[chosen] - np.logaddexp.reduce(rest, axis=1)
    return 1000 * selective.aurc(confidence, predicted == labels)


def measure(logits: Mapping[tuple[str, str], np.ndarray], labels: np.ndarray) -> dict[str, Any]:
    """Returns all figures.

    Args:
        logits: [n, classes] by network and views.
        labels: [n].
    """
    return {
        "views": {
            f"{network} {views}": ranking(log_odds(values), correct(values, labels))
            for (network, views), values in logits.items()
        },
        "saturation": {network: saturation(logits[network, "none"]) for network in NETWORKS},
        "scores": {network: every_score(logits[network, "none"], labels) for network in NETWORKS},
        "ranked_by_teacher": teacher_ranking(
            logits["resnet20", "none"], logits["resnet56", "none"], labels
        ),
    }


def show(figures: Mapping[str, Any]) -> None:
    """Prints the tables, in Markdown."""
    print("| network | views | error % | AURC x 1000 | error % at 80 % coverage |")
    print("| --- | --- | ---: | ---: | ---: |")
    for name, values in figures["views"].items():
        network, views = name.split()
        print(
            f"| {network} | {views} | {values['error']:.2f} | {values['aurc']:.2f} | "
            f"{values['error_at_80']:.2f} |"
        )
    print(
        "\nSoftmax response of the image alone in float32, and its log-odds:\n\n"
        "| network | exactly 1, % | smallest coverage % | distinct log-odds | largest tie |"
    )
    print("| --- | ---: | ---: | ---: | ---: |")
    for network, values in figures["saturation"].items():
        print(
            f"| {network} | {values['ones']:.1f} | {values['smallest_coverage']:.1f} | "
            f"{values['log_odds_groups']:,} | {values['largest_tie']} |"
        )
    plain = figures["views"]["resnet20 none"]["aurc"]
    print(
        f"\nresnet20 ranked by resnet56's probability of the predicted class: AURC x 1000 "
        f"{plain:.2f} -> {figures['ranked_by_teacher']:.2f}"
    )


def show_scores(figures: Mapping[str, Any]) -> None:
    """Prints a row for each score of the image alone, in Markdown."""
    columns = "".join(f" {network}: AURC x 1000 | largest tie |" for network in NETWORKS)
    print(f"\n| score, image alone |{columns}\n| --- |{' ---: |' * (2 * len(NETWORKS))}")
    for name in SCORES:
        values = [figures["scores"][network][name] for network in NETWORKS]
        cells = "".join(f" {each['aurc']:.2f} | {each['largest_tie']:,} |" for each in values)
        print(f"| `{name}` |{cells}")


def main() -> None:
    """Runs the measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teachers", type=pathlib.Path, required=True, help="folder of ONNX files")
    parser.add_argument("--data", type=pathlib.Path, required=True, help="archive of images")
    parser.add_argument("--views", nargs="+", default=["none", "flip"], help="views to measure")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    test = read_images(options.data)
    logits = {
        (network, views): network_logits(
            options.teachers / f"cifar10_{network}.onnx", test.images, views
        )
        for network in NETWORKS
        for views in options.views
    }
    figures = measure(logits, test.labels)
    if options.json:
        print(json.dumps(figures))
    else:
        show(figures)
        show_scores(figures)


if __name__ == "__main__":
    main()
