"""Label smoothing of the teacher's training against its equation in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.networks import CLASSES, random_dataset

from kdjax import losses
from kdjax.config import base, resolve
from kdjax.data import dataset_metadata
from kdjax.errors import InputError
from kdjax.training.spec import Objective, train_spec


def objective(smoothing: float) -> Objective:
    """Returns the loss of a teacher."""
    config = base()
    fields = {"teacher.model": "resnet8", "teacher.batch_size": 4}
    config.update_from_flattened_dict({**fields, "teacher.label_smoothing": smoothing})
    return train_spec(resolve(config), "teacher", dataset_metadata(random_dataset())).objective


@pytest.mark.slow
@pytest.mark.parametrize("smoothing", [0.1, 0.9])
def test_target_is_shared_with_all_classes(smoothing: float) -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(6, CLASSES)) * 5, rng.integers(0, CLASSES, 6)
    target = (1 - smoothing) * np.eye(CLASSES)[labels] + smoothing / CLASSES
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    loss, terms = objective(smoothing)(jnp.float32(logits), None, jnp.asarray(labels))
    np.testing.assert_allclose(loss, -(target * log_probs).sum(-1), rtol=1e-5)
    np.testing.assert_array_equal(terms["cross_entropy"], loss)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_smoothed_loss_is_finite_at_large_logits(dtype: jnp.dtype) -> None:
    logits = jnp.array([[1e4, -1e4, 0], [-1e4, 1e4, 1e4]], dtype)
    labels = jnp.array([1, 0])

    def total(logits: jax.Array) -> jax.Array:
        loss, _ = objective(0.2)(logits, None, labels)
        assert loss.dtype == jnp.float32
        return loss.sum()

    value, gradient = jax.value_and_grad(total)(logits)
    assert np.isfinite(value) and np.isfinite(np.float32(gradient)).all()


@pytest.mark.slow
def test_without_smoothing_the_loss_is_cross_entropy_to_the_bit() -> None:
    logits = jnp.float32(np.random.default_rng(1).normal(size=(5, CLASSES)))
    labels = jnp.arange(5) % CLASSES
    loss, _ = objective(0.0)(logits, None, labels)
    np.testing.assert_array_equal(loss, losses.cross_entropy(logits, labels))


def test_smoothing_of_one_is_refused() -> None:
    with pytest.raises(InputError, match=r"teacher.label_smoothing 1.0 .*\[0, 1\)"):
        objective(1.0)
