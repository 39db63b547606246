"""One run on any number of devices: the same loss, the same gradient, the same batches."""

import json
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from commands import python
from jax.sharding import PartitionSpec

from kdjax import parallel
from kdjax.errors import InputError

COUNTS = (1, 2, 4, 8)


def curves(devices: int) -> dict:
    """What `losses_on_devices.py` prints in a process of its own with so many CPU devices."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    done = python("tests/losses_on_devices.py", XLA_FLAGS=flags)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def found() -> dict[int, dict]:
    with ThreadPoolExecutor() as together:  # each is a process of its own
        return dict(zip(COUNTS, together.map(curves, COUNTS), strict=True))


@pytest.mark.parametrize("devices", COUNTS[1:])
def test_the_first_step_does_not_depend_on_the_number_of_devices(found, devices) -> None:
    assert found[devices]["devices"] == devices
    for name in ("loss", "gradient"):
        one, other = (np.array(found[count]["float32"][name]) for count in (1, devices))
        np.testing.assert_allclose(other, one, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("devices", COUNTS[1:])
def test_fifty_steps_in_float64_have_one_loss_curve(found, devices) -> None:
    one, other = (np.array(found[count]["float64"]["losses"]) for count in (1, devices))
    assert one.shape == (50,) and one[-1] < one[0] - 0.3
    np.testing.assert_allclose(other, one, rtol=0, atol=1e-9)


@pytest.mark.parametrize("placement", ["replicated", "sharded"])
def test_images_lie_where_they_are_wanted(placement) -> None:
    images = np.arange(10 * 4, dtype=np.uint8).reshape(10, 2, 2, 1)
    array = parallel.resident(images, placement)
    np.testing.assert_array_equal(np.asarray(array)[:10], images)
    rows = {"replicated": {10}, "sharded": {3}}[placement]  # of 4 devices; 12 with the filling
    assert {shard.data.shape[0] for shard in array.addressable_shards} == rows


def test_small_data_lie_on_every_device_and_large_ones_are_shared(monkeypatch) -> None:
    images = np.zeros((8, 2, 2, 1), np.uint8)
    assert parallel.resident(images, "auto").sharding.spec == PartitionSpec()
    monkeypatch.setattr(parallel, "REPLICATED_AT_MOST", 31)
    assert parallel.resident(images, "auto").sharding.spec == PartitionSpec(parallel.AXIS)


@pytest.mark.parametrize(("size", "nearest"), [(10, "8 or 12"), (3, "4"), (127, "124 or 128")])
def test_a_batch_that_does_not_divide_is_refused_with_the_nearest_that_do(size, nearest) -> None:
    message = f"teacher.batch_size {size} cannot be shared equally by 4 devices: .* {nearest}$"
    with pytest.raises(InputError, match=message):
        parallel.check_batch("teacher.batch_size", size)
    parallel.check_batch("teacher.batch_size", 4 * size)


def test_the_number_of_devices_is_that_of_the_tests() -> None:
    assert jax.device_count() == parallel.mesh().size == 4
