"""Devices: one mesh over all of them, and where arrays lie on it.

The mesh has one axis, `data`. Parameters, optimizer and batch statistics lie on every device; a
batch is split over the axis. The program is that of one device (GSPMD): means, batch statistics
among them, are over the global batch, and nothing that is computed depends on how many devices
share it.
"""

import functools
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
    """Returns host values, the same in all processes, as arrays that lie on every device."""
    return jax.tree.map(lambda value: _put(np.asarray(value), replicated()), tree)


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
