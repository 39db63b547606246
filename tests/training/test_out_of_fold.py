"""Logits of training images by networks that have not seen them, against numpy in float64."""

import pathlib
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
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
)

from kdjax.data import batches
from kdjax.data.batches import DeviceSplit
from kdjax.data.folds import stratified_folds
from kdjax.training import inference, out_of_fold, teacher_network
from kdjax.training import teacher as teachers
from kdjax.training.teacher import OnlineTeacher, Teacher

FOLDS = 3


def linear(seed: int) -> tuple[Linear, Any]:
    """Returns a linear network with random weights."""
    model = Linear(CLASSES)
    return model, model.init(jax.random.key(seed), jnp.zeros((1, *SHAPE)), train=False)


def linear_logits(seed: int) -> np.ndarray:
    """Returns its logits of all images in float64, [n, m]."""
    layer = linear(seed)[1]["params"]["Dense_0"]
    return flat_inputs(random_split()) @ np.float64(layer["kernel"]) + np.float64(layer["bias"])


def fold_teacher(seed: int = 0) -> tuple[Any, Any]:
    """Returns the linear networks of three folds."""
    folds = stratified_folds(random_split().labels, FOLDS, seed)
    return teacher_network.out_of_fold([linear(10 * seed + k) for k in range(FOLDS)], folds)


def member_logits(seed: int = 0) -> np.ndarray:
    """Returns the logits of each network of `fold_teacher` in float64, [K, n, m]."""
    return np.stack([linear_logits(10 * seed + k) for k in range(FOLDS)])


def own_logits(seed: int = 0) -> np.ndarray:
    """Returns for each image the logits of the network that has not seen it, [n, m]."""
    folds = stratified_folds(random_split().labels, FOLDS, seed)
    return np.stack([member_logits(seed)[fold, index] for index, fold in enumerate(folds)])


def mean_log_softmax(*logits: np.ndarray) -> np.ndarray:
    return np.mean([scipy.special.log_softmax(values, axis=-1) for values in logits], axis=0)


def predict_rows(model: Any, variables: Any, rows: np.ndarray | None) -> np.ndarray:
    return inference.predict_logits(model, variables, device_examples(), batch_size=4, rows=rows)


def batch_of(spec: Any, step: int) -> batches.Batch:
    return batches.make_batch(spec.batches, DeviceSplit(device_examples(), order()), step)


@pytest.mark.parametrize("examples", [device_examples, streamed_examples])
def test_rows_of_a_split_are_predicted_in_their_order(examples) -> None:
    model, variables = linear(0)
    rows = np.array([17, 2, 2, 9, 0])
    logits = inference.predict_logits(model, variables, examples(), batch_size=4, rows=rows)
    np.testing.assert_allclose(logits, member_logits()[0][rows], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_each_training_image_gets_the_logits_of_the_network_that_has_not_seen_it() -> None:
    model, variables = fold_teacher()
    logits = out_of_fold.train_logits(model, variables, predict_rows)
    np.testing.assert_allclose(logits, own_logits(), rtol=1e-4, atol=1e-4)
    spec = linear_spec(teacher=model)
    batch = batch_of(spec, 3)
    online = teachers.teacher_logits(model, OnlineTeacher(variables), batch)
    np.testing.assert_allclose(online, own_logits()[batch.indices], rtol=1e-4, atol=1e-4)


def test_each_network_is_applied_to_its_own_fold_only_where_logits_are_cached() -> None:
    model, variables = fold_teacher()
    seen: list[np.ndarray] = []

    def predict(model: Any, variables: Any, rows: np.ndarray | None) -> np.ndarray:
        assert rows is not None
        seen.append(rows)
        return predict_rows(model, variables, rows)

    out_of_fold.train_logits(model, variables, predict)
    assert sorted(np.concatenate(seen)) == list(range(COUNT))


def test_other_images_get_the_mean_of_the_log_probabilities() -> None:
    model, variables = fold_teacher()
    expected = mean_log_softmax(*member_logits())
    inputs = flat_inputs(random_split()).reshape(-1, *SHAPE).astype(np.float32)
    for network, values in ((model, variables), teacher_network.fold(model, variables)):
        logits = network.apply(values, inputs, train=False)
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_ensemble_of_teachers_with_folds_averages_those_that_have_not_seen_the_image() -> None:
    model, variables = teacher_network.ensemble([fold_teacher(0), fold_teacher(1), linear(5)])
    assert out_of_fold.has_folds(model)
    expected = mean_log_softmax(own_logits(0), own_logits(1), linear_logits(5))
    logits = out_of_fold.train_logits(model, variables, predict_rows)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    batch = batch_of(linear_spec(teacher=model), 1)
    online = out_of_fold.batch_logits(model, variables, batch.images, batch.indices)
    np.testing.assert_allclose(online, expected[batch.indices], rtol=1e-4, atol=1e-4)


def test_teacher_without_folds_is_applied_to_all_images_at_once() -> None:
    for model, variables in (linear(0), teacher_network.ensemble([linear(0), linear(1)])):
        assert not out_of_fold.has_folds(model)
        predict = mock.Mock()
        assert out_of_fold.train_logits(model, variables, predict) is predict.return_value
        predict.assert_called_once_with(model, variables, None)


@pytest.mark.slow
@pytest.mark.parametrize("views", [0, 2])
def test_cached_logits_of_every_augmentation_are_those_of_the_online_teacher(
    views: int, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, variables = fold_teacher()
    spec = linear_spec(teacher=model, flip=True, pad=0 if not views else 1, views=views)
    teacher = Teacher(model, variables, tmp_path)
    cached, online = (
        teachers.prepare_teacher(
            teacher, random_dataset(), device_examples(), spec.batches, epochs=4, cache=cache
        )
        for cache in ("auto", "off")
    )
    assert type(cached) is not type(online)
    program, source = teachers.logits_program(model), DeviceSplit(device_examples(), order())
    for step in (0, 6, 13):
        logits = [program(spec.batches, each, source, step) for each in (cached, online)]
        np.testing.assert_allclose(logits[0], logits[1], rtol=1e-4, atol=1e-4)
    assert "teachers of all folds" not in capsys.readouterr().out


def test_note_says_what_makes_uncached_folds_cheap(tmp_path, capsys) -> None:
    model, variables = fold_teacher()
    spec = linear_spec(teacher=model, pad=2)
    teacher = Teacher(model, variables, tmp_path)
    teachers.prepare_teacher(
        teacher, random_dataset(), device_examples(), spec.batches, epochs=4, cache="auto"
    )
    (line,) = capsys.readouterr().out.splitlines()
    assert "an image has 25 augmentations" in line
    assert "the teachers of all folds are applied to every batch" in line
    assert "--config.teacher.views=16 or --config.data.pad=0" in line
