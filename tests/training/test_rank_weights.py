"""Weights of the losses by the rank of the teacher's confidence, against their equations."""

import dataclasses
import itertools
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from support.networks import (
    CLASSES,
    COUNT,
    SHAPE,
    Linear,
    device_examples,
    flat_inputs,
    linear_spec,
    order,
    random_dataset,
    random_split,
    streamed_examples,
    teacher_variables,
)

from kdjax.data.batches import Batch, DeviceSplit, iterate_batches, take_batch
from kdjax.errors import InputError
from kdjax.training import host_teacher, rank_weights, spec, step, teacher_network
from kdjax.training.host_teacher import HostTeacher
from kdjax.training.teacher import Teacher


def reference(confidences: np.ndarray) -> np.ndarray:
    """-ln(1 - r / (n + 1)) of the ascending rank, for confidences without ties."""
    ranks = scipy.stats.rankdata(confidences, method="ordinal")
    return -np.log(1 - ranks / (len(confidences) + 1))


def log_odds(logits: np.ndarray) -> np.ndarray:
    """The softmax response in the log domain, in float64."""
    ordered = np.sort(np.float64(logits), axis=-1)
    return ordered[:, -1] - scipy.special.logsumexp(ordered[:, :-1], axis=-1)


@pytest.mark.parametrize("count", [1, 2, 7, 5000])
def test_weights_follow_the_equation(count: int) -> None:
    confidences = np.random.default_rng(count).normal(size=count)
    weights = rank_weights.rank_weights(confidences)
    np.testing.assert_allclose(weights, reference(confidences), rtol=1e-12)
    assert weights.max() == pytest.approx(math.log(count + 1))
    total = count * math.log(count + 1) - math.lgamma(count + 1)
    assert weights.sum() == pytest.approx(total)
    mean = 1 - math.log(2 * math.pi * count) / (2 * count) + 1 / count
    assert weights.mean() == pytest.approx(mean, abs=0.6 / count**2)


def test_tied_examples_get_the_mean_over_all_orders_of_the_ties() -> None:
    confidences = np.array([0.5, 0.2, 0.5, 0.9, 0.5, 0.2])
    orders = [
        np.argsort(order)
        for order in itertools.permutations(range(6))
        if np.all(np.diff(confidences[list(order)]) >= 0)
    ]
    assert len(orders) == math.factorial(3) * math.factorial(2)
    expected = np.mean([-np.log(1 - (ranks + 1) / 7) for ranks in orders], axis=0)
    np.testing.assert_allclose(rank_weights.rank_weights(confidences), expected, rtol=1e-12)
    low, high = (scipy.stats.rankdata(confidences, method=kind) for kind in ("min", "max"))
    assert (high - low + 1).tolist() == [3, 2, 3, 1, 3, 2]


def test_confidence_that_is_no_number_is_refused_and_infinity_is_a_rank() -> None:
    with pytest.raises(InputError, match="1 confidences are not a number"):
        rank_weights.rank_weights(np.array([0.5, np.nan]))
    weights = rank_weights.rank_weights(np.array([np.inf, 0.0, np.inf, -np.inf]))
    top = -(math.log(2 / 5) + math.log(1 / 5)) / 2
    np.testing.assert_allclose(weights, [top, -math.log(3 / 5), top, -math.log(4 / 5)])


@pytest.fixture
def teacher(tmp_path: pathlib.Path) -> Teacher:
    return Teacher(Linear(CLASSES), teacher_variables(), tmp_path)


def linear_logits(variables: Any) -> np.ndarray:
    layer = variables["params"]["Dense_0"]
    inputs = flat_inputs(random_split())
    return inputs @ np.float64(layer["kernel"]) + np.float64(layer["bias"])


@pytest.mark.slow
def test_weights_are_those_of_the_teacher_on_the_images_without_augmentation(teacher) -> None:
    weights = rank_weights.teacher_weights(teacher, random_dataset(), device_examples(), 4)
    expected = reference(log_odds(linear_logits(teacher.variables)))
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    assert weights.dtype == np.float32
    (path,) = (teacher.folder / "logits").iterdir()  # read when the run is resumed
    path.touch()
    again = rank_weights.teacher_weights(teacher, random_dataset(), device_examples(), 4)
    np.testing.assert_array_equal(again, weights)


def test_weight_of_an_image_is_by_the_teacher_that_has_not_seen_it(teacher) -> None:
    other = Linear(CLASSES).init(jax.random.key(6), jnp.zeros((1, *SHAPE)), train=False)
    folds = np.int32(np.arange(COUNT) % 2)
    networks = [(teacher.model, variables) for variables in (teacher.variables, other)]
    model, variables = teacher_network.out_of_fold(networks, folds)
    each = [linear_logits(network) for _, network in networks]
    expected = reference(log_odds(np.where(folds[:, None] == 0, *each)))
    out_of_fold = Teacher(model, variables, teacher.folder)
    weights = rank_weights.teacher_weights(out_of_fold, random_dataset(), device_examples(), 4)
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


def test_file_of_logits_needs_those_of_the_images_without_augmentation(teacher) -> None:
    views = np.random.default_rng(0).normal(size=(18, COUNT, CLASSES)).astype(np.float32)

    def compute(split: str, images: Any, indices: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        return views[numbers, indices]

    host = HostTeacher(compute, "file", ("train",), False, teacher.folder, clean=8)
    weights = rank_weights.teacher_weights(host, random_dataset(), device_examples(), 4)
    np.testing.assert_allclose(weights, reference(log_odds(views[8])), rtol=1e-6)
    np.testing.assert_array_equal(
        host_teacher.split_logits(host, random_dataset(), "train"), views[8]
    )
    lacking = host._replace(clean=None, fixed_views=True)
    with pytest.raises(InputError, match=r"rank_weight_start needs .* has those of fixed views"):
        rank_weights.teacher_weights(lacking, random_dataset(), device_examples(), 4)


@pytest.mark.slow
@pytest.mark.parametrize("streamed", [False, True])
def test_batch_has_the_weights_of_its_images(streamed: bool) -> None:
    weights = np.float32(np.random.default_rng(1).uniform(0, 3, COUNT))
    examples = streamed_examples() if streamed else device_examples()
    with iterate_batches(examples._replace(weights=jnp.array(weights)), order(), 4) as sources:
        batch = take_batch(next(sources), 0, 4)
    np.testing.assert_array_equal(batch.weights, weights[np.asarray(order())[:4]])
    assert take_batch(DeviceSplit(device_examples(), order()), 0, 4).weights is None


@pytest.mark.slow
def test_gradient_of_the_weighted_loss_is_the_weighted_mean_of_gradients() -> None:
    weights = np.float32([0.5, 2.0, 0.0, 1.5])
    weighted = dataclasses.replace(linear_spec(), weighted=True)
    images, indices = jnp.zeros((4, *SHAPE)), jnp.arange(4)
    labels = jnp.array([0, 1, 2, 1])
    batch = Batch(images, labels, indices, indices, jnp.int32(0), jnp.array(weights))
    state = step.abstract_state(weighted, SHAPE)  # its variables are not used
    rng = np.random.default_rng(2)
    logits, teacher_logits = (
        jnp.asarray(rng.normal(size=(4, columns)), jnp.float32) for columns in (4, 3)
    )

    def loss(logits: jax.Array) -> tuple[jax.Array, Any]:
        return step.loss_fn(weighted, state, logits, batch, teacher_logits)

    def example_loss(logits: jax.Array, teacher_logits: jax.Array, label: jax.Array) -> jax.Array:
        loss, _ = weighted.objective(logits[None], teacher_logits[None], label[None])
        return loss[0]

    (value, metrics), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(logits)
    each = jax.jit(jax.vmap(jax.value_and_grad(example_loss)))
    losses, gradients = each(logits, teacher_logits, labels)
    np.testing.assert_allclose(gradient, weights[:, None] * gradients / 4, rtol=1e-5, atol=1e-7)
    assert float(value) == pytest.approx(float(np.mean(weights * losses)), rel=1e-5)
    terms = float(metrics["gambler"] + metrics["distillation"])
    assert float(metrics["loss"]) == pytest.approx(terms, rel=1e-5)


def test_phases_change_at_the_exact_epochs() -> None:
    plain = linear_spec(epochs=10, pretrain_epochs=3)
    changed = dataclasses.replace(plain, rank_weight_epoch=7)
    first, second, third = spec.Phase
    assert [spec.phase(plain, epoch) for epoch in range(10)] == [first] * 3 + [second] * 7
    phases = [spec.phase(changed, epoch) for epoch in range(10)]
    assert phases == [first] * 3 + [second] * 4 + [third] * 3
    assert spec.phase_spec(changed, second) is changed
    assert spec.phase_spec(changed, third).weighted and not spec.phase_spec(changed, first).weighted
    assert spec.phase_spec(changed, first).teacher is None
