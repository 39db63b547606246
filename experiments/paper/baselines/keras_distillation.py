"""Distillation with `keras.distillation`, on the exported split of a job.

python -m experiments.paper.baselines.keras_distillation --split=split.npz --out=baselines

Needs keras and jax, not kdjax (KERAS_BACKEND=jax is set). `keras.distillation.Distiller` trains
the student with `LogitsDistillation`, the logits of the job's teacher in the job's fixed views:
network, images, teacher, epochs, batch size, schedule and augmentation are those of our `kd`.

The Distiller's loss is w CE + (1 - w) T^2 KL with w = --student-loss-weight. Ours is
CE + lambda T^2 KL, so the distillation loss is weighted by lambda w / (1 - w), and the learning
rate divided by w. The weight decay of Keras acts on the weights directly, ours through the
momentum, whose sum of past steps is 1 / (1 - momentum) times as long; the coefficient is scaled so
that weights shrink at the same rate.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np
from keras import layers, ops

from experiments.paper.baselines import exported, networks_keras
from experiments.paper.baselines.exported import EVALUATED, TRAIN, Exported, Settings

NAME = "kd (keras.distillation)"
# Columns of the inputs: index of the image, its augmentation (see `exported.offsets`), and view.
ROW, TOP, LEFT, MIRRORED, VIEW = range(5)


def main(arguments: Sequence[str]) -> None:
    """Trains the student and writes its logits."""
    options = _parser().parse_args(arguments)
    split = exported.load(options.split)
    settings = exported.change(
        split.settings,
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        dtype=options.dtype,
        eval_every=options.eval_every,
        seed=options.seed,
    )
    bfloat16 = settings.dtype == "bfloat16"
    keras.config.set_dtype_policy("mixed_bfloat16" if bfloat16 else "float32")
    watch = exported.Stopwatch()
    student, distiller = _distiller(split, settings, options.student_loss_weight)
    best = _train(split, settings, student, distiller)
    seconds = watch.seconds()
    student.set_weights(best.weights)
    record = {
        "name": options.name or NAME,
        "method": "kd",
        "abstains": False,
        "needs_teacher": True,
        "command": exported.command("keras_distillation", arguments),
        "epochs": settings.epochs,
        "best_epoch": best.epoch,
        "device": _device(),
        "seconds": seconds,
    }
    logits = _evaluate(student, split, settings)
    packages = ("keras", "numpy", keras.backend.backend())
    exported.write(options.out, "keras_distillation", split, logits, record, packages)


def _parser() -> argparse.ArgumentParser:
    parser = exported.parser("keras_distillation", __doc__)
    parser.add_argument(
        "--student-loss-weight", type=float, default=0.5, help="w, in (0, 1); Keras's default 0.5"
    )
    return parser


def _constant(layer: layers.Layer, array: np.ndarray) -> Any:
    """Returns a variable of a layer that holds an array on the device and is not trained."""
    return layer.add_weight(
        shape=array.shape,
        initializer=lambda *_, **__: ops.convert_to_tensor(array),
        dtype=str(array.dtype),
        trainable=False,
    )


class Pictures(layers.Layer):
    """The augmented, normalized training images of inputs [b, 5]; all images are on the device."""

    def __init__(self, split: Exported, settings: Settings) -> None:
        """Creates the layer with the images of a split."""
        super().__init__(dtype="float32", autocast=False, trainable=False)
        pad = settings.pad
        images = np.pad(split.images[TRAIN], ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        self._shape = split.images[TRAIN].shape[1:]
        self._mean = np.asarray(settings.mean, np.float32)
        self._std = np.asarray(settings.std, np.float32)
        self._images = _constant(self, images)

    def call(self, inputs: Any) -> Any:
        """Returns float32 [b, h, w, c]."""
        height, width, _ = self._shape
        columns = ops.arange(width, dtype="int32")[None]
        columns = ops.where(inputs[:, MIRRORED, None] == 1, width - 1 - columns, columns)
        columns += inputs[:, LEFT, None]
        rows = ops.arange(height, dtype="int32")[None] + inputs[:, TOP, None]
        images = ops.convert_to_tensor(self._images)
        pixels = images[inputs[:, ROW, None, None], rows[:, :, None], columns[:, None]]
        return (ops.cast(pixels, "float32") / 255 - self._mean) / self._std

    def compute_output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns (b, h, w, c)."""
        return (input_shape[0], *self._shape)


class StoredTeacher(layers.Layer):
    """The teacher's logits for inputs [b, 5], computed beforehand for each view of each image."""

    def __init__(self, logits: np.ndarray) -> None:
        """Creates the layer with logits [V, n, m]."""
        super().__init__(dtype="float32", trainable=False)
        self._logits = _constant(self, logits)

    def call(self, inputs: Any) -> Any:
        """Returns float32 [b, m]."""
        return ops.convert_to_tensor(self._logits)[inputs[:, VIEW], inputs[:, ROW]]

    def compute_output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns (b, m)."""
        return (input_shape[0], self._logits.shape[-1])


@keras.saving.register_keras_serializable(package="baselines")
class TableSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate of each step, from a table."""

    def __init__(self, rates: np.ndarray) -> None:
        """Creates the schedule of learning rates [steps]."""
        self._rates = np.asarray(rates, np.float32)

    def __call__(self, step: Any) -> Any:
        """Returns the learning rate of a step, counted from 0."""
        last = len(self._rates) - 1
        index = ops.minimum(ops.cast(step, "int32"), last)
        return ops.take(ops.convert_to_tensor(self._rates), index)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {"rates": self._rates.tolist()}


def distillation_loss(temperature: float) -> keras.distillation.LogitsDistillation:
    """Returns the distillation loss T^2 KL(softmax(t / T) || softmax(z / T)), mean over a batch.

    In Keras 3.15, the default `loss="kl_divergence"` is the divergence of the logits themselves,
    without softmax, and training diverges; a `KLDivergence` is that of the probabilities.

    Args:
        temperature: T.
    """
    return keras.distillation.LogitsDistillation(temperature, loss=keras.losses.KLDivergence())


def _distiller(
    split: Exported, settings: Settings, weight: float
) -> tuple[keras.Model, keras.Model]:
    """Returns the student, on images, and the compiled Distiller, on inputs [b, 5].

    Args:
        split: with a teacher.
        settings: of the training.
        weight: of the student's cross-entropy in the loss of the Distiller, in (0, 1).
    """
    if split.teacher is None:
        sys.exit("error: the split has no teacher: export_split --teacher=FOLDER")
    if not 0 < weight < 1:
        sys.exit(f"error: --student-loss-weight {weight}: must be between 0 and 1")
    shape = split.images[TRAIN].shape[1:]
    student = networks_keras.create(settings.model, shape, split.classes, settings.seed)
    inputs = keras.Input((5,), dtype="int32")
    distiller = keras.distillation.Distiller(
        teacher=keras.Model(inputs, StoredTeacher(split.teacher)(inputs)),
        student=keras.Model(inputs, student(Pictures(split, settings)(inputs))),
        distillation_losses=[distillation_loss(settings.temperature)],
        distillation_loss_weights=[settings.distill_weight * weight / (1 - weight)],
        student_loss_weight=weight,
    )
    steps = exported.steps_per_epoch(split, settings)
    rates = exported.learning_rates(settings, exported.COSINE, steps) / weight
    optimizer = keras.optimizers.SGD(
        TableSchedule(rates),
        settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay * weight / (1 - settings.momentum),
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    distiller.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=True,
        steps_per_execution=min(8, steps),
    )
    return student, distiller


def _train(
    split: Exported, settings: Settings, student: keras.Model, distiller: keras.Model
) -> exported.BestOnDev:
    """Trains the student and returns its best weights on dev."""
    best = exported.BestOnDev(split.labels["dev"], settings.eval_every, settings.epochs)
    ends, dev = set(best.ends()), _normalize(split.images["dev"], settings)
    for epoch in range(settings.epochs):
        inputs, labels = _epoch(split, settings, epoch)
        history = distiller.fit(
            inputs,
            labels,
            batch_size=settings.batch_size,
            initial_epoch=epoch,
            epochs=epoch + 1,
            shuffle=False,
            verbose=0,
        )
        exported.end_epoch(epoch + 1, settings.epochs, history.history["loss"][-1])
        if epoch + 1 in ends:
            best.update(epoch + 1, _predict(student, dev), student.get_weights)
    return best


def _epoch(split: Exported, settings: Settings, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the inputs [n, 5] and labels [n] of an epoch, in its order: whole batches."""
    rng = exported.epoch_generator(settings.seed, epoch)
    numbers = exported.epoch_numbers(split, epoch, rng)
    labels, size = split.labels[TRAIN].astype(np.int32), settings.batch_size
    order = rng.permutation(len(labels))[: len(labels) // size * size]
    crops = exported.offsets(numbers[order], settings.pad, flip=settings.flip)
    view = np.full_like(order, epoch % len(split.views))
    return np.stack([order, *crops, view], 1).astype(np.int32), labels[order]


def _normalize(images: np.ndarray, settings: Settings) -> np.ndarray:
    mean, std = (np.asarray(x, np.float32) for x in (settings.mean, settings.std))
    return (images.astype(np.float32) / 255 - mean) / std


def _predict(student: keras.Model, images: np.ndarray) -> np.ndarray:
    return np.asarray(student.predict(images, batch_size=1000, verbose=0), np.float32)


def _evaluate(student: keras.Model, split: Exported, settings: Settings) -> dict[str, np.ndarray]:
    """Returns the logits on all splits but train, see `exported.write`."""
    logits = {}
    for name in EVALUATED:
        images = _normalize(split.images[name], settings)
        logits[name] = _predict(student, images)
        logits[f"{name}_mirrored"] = _predict(student, images[:, :, ::-1])
    return logits


def _device() -> str:
    if keras.backend.backend() != "jax":
        return keras.backend.backend()
    import jax

    return jax.devices()[0].device_kind


if __name__ == "__main__":
    main(sys.argv[1:])
