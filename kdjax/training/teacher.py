"""The frozen teacher of a student: computed online in each step, or cached once.

A teacher that is computed outside JAX, such as an ONNX file, is a `HostTeacher`.

An image has few distinct augmentations if it is not augmented, or only mirrored. Then the
teacher's logits for each of them are computed once and stored beside the teacher's workdir, for
every later student with the same data and augmentation.
"""

import dataclasses
import hashlib
import pathlib
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from kdjax.data import Dataset, dataset_metadata
from kdjax.data.augment import apply_augmentation, num_augmentations
from kdjax.data.batches import Batch, BatchSpec, Examples
from kdjax.errors import InputError
from kdjax.models.apply import Variables, apply_eval
from kdjax.runtime import multihost, sharding
from kdjax.training import host_teacher, inference
from kdjax.training.host_teacher import HostTeacher

# Every device holds all cached logits; more would leave too little memory for the training.
MAX_CACHE_BYTES = 2**31


class Teacher(NamedTuple):
    """A trained, frozen teacher.

    Attributes:
        model: the network.
        variables: its `params` and `batch_stats`.
        folder: its workdir, where cached logits are stored.
    """

    model: nn.Module
    variables: Variables
    folder: pathlib.Path


class OnlineTeacher(NamedTuple):
    """A teacher that is applied to every batch.

    Attributes:
        variables: of the network `TrainSpec.teacher`.
    """

    variables: Variables


class CachedTeacher(NamedTuple):
    """The teacher's logits for every augmentation of every training image.

    Attributes:
        logits: float32 [augmentations, n, m], numbered as `augment.sample_augmentation` does.
    """

    logits: jax.Array


class TeacherLogits(NamedTuple):
    """The teacher's logits for one batch, computed by another program.

    Attributes:
        logits: float32 [b, m].
    """

    logits: jax.Array


# A HostTeacher is replaced by the TeacherLogits of each batch before the step.
TeacherSource = OnlineTeacher | CachedTeacher | TeacherLogits | HostTeacher | None


def teacher_logits(
    model: nn.Module | None, source: TeacherSource, batch: Batch
) -> jax.Array | None:
    """Returns the teacher's logits [b, m] for a batch; None without a teacher.

    Args:
        model: the teacher's network; None if the student has no teacher.
        source: where the logits come from.
        batch: augmented and normalized.

    Raises:
        TypeError: if there is a network but no source.
    """
    if model is None:
        return None
    match source:
        case CachedTeacher(logits):
            return logits[batch.augmentation, batch.indices]
        case TeacherLogits(logits):
            return logits
        case OnlineTeacher(variables):
            return apply_eval(model, variables, batch.images)
    raise TypeError(
        f"teacher source {type(source).__name__}: need OnlineTeacher, CachedTeacher or "
        "TeacherLogits"
    )


def prepare_teacher(
    teacher: Teacher | HostTeacher,
    dataset: Dataset,
    examples: Examples,
    batches: BatchSpec,
    *,
    epochs: int,
    cache: str,
) -> TeacherSource:
    """Returns the teacher in its cheapest form: cached logits where that pays, else online.

    A `HostTeacher` that is not cached is returned as it is, and is computed before each step.

    Args:
        teacher: the frozen teacher.
        dataset: of the students.
        examples: its train split on the devices.
        batches: of the students' training.
        epochs: in which the teacher is used.
        cache: `auto`, or `off` for online in every case.

    Raises:
        InputError: for a `HostTeacher` that cannot be cached, in a run of several processes.
    """
    reason = cache_skip_reason(batches, len(examples.labels), dataset.num_classes, epochs)
    if isinstance(teacher, HostTeacher):
        return _prepare_host_teacher(
            teacher, dataset, batches, "teacher.cache is off" if cache == "off" else reason
        )
    online = OnlineTeacher(sharding.replicate(teacher.variables))
    if cache == "off":
        return online
    if not reason:
        return cached_teacher(teacher, dataset, examples, batches)
    if multihost.is_primary():
        print(f"the teacher's logits are computed in every step and not cached: {reason}")
    return online


def _prepare_host_teacher(
    teacher: HostTeacher, dataset: Dataset, batches: BatchSpec, reason: str
) -> CachedTeacher | HostTeacher:
    """Returns the logits of a teacher on the host, or the teacher if they are not cached."""
    if not reason:
        logits = host_teacher.augmentation_logits(teacher, dataset, batches.augmentation)
        return CachedTeacher(sharding.replicate(logits))
    if jax.process_count() > 1:
        raise InputError(
            "a teacher that is given as a file is not computed in the steps of a run of several "
            f"processes, and its logits are not cached: {reason}; with --config.data.pad=0 there "
            "are few augmentations"
        )
    if teacher.reads_images:
        print(
            f"the teacher runs outside JAX in every step, and its logits are not cached: {reason}; "
            "--config.data.pad=0 leaves few augmentations, whose logits are computed once"
        )
    return teacher


def cache_skip_reason(batches: BatchSpec, examples: int, num_classes: int, epochs: int) -> str:
    """Returns why caching the teacher's logits would not pay; empty if it does.

    The answer depends on the config only, never on stored files: a resumed run must do as before.

    Args:
        batches: of the students' training.
        examples: number of training images.
        num_classes: m.
        epochs: in which the teacher is used.
    """
    count = num_augmentations(batches.augmentation)
    size = count * examples * num_classes * 4
    if count > epochs:
        used = f"{epochs} epoch{'s' * (epochs != 1)}"
        return f"an image has {count} augmentations, and the teacher is used in {used}"
    if size > MAX_CACHE_BYTES:
        return f"they would take {size / 2**30:.1f} GiB on every device"
    return ""


def cached_teacher(
    teacher: Teacher, dataset: Dataset, examples: Examples, batches: BatchSpec
) -> CachedTeacher:
    """Returns the teacher's logits for every augmentation of every image, loaded or computed.

    Args:
        teacher: the logits are stored in its workdir, under a hash of all they depend on: its
            network and variables, the data and the augmentation.
        dataset: of the students.
        examples: its train split on the devices.
        batches: of the students' training.
    """
    path = teacher.folder / "logits" / f"{_cache_key(teacher, dataset, batches)}.npz"
    count = num_augmentations(batches.augmentation)
    multihost.barrier("before reading the cached teacher logits")
    logits = host_teacher.load_logits(path, (count, len(examples.labels), dataset.num_classes))
    multihost.barrier("after reading the cached teacher logits")
    if logits is None:
        logits = _compute_logits(teacher, examples, batches)
        if multihost.is_primary():
            host_teacher.store_logits(path, logits)
    return CachedTeacher(sharding.replicate(logits))


def _compute_logits(teacher: Teacher, examples: Examples, batches: BatchSpec) -> np.ndarray:
    def augment(images: jax.Array, indices: jax.Array, *, number: jax.Array) -> jax.Array:
        numbers = jnp.full_like(indices, number)
        return apply_augmentation(images, numbers, augmentation=batches.augmentation)

    return np.stack(
        [
            inference.predict_logits(
                teacher.model,
                teacher.variables,
                examples,
                batch_size=batches.batch_size,
                change=Partial(augment, number=np.int32(number)),
            )
            for number in range(num_augmentations(batches.augmentation))
        ]
    )


def _cache_key(teacher: Teacher, dataset: Dataset, batches: BatchSpec) -> str:
    augmentation = dataclasses.astuple(batches.augmentation)
    settings = teacher.model, dataset_metadata(dataset), *augmentation
    digest = hashlib.sha256(repr(settings).encode())
    # The labels identify which images of the data set are in the split, and their order.
    for value in (dataset.train.labels, *jax.tree.leaves(teacher.variables)):
        digest.update(np.asarray(value).tobytes())
    return digest.hexdigest()[:16]
