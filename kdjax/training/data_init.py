"""Parameters that a network computes from training images before the first step."""

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.data import Dataset
from kdjax.data.augment import normalize
from kdjax.training.spec import TrainSpec
from kdjax.training.step import TrainState

# Images of the train split from which the parameters are computed, as in arXiv 2404.00498.
MAX_IMAGES = 5000


def start(spec: TrainSpec, state: TrainState, dataset: Dataset) -> TrainState:
    """Returns the state before the first step with the parameters that images determine.

    Labels are not used. A network without such parameters keeps its state.

    Args:
        spec: of the network; its model may have a method `init_from_images`.
        state: before the first step.
        dataset: of the run.
    """
    init_from_images = getattr(spec.model, "init_from_images", None)
    if init_from_images is None:
        return state
    params = init_from_images(state.variables["params"], _images(dataset))
    variables = {**state.variables, "params": params}
    average = jax.tree.map(jnp.copy, variables) if state.average else state.average
    return state.replace(variables=variables, average=average)


def _images(dataset: Dataset) -> np.ndarray:
    """Returns normalized training images, evenly distributed over the split."""
    count = len(dataset.train.labels)
    index = np.linspace(0, count - 1, min(count, MAX_IMAGES)).astype(np.int64)
    images = jnp.asarray(np.asarray(dataset.train.images[index]))
    return np.asarray(normalize(images, jnp.asarray(dataset.mean), jnp.asarray(dataset.std)))
