"""The network that is evaluated, certified and exported: in float32 at the highest precision."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import models
from kdjax.data.batches import Examples
from kdjax.runs import restore, workdir
from kdjax.training import inference
from kdjax.training.spec import STUDENT

# The default of accelerators rounds the factors of matrix products to about ten bits.
PRECISION = "highest"


def restore_network(folder: pathlib.Path) -> restore.RestoredModel:
    """Returns the network of a workdir; a student in float32, also if it was trained in bfloat16.

    A student is exported in float32, and a certificate holds for the logits on which it is based.
    A teacher keeps its dtype, because the student learned from these logits.

    Args:
        folder: the workdir of a student or of a teacher.

    Raises:
        InputError: if the folder is not a workdir, or its training is not finished.
    """
    restored = restore.restore(folder)
    if workdir.read_metadata(folder)["stage"] != STUDENT:
        return restored
    return restored._replace(model=models.with_dtype(restored.model, jnp.float32))


def predict_logits(
    network: restore.RestoredModel, examples: Examples, *, batch_size: int, **options: Any
) -> np.ndarray:
    """Returns the logits of every example, float32 [n, outputs]; see `inference.predict_logits`."""
    with jax.default_matmul_precision(PRECISION):
        return inference.predict_logits(*network, examples, batch_size=batch_size, **options)
