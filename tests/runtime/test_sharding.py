"""Training on any number of devices: the same losses, gradients and batches."""

import json
import os

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from support.commands import ROOT
from support.forked import Forked

from kdjax.errors import InputError
from kdjax.runtime import sharding

COUNTS = (1, 8)  # 8 do not divide the number of images


def start(devices: int) -> Forked:
    """Starts `losses_on_devices.py` in a process with this number of CPU devices."""
    flags = f"--xla_force_host_platform_device_count={devices} {os.environ['XLA_FLAGS']}"
    script = str(ROOT / "tests" / "support" / "losses_on_devices.py")
    return Forked(script, [], ROOT, os.environ | {"XLA_FLAGS": flags})


@pytest.fixture(scope="module")
def results() -> dict[int, dict]:
    """Returns what `losses_on_devices.py` prints, by the number of devices."""
    done = {}
    for count, process in [(count, start(count)) for count in COUNTS]:
        out, errors = process.communicate()
        assert process.returncode == 0, errors
        done[count] = json.loads(out)
    return done


@pytest.mark.slow
@pytest.mark.parametrize("devices", COUNTS[1:])
def test_first_step_does_not_depend_on_the_number_of_devices(results, devices) -> None:
    assert results[devices]["devices"] == devices
    for name in ("loss", "gradient"):
        expected, actual = (np.array(results[count]["float32"][name]) for count in (1, devices))
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("devices", COUNTS[1:])
def test_fifty_steps_in_float64_have_the_same_losses(results, devices) -> None:
    expected, actual = (np.array(results[count]["float64"]["losses"]) for count in (1, devices))
    assert expected.shape == (50,) and expected[-1] < expected[0] - 0.3
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("placement", ["replicated", "sharded"])
def test_images_are_replicated_or_sharded_as_requested(placement) -> None:
    images = np.arange(10 * 4, dtype=np.uint8).reshape(10, 2, 2, 1)
    array = sharding.put_images(images, placement)
    np.testing.assert_array_equal(np.asarray(array)[:10], images)
    rows = {"replicated": {10}, "sharded": {3}}[placement]  # 4 devices; 12 rows with the padding
    assert {shard.data.shape[0] for shard in array.addressable_shards} == rows


def test_auto_replicates_small_and_shards_large_images(monkeypatch) -> None:
    images = np.zeros((8, 2, 2, 1), np.uint8)
    assert sharding.put_images(images, "auto").sharding.spec == PartitionSpec()
    monkeypatch.setattr(sharding, "MAX_REPLICATED_BYTES", 31)
    assert sharding.put_images(images, "auto").sharding.spec == PartitionSpec(sharding.AXIS)


@pytest.mark.parametrize(("size", "nearest"), [(10, "8 or 12"), (3, "4"), (127, "124 or 128")])
def test_batch_size_that_does_not_divide_is_refused_with_the_nearest(size, nearest) -> None:
    message = f"teacher.batch_size {size} cannot be divided equally among 4 devices: .* {nearest}$"
    with pytest.raises(InputError, match=message):
        sharding.check_batch_size("teacher.batch_size", size)
    sharding.check_batch_size("teacher.batch_size", 4 * size)


def test_mesh_has_all_devices() -> None:
    assert jax.device_count() == sharding.mesh().size == 4
