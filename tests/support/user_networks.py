"""Files with networks of a user, and the config of a run with them."""

import pathlib
import textwrap

LINEN = """
import flax.linen as nn


class Net(nn.Module):
    num_outputs: int
    features: int = 4
    depths: tuple = (1,)
    dtype: object = "float32"

    @nn.compact
    def __call__(self, images, train):
        x = nn.Conv(self.features, (3, 3), strides=2, dtype=self.dtype)(images)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.99)(x))
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(self.num_outputs)(x.mean(axis=(1, 2)))


class Flat(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, images):
        return nn.Dense(self.num_classes)(images.reshape(len(images), -1))
"""

NNX = """
from flax import nnx


class Net(nnx.Module):
    def __init__(self, num_classes, image_shape, features=4, *, rngs):
        self.conv = nnx.Conv(image_shape[-1], features, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(features, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(features, num_classes, rngs=rngs)

    def __call__(self, images):
        x = nnx.relu(self.norm(self.conv(images)))
        return self.head(self.dropout(x).mean(axis=(1, 2)))
"""


def write(folder: pathlib.Path, code: str, name: str = "nets.py") -> str:
    """Writes a file and returns its path, for `path:Class`."""
    path = folder / name
    path.write_text(textwrap.dedent(code))
    return str(path)
