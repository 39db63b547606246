"""Logits of a whole split, in batches of any size and with changed images."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.networks import (
    CLASSES,
    COUNT,
    Linear,
    device_examples,
    flat_inputs,
    random_split,
    teacher_variables,
)

from kdjax.data.batches import Examples
from kdjax.data.deployment_views import apply_view, views
from kdjax.training import inference


@pytest.mark.parametrize("batch_size", [1, 6, 20, 64, 10**12])
def test_every_example_is_predicted_once_for_any_batch_size(batch_size: int) -> None:
    variables = teacher_variables()
    layer = variables["params"]["Dense_0"]
    expected = flat_inputs(random_split()) @ np.float64(layer["kernel"])
    expected += np.float64(layer["bias"])
    logits = inference.predict_logits(
        Linear(CLASSES), variables, device_examples(), batch_size=batch_size
    )
    assert logits.shape == (COUNT, CLASSES)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_splits_of_different_sizes_share_one_program_of_the_network() -> None:
    traced: list[tuple[int, ...]] = []

    class Counted(nn.Module):
        @nn.compact
        def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
            traced.append(images.shape)
            return Linear(CLASSES)(images, train=train)

    model = Counted()
    examples, variables = device_examples(), {"params": {"Linear_0": teacher_variables()["params"]}}
    for count in (COUNT, COUNT - 7, 3):
        part = examples._replace(images=examples.images[:count], labels=examples.labels[:count])
        logits = inference.predict_logits(model, variables, part, batch_size=8)
        expected = inference.predict_logits(
            Linear(CLASSES), teacher_variables(), part, batch_size=8
        )
        np.testing.assert_array_equal(logits, expected)
    assert len(traced) == 1


def test_change_of_images_is_compiled_once_for_all_bound_values() -> None:
    traced, examples, variables = [], device_examples(), teacher_variables()

    def darken(images: jax.Array, indices: jax.Array, *, divisor: jax.Array) -> jax.Array:
        traced.append(divisor)
        return jnp.where(indices[:, None, None, None] % 2 == 0, images // divisor, images)

    images, labels, mean, std, *_ = examples
    for divisor in (2, 3):
        even = np.arange(COUNT)[:, None, None, None] % 2 == 0
        darker = np.where(even, images // divisor, images)
        expected = inference.predict_logits(
            Linear(CLASSES), variables, Examples(darker, labels, mean, std), batch_size=6
        )
        change = jax.tree_util.Partial(darken, divisor=divisor)
        logits = inference.predict_logits(
            Linear(CLASSES), variables, examples, batch_size=6, change=change
        )
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    assert len(traced) == 1


@pytest.mark.parametrize("name", ["none", "flip", "shift"])
def test_logits_are_averaged_over_views_of_the_changed_images(name: str) -> None:
    chosen, variables, examples = views(name, flip=True), teacher_variables(), device_examples()
    change = jax.tree_util.Partial(lambda images, indices: 255 - images)
    logits = inference.predict_logits(
        Linear(CLASSES), variables, examples, batch_size=6, change=change, views=chosen
    )
    single = [
        inference.predict_logits(
            Linear(CLASSES),
            variables,
            examples._replace(images=apply_view(255 - examples.images, view)),
            batch_size=64,
        ).astype(np.float64)
        for view in chosen
    ]
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, np.mean(single, axis=0), rtol=1e-4, atol=1e-5)
