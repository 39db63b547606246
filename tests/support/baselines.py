"""An exported split of random images, and files of logits, as of `experiments.paper.baselines`."""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from experiments.paper.baselines import exported

JOB = {"data": "cifar10", "setting": "structure", "teacher": "in_sample", "seed": 0}
CLASSES, EXAMPLES, VIEWS, SIZE = 3, 12, 2, 16
SETTINGS = exported.Settings(
    job=JOB,
    command="python -m experiments.paper.baselines.export_split",
    model="alexnet_small",
    mean=[0.5, 0.4, 0.3],
    std=[0.2, 0.25, 0.3],
    pad=1,
    flip=True,
    epochs=2,
    batch_size=4,
    learning_rate=0.01,
    momentum=0.9,
    nesterov=True,
    weight_decay=5e-4,
    warmup_epochs=1.0,
    pretrain_epochs=1,
    payoff=2.2,
    distill_weight=0.5,
    temperature=4.0,
    dtype="float32",
    eval_every=1,
    seed=0,
)
BASELINE = {
    "name": "gambler (PyTorch)",
    "job": JOB,
    "classes": CLASSES,
    "abstains": True,
    "needs_teacher": False,
    "command": "python -m experiments.paper.baselines.deep_gamblers_torch",
    "export": SETTINGS.command,
    "device": "cpu",
}


def split(rng: np.random.Generator, **changes: Any) -> exported.Exported:
    """Returns random images of `CLASSES` classes, with two fixed views and a teacher."""
    settings = dataclasses.replace(SETTINGS, **changes)
    names = (exported.TRAIN, *exported.EVALUATED)
    augmentations = (2 * settings.pad + 1) ** 2 * (1 + settings.flip)
    return exported.Exported(
        settings,
        {name: rng.integers(256, size=(EXAMPLES, SIZE, SIZE, 3), dtype=np.uint8) for name in names},
        {name: rng.integers(CLASSES, size=EXAMPLES) for name in names},
        CLASSES,
        rng.integers(augmentations, size=(VIEWS, EXAMPLES), dtype=np.int32),
        rng.normal(size=(VIEWS, EXAMPLES, CLASSES)).astype(np.float32),
    )


def crop(image: np.ndarray, number: int, settings: exported.Settings) -> np.ndarray:
    """Returns the augmentation of this number of an image uint8 [h, w, c]."""
    (top,), (left,), (mirrored,) = exported.offsets(
        np.array([number]), settings.pad, flip=settings.flip
    )
    padded = np.pad(image, ((settings.pad,) * 2, (settings.pad,) * 2, (0, 0)))
    height, width, _ = image.shape
    cropped = padded[top : top + height, left : left + width]
    return cropped[:, ::-1] if mirrored else cropped


def save_split(path: pathlib.Path, split: exported.Exported) -> None:
    """Writes the file that `export_split` would write."""
    arrays = {f"{name}_images": images for name, images in split.images.items()}
    arrays |= {f"{name}_labels": labels for name, labels in split.labels.items()}
    arrays["settings"] = np.array(json.dumps(dataclasses.asdict(split.settings)))
    np.savez(path, classes=split.classes, views=split.views, teacher=split.teacher, **arrays)
