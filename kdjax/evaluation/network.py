"""The network that is evaluated, certified and exported: in float32 at the highest precision."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from kdjax import models
from kdjax.data import Split, deployment_views
from kdjax.data.batches import Examples, put_split
from kdjax.data.deployment_views import IDENTITY, View
from kdjax.errors import InputError
from kdjax.paths import user_path
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


def views_of(config: ConfigDict) -> tuple[View, ...]:
    """Returns the deployment views of a student, from its config."""
    return deployment_views.views(config.selective.views, flip=config.data.flip)


def evaluated_views(folder: pathlib.Path, results: Mapping[str, Any]) -> tuple[View, ...]:
    """Returns the views with which a workdir was evaluated.

    Args:
        folder: the workdir of a student or of a teacher.
        results: content of its `results.json`; one of a version without views names none.
    """
    flip = restore.load_config(folder).data.flip
    return deployment_views.views(results.get("views", deployment_views.NONE), flip=flip)


def averaged_logits(folder: str | os.PathLike[str], images: np.ndarray) -> np.ndarray:
    """Returns the logits of a run for images: normalized, and averaged over its views.

    They are those that are evaluated, certified and exported; `kdjax.restore` gives the network
    alone.

    Args:
        folder: the workdir of a student, or of a teacher, which has no views of its own.
        images: uint8 [n, h, w, c], of the shape of the run's images.

    Returns:
        float32 [n, outputs].

    Raises:
        InputError: if the folder is not a workdir, its training is not finished, or the images
            have another shape or dtype.
    """
    folder = user_path(folder)
    metadata, config = workdir.read_metadata(folder), restore.load_config(folder)
    dataset = metadata["dataset"]
    shape = tuple(dataset["image_shape"])
    if images.dtype != np.uint8 or images.shape[1:] != shape or not len(images):
        raise InputError(
            f"images {images.dtype} {images.shape}: need uint8 [n, {', '.join(map(str, shape))}]"
        )
    mean, std = (np.asarray(dataset[name], np.float32) for name in ("mean", "std"))
    examples = put_split(Split(images, np.zeros(len(images), np.int32)), mean, std)
    views = views_of(config) if metadata["stage"] == STUDENT else (IDENTITY,)
    batch_size = config.eval_batch_size
    return predict_logits(restore_network(folder), examples, batch_size=batch_size, views=views)


def predict_logits(
    network: restore.RestoredModel, examples: Examples, *, batch_size: int, **options: Any
) -> np.ndarray:
    """Returns the logits of every example, float32 [n, outputs]; see `inference.predict_logits`."""
    with jax.default_matmul_precision(PRECISION):
        return inference.predict_logits(*network, examples, batch_size=batch_size, **options)
