"""Devices and hosts: one mesh over all devices, where arrays lie on it, who writes.

The mesh has one axis, `data`. Parameters, optimizer and batch statistics lie on every device; a
batch is split over the axis. The program is that of one device (GSPMD): means, batch statistics
among them, are over the global batch, and nothing that is computed depends on how many devices
share it. Processes find each other through `jax.distributed`; the first of them writes what one
must write.
"""

import atexit
import contextlib
import faulthandler
import functools
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from kdjax.errors import InputError

AXIS = "data"
PLACEMENTS = ("auto", "replicated", "sharded")
# Bytes of images up to which every device has its own copy: gathering a batch then costs no
# traffic between devices. 2 GiB is a small part of an accelerator's memory.
REPLICATED_AT_MOST = 2**31
# A process that is silent for so long is dead, and the others end: within the minute promised.
HEARTBEAT_SECONDS = 30
# Where a process that fails leaves its message for the others.
_FAILURE = "kdjax/failure"


@functools.cache
def mesh() -> Mesh:
    """Returns the mesh over all devices of all processes."""
    # Explicit axes, JAX's default, make the gradient of a Linen module fail.
    return jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(AxisType.Auto,))


def replicated() -> NamedSharding:
    """Returns the sharding of what lies on every device whole."""
    return NamedSharding(mesh(), PartitionSpec())


def rows() -> NamedSharding:
    """Returns the sharding of what is split over the devices along its first axis."""
    return NamedSharding(mesh(), PartitionSpec(AXIS))


def everywhere(tree: Any) -> Any:
    """Returns values, the same in all processes, as arrays that lie on every device."""

    def put(value: Any) -> jax.Array:
        there = isinstance(value, jax.Array) and value.sharding == replicated()
        return value if there else _put(np.asarray(value), replicated())

    return jax.tree.map(put, tree)


def resident(images: np.ndarray, placement: str) -> jax.Array:
    """Returns the images of a split on the devices.

    Args:
        images: [n, ...], the same in all processes.
        placement: `replicated`: each device has all of them; `sharded`: each has its part, of
            equal size, the last filled up with zeros that no index reaches; `auto`: by their size.
    """
    if placement == "auto":
        placement = "replicated" if images.nbytes <= REPLICATED_AT_MOST else "sharded"
    if placement == "replicated":
        return _put(images, replicated())
    missing = -len(images) % jax.device_count()
    return _put(np.pad(images, [(0, missing)] + [(0, 0)] * (images.ndim - 1)), rows())


def _put(value: np.ndarray, sharding: NamedSharding) -> jax.Array:
    # Unlike device_put it needs no agreement between processes: each copies what is its own.
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def split(batch: Any) -> Any:
    """Splits a batch over the devices, inside jit."""
    return jax.lax.with_sharding_constraint(batch, rows())


def check_batch(field: str, size: int) -> None:
    """Refuses a batch that the devices cannot share equally.

    Raises:
        InputError: with the nearest sizes that they can.
    """
    count = jax.device_count()
    if size % count:
        below, above = size // count * count, -(-size // count) * count
        nearest = f"{below} or {above}" if below else f"{above}"
        raise InputError(
            f"{field} {size} cannot be shared equally by {count} devices: the nearest that can "
            f"is {nearest}"
        )


def up_to_multiple(size: int) -> int:
    """Returns the least size of a batch, not below `size`, that the devices share equally."""
    return -(-size // jax.device_count()) * jax.device_count()


def start(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins the other processes of the run: those given, or those of a cluster that JAX detects.

    Before anything else touches a device. Without a cluster this process is alone.

    Args:
        coordinator: HOST:PORT of the first process.
        num_processes: of the run.
        process_id: 0 to num_processes - 1.

    Raises:
        InputError: if only some are given, or what is given does not fit together.
    """
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise InputError(f"{' and '.join(missing)} must be given too")
    if process_id is not None and not 0 <= process_id < (num_processes or 0):
        raise InputError(f"--process_id {process_id}: must lie in 0..{(num_processes or 0) - 1}")
    try:
        jax.distributed.initialize(
            coordinator, num_processes, process_id, heartbeat_timeout_seconds=HEARTBEAT_SECONDS
        )
    except ValueError as error:  # what JAX raises where it detects no cluster
        if not missing:
            raise InputError(f"--coordinator {coordinator!r}: {error}") from error
        return
    # When a process dies JAX aborts the others with a line that says so; Python would put the
    # stacks of all threads behind it.
    faulthandler.disable()
    _watch()


def primary() -> bool:
    """Returns whether this process is the one that writes."""
    return jax.process_index() == 0


def wait(point: str) -> None:
    """Waits until every process has come to this point."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(point)


@contextlib.contextmanager
def primary_first(point: str) -> Iterator[None]:
    """Lets the first process through before the others, which then find what it has made."""
    if not primary():
        wait(point)
    yield
    if primary():
        wait(point)


def _client() -> Any:
    # The store that jax.distributed keeps between processes has no public name.
    from jax._src import distributed

    return distributed.global_state.client


def fail(message: str, status: int) -> None:
    """Ends the other processes of the run with this one's message, then this one.

    Without others nothing happens.
    """
    if jax.distributed.is_initialized():
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # who keeps the message is gone
            _client().key_value_set(_FAILURE, f"{jax.process_index()}:{status}:{message}", True)
        _leave(status)


def _leave(status: int) -> None:
    if primary():
        time.sleep(3)  # it keeps the message, and the others look every second
    os._exit(status)  # sys.exit would wait for the others to come to their end as well


def heed() -> None:
    """Ends this process if another one has left its message."""
    if not jax.distributed.is_initialized():
        return
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # nobody has failed
        number, status, message = _client().key_value_try_get(_FAILURE).split(":", 2)
        if int(number) != jax.process_index():
            print(f"kdjax: error: process {number}: {message}", file=sys.stderr, flush=True)
            _leave(int(status))


def lost(error: BaseException) -> bool:
    """Returns whether an error is what one process sees when another has died."""
    if jax.process_count() == 1:
        return False
    kinds = "Gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED"
    broken = isinstance(error, jax.errors.JaxRuntimeError) and any(k in str(error) for k in kinds)
    return broken or isinstance(error, TimeoutError)  # Orbax waits for the others' signals


def _watch() -> None:
    """Heeds the others while this process works."""
    ending = threading.Event()

    def look() -> None:
        while not ending.wait(1):
            heed()

    watch = threading.Thread(target=look, daemon=True)
    watch.start()

    # Before jax.distributed goes, which the thread asks.
    @atexit.register
    def _stop() -> None:
        ending.set()
        watch.join()
