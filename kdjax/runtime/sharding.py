"""The device mesh, and how arrays are placed on it.

The mesh has one axis, `data`, over all devices of all processes. Parameters, optimizer state and
batch statistics are replicated; batches are sharded over the axis. Programs are written for one
device and partitioned by GSPMD: means and batch statistics cover the global batch, so no result
depends on the number of devices.
"""

import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from kdjax.errors import InputError

AXIS = "data"
PLACEMENTS = ("auto", "replicated", "sharded")
# Up to this many bytes, every device gets its own copy of the images, so that gathering a batch
# needs no communication. 2 GiB is a small part of an accelerator's memory.
MAX_REPLICATED_BYTES = 2**31


@functools.cache
def mesh() -> Mesh:
    """Returns the mesh over all devices of all processes."""
    # With explicit axes, JAX's default, the gradient of a Linen module fails.
    return jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(AxisType.Auto,))


def replicated_sharding() -> NamedSharding:
    """Returns the sharding that gives every device the whole array."""
    return NamedSharding(mesh(), PartitionSpec())


def batch_sharding() -> NamedSharding:
    """Returns the sharding that splits the first axis of an array over the devices."""
    return NamedSharding(mesh(), PartitionSpec(AXIS))


def replicate(tree: Any) -> Any:
    """Returns the leaves, which must be equal in all processes, as replicated arrays."""

    def put(leaf: Any) -> jax.Array:
        placed = isinstance(leaf, jax.Array) and leaf.sharding == replicated_sharding()
        return leaf if placed else _put(np.asarray(leaf), replicated_sharding())

    return jax.tree.map(put, tree)


def put_images(images: np.ndarray, placement: str) -> jax.Array:
    """Places the images of a split on the devices.

    Args:
        images: [n, ...], equal in all processes.
        placement: `replicated`: every device holds all images; `sharded`: each device holds an
            equal part, the last part padded with zeros that no index reaches; `auto`: replicated
            up to `MAX_REPLICATED_BYTES`, sharded above.
    """
    if placement == "auto":
        placement = "replicated" if images.nbytes <= MAX_REPLICATED_BYTES else "sharded"
    if placement == "replicated":
        return _put(images, replicated_sharding())
    missing = -len(images) % jax.device_count()
    return _put(np.pad(images, [(0, missing)] + [(0, 0)] * (images.ndim - 1)), batch_sharding())


def _put(value: np.ndarray, sharding: NamedSharding) -> jax.Array:
    # Unlike device_put, this needs no communication: each process copies its own part.
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def shard_batch(batch: Any) -> Any:
    """Shards the first axis of every leaf over the devices; for use inside jit."""
    return jax.lax.with_sharding_constraint(batch, batch_sharding())


def replicate_within(tree: Any) -> Any:
    """Gathers every leaf on every device; for use inside jit."""
    return jax.lax.with_sharding_constraint(tree, replicated_sharding())


def check_batch_size(field: str, size: int) -> None:
    """Raises if a batch cannot be divided equally among the devices.

    Raises:
        InputError: with the nearest sizes that can.
    """
    count = jax.device_count()
    if size % count:
        below, above = size // count * count, -(-size // count) * count
        nearest = f"{below} or {above}" if below else f"{above}"
        raise InputError(
            f"{field} {size} cannot be divided equally among {count} devices: the nearest valid "
            f"size is {nearest}"
        )


def round_up_batch_size(size: int) -> int:
    """Returns the smallest multiple of the device count that is at least `size`."""
    return -(-size // jax.device_count()) * jax.device_count()
