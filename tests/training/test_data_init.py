"""The whitening kernel in a training: from its images, kept by checkpoints and students."""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from support.networks import CLASSES, SHAPE, linear_spec, random_dataset, streamed_examples
from support.runs import checkpoint, stop_at_step, tiny

from kdjax import models, pipeline
from kdjax.errors import Preempted
from kdjax.models import fast_cnn
from kdjax.runs import restore
from kdjax.training import data_init, step


def normalized(dataset: Any) -> np.ndarray:
    return (np.asarray(dataset.train.images) / 255 - dataset.mean) / dataset.std


@pytest.mark.slow
@pytest.mark.parametrize("streamed", [False, True])
def test_kernel_is_that_of_the_normalized_training_images(streamed: bool) -> None:
    dataset = random_dataset()
    expected = fast_cnn.whitening_kernel(normalized(dataset))
    if streamed:
        train = dataclasses.replace(dataset.train, images=streamed_examples().images)
        dataset = dataclasses.replace(dataset, train=train)
    model = models.create("fast_cnn_shallow", CLASSES + 1, width=1)
    spec = linear_spec(model=model, average_weight=lambda _: 1.0)
    before = step.init_state(spec, SHAPE)
    after = data_init.start(spec, before, dataset)
    for variables in (after.variables, after.average):
        kernel = variables["params"]["whitening"]["kernel"]
        # A float32 mean and standard deviation beside those of the test in float64.
        assert_allclose(np.abs(kernel), np.abs(expected), rtol=0.01, atol=0.01)
    others = after.variables["params"] | {"whitening": before.variables["params"]["whitening"]}
    jax.tree.map(assert_array_equal, others, before.variables["params"])


def test_network_without_such_parameters_keeps_its_state() -> None:
    spec = linear_spec()
    state = step.init_state(spec, SHAPE)
    assert data_init.start(spec, state, random_dataset()) is state


@pytest.mark.slow
def test_kernel_survives_an_interruption(
    data_dir: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = {"student.model": "fast_cnn_shallow", "student.width": 1}
    config = tiny(data_dir, **network, **{"objective.method": "gambler"})
    with monkeypatch.context() as patch, pytest.raises(Preempted):
        stop_at_step(patch, 1)
        pipeline.train(config, tmp_path)
    dataset = pipeline.train(config, tmp_path)
    kernel = restore.restore(tmp_path).variables["params"]["whitening"]["kernel"]
    expected = fast_cnn.whitening_kernel(normalized(dataset))
    assert_allclose(kernel, expected, rtol=1e-3, atol=1e-3)
    latest = checkpoint(tmp_path, "latest").state.variables["params"]
    assert_array_equal(latest["whitening"]["kernel"], kernel)
