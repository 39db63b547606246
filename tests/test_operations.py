"""The profile of a training step: operations are recognized by their names."""

import jax
import jax.numpy as jnp
import pytest

from experiments.benchmark import operations
from kdjax.runtime import compiler


@pytest.mark.parametrize(
    "name, kind",
    [
        ("custom-call.39.clone__onednn$convolution", "convolutions"),
        ("conv_general_dilated.2", "convolutions"),
        ("custom-call.4__onednn$matmul", "matrix products"),
        ("dot_general.1", "matrix products"),
        ("ynn_fusion.19", "reductions, most of batch normalization"),
        ("concatenate_bitcast_fusion.7", "tiles of Winograd's convolution"),
        ("transpose_copy_fusion", "transpositions"),
        ("wrapped_transpose.6", "transpositions"),
        ("multiply_add_fusion.3", "other operations"),
        ("wrapped_convert", "other operations"),
        ("while.151", None),
        ("call.3", None),
        ("end: multiply_add_fusion", None),
        ("ThunkExecutor::Execute (wait for completion)", None),
        ("$profiler.py:471 trace", None),
        ("PjitFunction(steps)", None),
    ],
)
def test_kind_of_an_operation_follows_from_its_name(name, kind):
    assert operations.kind(name) == kind


def test_milliseconds_are_those_of_a_step():
    events = [("dot.1", 4e6), ("dot.2", 2e6), ("while", 9e6), ("ynn_fusion", 1e6)]
    times = operations.milliseconds(events, steps=2)
    expected = dict.fromkeys(operations.KINDS, 0.0)
    expected |= {"matrix products": 3.0, "reductions, most of batch normalization": 0.5}
    assert times == expected


def test_products_of_a_program_are_found_in_its_trace(tmp_path):
    matrix, devices = jnp.ones((64, 64)), jax.device_count()
    product = compiler.jit(lambda x: jnp.sin(x @ x) @ x)
    product(matrix).block_until_ready()
    with jax.profiler.trace(tmp_path):
        product(matrix).block_until_ready()
    names = [name for name, _ in operations.read_events(tmp_path)]
    assert [operations.kind(name) for name in names].count("matrix products") == 2 * devices


def test_rest_of_the_step_is_what_no_operation_takes():
    kinds = dict.fromkeys(operations.KINDS, 2.0)
    text = operations.table({"a": operations.Profile(kinds, 2.0 * len(kinds) + 5)})
    assert "| the rest; below 0 where operations overlap | 5 |" in text
    assert text.startswith("| ms of a step | a |\n| --- | --- |\n")
