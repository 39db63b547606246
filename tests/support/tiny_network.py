"""The smallest network with batch normalization: its programs compile in a fraction of a second."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

# As `student.model`, in this process and in those that tests start.
TINY_NETWORK = f"{__file__}:TinyNetwork"


class TinyNetwork(nn.Module):
    """A strided convolution, batch normalization and a dense layer.

    Attributes:
        num_outputs: number of logits.
        width: channels of the convolution.
        strides: of the convolution.
        dtype: of the computation.
    """

    num_outputs: int
    width: int = 2
    strides: int = 2
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        features = nn.Conv(self.width, (3, 3), strides=self.strides, dtype=self.dtype)(images)
        features = nn.BatchNorm(use_running_average=not train, dtype=self.dtype)(features)
        features = nn.relu(features).reshape((images.shape[0], -1))
        return nn.Dense(self.num_outputs, dtype=self.dtype)(features)
