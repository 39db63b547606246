"""The Keras worker on the JAX backend; its environment needs keras and jax, not kdjax.

`keras.distillation.Distiller` is the released method closest to ours: student and teacher have the
same m outputs, and the loss is cross-entropy plus the divergence at a temperature. Epochs run
through `fit`, on images that are normalized beforehand and not augmented.

`python -m experiments.benchmark.keras_side`, started by the benchmark; see `protocol`.
"""

import contextlib
from typing import Any

import jax
import keras
import numpy as np
from keras import layers

from experiments.benchmark import cases, structure
from experiments.benchmark.protocol import Prepared, Reply, serve, versions


def describe() -> Reply:
    """Returns versions and device."""
    device = jax.default_backend()
    return {
        "versions": versions("keras", "jax", "jaxlib"),
        "device": device,
        "device_name": "" if device == "cpu" else jax.devices()[0].device_kind,
    }


def prepare(
    resources: contextlib.ExitStack,
    case: dict[str, Any],
    variant: dict[str, Any],
    batch: int,
    steps: int,
) -> Prepared:
    """Returns a variant of a case, ready to be timed; see `protocol.serve`."""
    bfloat16 = variant["dtype"] == "bfloat16"
    keras.config.set_dtype_policy("mixed_bfloat16" if bfloat16 else "float32")
    resources.callback(keras.utils.clear_session)
    student = model = _network(case["student"])
    if case["teacher"]:
        model = keras.distillation.Distiller(
            teacher=_network(case["teacher"]),
            student=student,
            distillation_losses=keras.distillation.LogitsDistillation(cases.TEMPERATURE),
        )
    model.compile(
        optimizer=keras.optimizers.SGD(
            cases.LEARNING_RATE, cases.MOMENTUM, nesterov=True, weight_decay=cases.WEIGHT_DECAY
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    raw, labels = cases.examples(steps * batch)
    mean, std = np.array(cases.MEAN), np.array(cases.STD)
    images = ((raw / 255 - mean) / std).astype(np.float32)

    def fit() -> None:
        model.fit(images, labels, batch_size=batch, epochs=1, verbose=0)

    parameters = sum(np.prod(value.shape) for value in student.trainable_variables)
    return Prepared({cases.EPOCH: fit}, int(parameters))


def _network(name: str) -> keras.Model:
    """Returns a network from images to m logits.

    With stride 2, padding "same" can be shifted by one pixel against that of kdjax.
    """
    images = keras.Input(cases.IMAGE_SHAPE)
    features = _alexnet(images) if name == "alexnet" else _resnet(name, images)
    pooled = layers.GlobalAveragePooling2D()(features)
    return keras.Model(images, layers.Dense(cases.CLASSES, dtype="float32")(pooled))


def _alexnet(x: Any) -> Any:
    for width, kernel, stride, pooled in structure.ALEXNET:
        x = layers.Conv2D(width, kernel, stride, padding="same", activation="relu")(x)
        if pooled:
            x = layers.MaxPooling2D(2, padding="same")(x)
    return x


def _resnet(name: str, x: Any) -> Any:
    x = layers.ReLU()(_conv_norm(x, (structure.RESNETS[name][2], 3, 1)))
    for _, convolutions in structure.blocks(name):
        x = _block(x, convolutions)
    return x


def _block(x: Any, convolutions: tuple[structure.Layer, ...]) -> Any:
    residual = x
    for layer in convolutions[:-1]:
        residual = layers.ReLU()(_conv_norm(residual, layer))
    residual = _conv_norm(residual, convolutions[-1])
    if x.shape != residual.shape:
        stride = max(stride for _, _, stride in convolutions)
        x = _conv_norm(x, (residual.shape[-1], 1, stride))
    return layers.ReLU()(layers.add([residual, x]))


def _conv_norm(x: Any, layer: structure.Layer) -> Any:
    width, kernel, stride = layer
    x = layers.Conv2D(width, kernel, stride, padding="same", use_bias=False)(x)
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)


if __name__ == "__main__":
    serve(prepare, describe=describe)
