"""The Keras baseline, where Keras is installed: its loss, images, teacher, network and steps."""

import importlib
import json
import os
import pathlib
from collections.abc import Iterator

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import baselines as support

from experiments.paper.baselines import exported
from kdjax import models

os.environ.setdefault("KERAS_BACKEND", "jax")
keras = pytest.importorskip("keras", reason="Keras, which only this baseline needs, is absent")
distillation = importlib.import_module("experiments.paper.baselines.keras_distillation")
networks_keras = importlib.import_module("experiments.paper.baselines.networks_keras")


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Keras


@pytest.fixture(autouse=True)
def allow_promotion() -> Iterator[None]:
    """Keras adds a vector to an array of higher rank, which our own tests forbid."""
    with jax.numpy_rank_promotion("allow"):
        yield


def softmax(logits: np.ndarray) -> np.ndarray:
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    return probabilities / probabilities.sum(1, keepdims=True)


def test_loss_is_the_divergence_of_probabilities_at_the_temperature() -> None:
    rng = np.random.default_rng(0)
    teacher, student = (3 * rng.normal(size=(40, 10)) for _ in range(2))
    p, q = softmax(teacher / 4), softmax(student / 4)
    expected = 16 * np.mean(np.sum(p * np.log(p / q), axis=1))
    found = distillation.distillation_loss(4.0).compute_loss(
        teacher.astype(np.float32), student.astype(np.float32)
    )
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_student_sees_the_augmented_images_and_the_teacher_gives_their_logits() -> None:
    split = support.split(np.random.default_rng(1))
    inputs, labels = distillation._epoch(split, split.settings, epoch=1)
    rows = inputs[:, distillation.ROW]
    images = split.images[exported.TRAIN]
    expected = [support.crop(images[row], split.views[1][row], split.settings) for row in rows]
    found = np.asarray(distillation.Pictures(split, split.settings)(inputs))
    normalized = (np.stack(expected) / 255 - split.settings.mean) / split.settings.std
    np.testing.assert_allclose(found, normalized, rtol=1e-4, atol=1e-5)
    logits = np.asarray(distillation.StoredTeacher(split.teacher)(inputs))
    np.testing.assert_array_equal(logits, split.teacher[1, rows])
    np.testing.assert_array_equal(labels, split.labels[exported.TRAIN][rows])


@pytest.mark.parametrize("name", ["alexnet", "alexnet_small"])
def test_network_is_ours_with_the_same_weights(name: str) -> None:
    rng = np.random.default_rng(2)
    images = rng.normal(size=(2, 32, 32, 3)).astype(np.float32)
    network = networks_keras.create(name, images.shape[1:], 5, seed=0)
    ours = models.create(name, 5)
    variables = jax.eval_shape(lambda: ours.init(jax.random.key(0), images, train=False))
    flat = flax.traverse_util.flatten_dict(variables)
    # Layers are in the same order in both; within one, kernel or scale comes before bias.
    kinds = {"kernel": 0, "scale": 0, "bias": 1, "mean": 2, "var": 3}
    by_layer = sorted(flat, key=lambda path: (_position(path), kinds[path[-1]]))
    values = {}
    for path, weight in zip(by_layer, network.weights, strict=True):
        assert weight.shape == flat[path].shape
        value = np.asarray(weight)
        if path[-1] != "kernel":
            value = rng.uniform(0.5, 1.5, weight.shape).astype(np.float32)
            weight.assign(value)
        values[path] = jnp.asarray(value)
    expected = ours.apply(flax.traverse_util.unflatten_dict(values), images, train=False)
    np.testing.assert_allclose(network(images), expected, rtol=1e-3, atol=1e-3)


def _position(path: tuple[str, ...]) -> tuple[int, int]:
    """Returns where a layer of AlexNet stands: number, and normalization after convolution."""
    layer = path[1]
    if layer == "head":
        return (99, 0)
    kind, number = layer.split("_")
    return (int(number), int(kind == "BatchNorm"))


@pytest.mark.slow
def test_steps_are_those_of_our_loss_and_optimizer() -> None:
    # With a learning rate that changes, Keras scales the momentum by those of past steps.
    constant = {"weight_decay": 0.0, "warmup_epochs": 0.0, "epochs": 10_000}
    split = support.split(np.random.default_rng(3), model="alexnet", **constant)
    settings = split.settings
    student, distiller = distillation._distiller(split, settings, weight=0.3)
    trainable = [jnp.asarray(value) for value in student.trainable_variables]
    rates = exported.learning_rates(settings, exported.COSINE, 3)
    optimizer = optax.sgd(lambda step: jnp.asarray(rates)[step], 0.9, nesterov=True)
    state = optimizer.init(trainable)
    inputs, labels = distillation._epoch(split, settings, epoch=0)

    def loss(values: list[jax.Array], images: jax.Array, teacher: jax.Array, labels: jax.Array):
        logits, _ = student.stateless_call(values, [], images, training=True)
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        divergence = optax.kl_divergence(
            jax.nn.log_softmax(logits / settings.temperature),
            jax.nn.softmax(teacher / settings.temperature),
        ).mean()
        return entropy + settings.distill_weight * settings.temperature**2 * divergence

    pictures = distillation.Pictures(split, settings)
    for start in range(0, 12, 4):
        batch = slice(start, start + 4)
        rows = inputs[batch, distillation.ROW]
        images = jnp.asarray(pictures(inputs[batch]))
        gradient = jax.grad(loss)(trainable, images, split.teacher[0, rows], labels[batch])
        updates, state = optimizer.update(gradient, state)
        trainable = optax.apply_updates(trainable, updates)
        distiller.train_on_batch(inputs[batch], labels[batch])
    for found, expected in zip(student.trainable_variables, trainable, strict=True):
        np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-3, atol=1e-5)


def test_short_training_writes_logits_of_every_split(tmp_path: pathlib.Path) -> None:
    split = support.split(np.random.default_rng(4))
    support.save_split(tmp_path / "split.npz", split)
    out = tmp_path / "out"
    distillation.main([f"--split={tmp_path / 'split.npz'}", f"--out={out}"])
    record = json.loads((out / "keras_distillation.json").read_text())
    assert record["name"] == "kd (keras.distillation)" and record["needs_teacher"]
    with np.load(out / "keras_distillation.npz") as arrays:
        for name in exported.EVALUATED:
            for key in (name, f"{name}_mirrored"):
                assert arrays[key].shape == (support.EXAMPLES, support.CLASSES)
                assert np.isfinite(arrays[key]).all()


def test_split_without_a_teacher_is_one_line(tmp_path: pathlib.Path) -> None:
    split = support.split(np.random.default_rng(5))
    support.save_split(tmp_path / "with.npz", split)
    with np.load(tmp_path / "with.npz") as arrays:
        np.savez(
            tmp_path / "without.npz", **{name: arrays[name] for name in arrays if name != "teacher"}
        )
    with pytest.raises(SystemExit, match="has no teacher: export_split --teacher=FOLDER"):
        distillation.main([f"--split={tmp_path / 'without.npz'}", f"--out={tmp_path}"])
