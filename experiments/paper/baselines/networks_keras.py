"""AlexNet of `kdjax.models` in Keras: the same layers, padding and initial weights."""

import sys
from typing import Any

import keras
from keras import layers

from experiments.benchmark import structure

# Layers by name, and whether batch normalization follows each convolution.
NETWORKS = {"alexnet": (structure.ALEXNET, False), "alexnet_small": (structure.ALEXNET_SMALL, True)}


def create(name: str, image_shape: tuple[int, ...], outputs: int, seed: int) -> keras.Model:
    """Returns a network from normalized images [b, h, w, c] to float32 logits [b, outputs].

    Args:
        name: a key of `NETWORKS`.
        image_shape: height, width and channels.
        outputs: number of logits.
        seed: of the initial weights.
    """
    if name not in NETWORKS:
        sys.exit(f"error: no student {name!r} in Keras: {', '.join(NETWORKS)}")
    convolutions, normalized = NETWORKS[name]
    keras.utils.set_random_seed(seed)
    images = x = keras.Input(image_shape)
    for width, kernel, stride, pooled in convolutions:
        x = _convolution(x, width, kernel, stride, use_bias=not normalized)
        if normalized:
            x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
        x = layers.ReLU()(x)
        if pooled:
            x = layers.MaxPooling2D(2, padding="same")(x)
    pooled_features = layers.GlobalAveragePooling2D(dtype="float32")(x)
    head = layers.Dense(outputs, kernel_initializer="lecun_normal", dtype="float32")
    return keras.Model(images, head(pooled_features), name=name)


def _convolution(x: Any, width: int, kernel: int, stride: int, *, use_bias: bool) -> Any:
    """Returns a convolution with kernel // 2 zeros on each side.

    With a stride above 1, the padding "same" of Keras would place the kernel elsewhere.
    """
    if stride > 1:
        x = layers.ZeroPadding2D(kernel // 2)(x)
    return layers.Conv2D(
        width,
        kernel,
        stride,
        padding="same" if stride == 1 else "valid",
        use_bias=use_bias,
        kernel_initializer=keras.initializers.VarianceScaling(2.0, "fan_in", "untruncated_normal"),
    )(x)
