"""The forward pass that kdjax evaluates and exports: normalization, folded batch norm, logits."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark import cases
from kdjax import models
from kdjax.data.augment import normalize
from kdjax.models import apply
from kdjax.models.registry import DTYPES, with_dtype


def forward_function(network: str, dtype: str) -> Callable[[jax.Array], jax.Array]:
    """Returns a function from images uint8 [b, h, w, c] to logits [b, m], with initial weights.

    Args:
        network: a key of `kdjax.models.MODELS`.
        dtype: of the computation, a key of `DTYPES`.
    """
    model = models.create(network, cases.CLASSES)
    images = jnp.zeros((1, *cases.IMAGE_SHAPE))
    initial = jax.jit(lambda: apply.init(model, jax.random.key(0), images))()
    folded, variables = models.fold_batch_norm(model, initial)
    deployed = with_dtype(folded, DTYPES[dtype])
    mean, std = np.array([cases.MEAN, cases.STD], np.float32)

    def forward(images: jax.Array) -> jax.Array:
        return apply.apply_eval(deployed, variables, normalize(images, mean, std))

    return forward
