"""The calls of an epoch: no transfers between host and device, and streams give the same bits."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.networks import (
    BATCH,
    CLASSES,
    COUNT,
    HYPER,
    SHAPE,
    device_examples,
    linear_spec,
    order,
    single_program,
    streamed_examples,
    teacher_variables,
)

from kdjax.data import batches
from kdjax.data.batches import DeviceSplit
from kdjax.models.alexnet import AlexNet
from kdjax.objectives import METHODS
from kdjax.runtime import sharding
from kdjax.training import averaging, inference, loop, multi_student, step
from kdjax.training.teacher import OnlineTeacher


@pytest.mark.slow
def test_epoch_transfers_nothing_between_host_and_device() -> None:
    spec, examples = linear_spec(pad=1), device_examples()
    program, states = multi_student.make_program([spec]), (step.init_state(spec, SHAPE),)
    teacher = OnlineTeacher(sharding.replicate(teacher_variables()))
    orders = [sharding.replicate(order(epoch)) for epoch in (0, 1)]
    states, _ = program(states, DeviceSplit(examples, orders[0]), teacher, 1)  # compiles

    def run_epoch(epoch_order: jax.Array, start: int) -> None:
        nonlocal states
        for source, count in loop.iterate_calls(spec.batches, examples, epoch_order, start):
            states, _ = program(states, source, teacher, count)

    with jax.transfer_guard("disallow"):
        run_epoch(orders[0], 1)
        run_epoch(orders[1], 0)
    assert int(states[0].step) == 10
    # The guard works: a Python number must be transferred.
    refused = pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device")
    with jax.transfer_guard("disallow"), refused:
        jnp.add(states[0].step, 1)


@pytest.mark.slow
def test_epoch_from_a_stream_is_bit_identical() -> None:
    # Little to compile, with batch normalization.
    layers = ((1, 3, 1, True), (2, 3, 1, False))
    model = AlexNet(CLASSES + 1, layers=layers, width=4, normalize=True)
    spec = linear_spec(
        model=model,
        teacher=None,
        objective=functools.partial(METHODS["self_adaptive"], hyper=HYPER),
        target_momentum=HYPER.target_momentum,
        train_examples=COUNT,
        average_weight=lambda finished: jnp.float32(0.5),
        pad=1,
        flip=True,
    )
    run = single_program(spec)
    update_batch_stats = averaging.make_batch_stats_update(model, spec.batches, 2)

    def train_epoch(examples: batches.Examples) -> tuple[Any, ...]:
        state, losses = step.init_state(spec, SHAPE), []
        with batches.iterate_batches(examples, order(), BATCH) as sources:
            for _ in range(spec.batches.steps_per_epoch):
                state, metrics = run(state, next(sources), None, 1)
                losses.append(metrics["loss"])
        newest = state.variables["batch_stats"]
        average = update_batch_stats(state.average, newest, examples, order(), state.step)
        logits = inference.predict_logits(model, average, examples, batch_size=6)
        return state.replace(average=average), losses, logits

    in_memory, streamed = train_epoch(device_examples()), train_epoch(streamed_examples())
    jax.tree.map(np.testing.assert_array_equal, in_memory, streamed)
