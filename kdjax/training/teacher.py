"""The frozen teacher of a student: computed online in each step, or cached once.

A teacher that is computed outside JAX, such as an ONNX file, is a `HostTeacher`.

An image has few distinct augmentations if it is not augmented, or only mirrored, or if it has a
fixed number of views. Then the teacher's logits for each of them are computed once and stored
beside the teacher's workdir, for every later student with the same data and augmentation.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from kdjax.data import Dataset, dataset_metadata
from kdjax.data.augment import apply_augmentation, num_augmentations, sample_augmentation
from kdjax.data.batches import Batch, BatchSource, BatchSpec, Examples, make_batch
from kdjax.errors import InputError
from kdjax.models.apply import Variables
from kdjax.runtime import compiler, multihost, prng, sharding
from kdjax.training import host_teacher, inference, out_of_fold, view_cache
from kdjax.training.host_teacher import HostTeacher

# Every device holds all cached logits; more would leave too little memory for the training.
MAX_CACHE_BYTES = 2**31


class Teacher(NamedTuple):
    """A trained, frozen teacher.

    Attributes:
        model: the network.
        variables: its `params` and `batch_stats`; of `OutOfFold` also the folds.
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


class CachedViews(NamedTuple):
    """The teacher's logits for the fixed views of every training image, see `BatchSpec.views`.

    Attributes:
        logits: float32 [r, n, m], of the views that are used.
        rows: int32 [V], the first index of `logits` for each view.
    """

    logits: jax.Array
    rows: jax.Array


class TeacherLogits(NamedTuple):
    """The teacher's logits for one batch, computed by another program.

    Attributes:
        logits: float32 [b, m].
    """

    logits: jax.Array


# A HostTeacher is replaced by the TeacherLogits of each batch before the step.
TeacherSource = OnlineTeacher | CachedTeacher | CachedViews | TeacherLogits | HostTeacher | None


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
        case CachedViews(logits, rows):
            return logits[rows[batch.view], batch.indices]
        case TeacherLogits(logits):
            return logits
        case OnlineTeacher(variables):
            return out_of_fold.batch_logits(model, variables, batch.images, batch.indices)
    raise TypeError(
        f"teacher source {type(source).__name__}: need OnlineTeacher, CachedTeacher, CachedViews "
        "or TeacherLogits"
    )


@compiler.cached_program()
def logits_program(model: nn.Module) -> Callable[..., jax.Array]:
    """Returns `(batches, teacher source, batch source, finished steps) -> logits [b, m]`, jitted.

    It is the separate program of an online teacher, and the one that computes the logits of views:
    another program would round otherwise.

    Args:
        model: the teacher's network.
    """

    def compute_teacher(
        batches: BatchSpec, teacher: TeacherSource, source: BatchSource, step: jax.Array
    ) -> jax.Array | None:
        return teacher_logits(model, teacher, make_batch(batches, source, step))

    return compiler.jit(compute_teacher)


def prepare_teacher(
    teacher: Teacher | HostTeacher,
    dataset: Dataset,
    examples: Examples,
    batches: BatchSpec,
    *,
    epochs: int,
    cache: str,
    first_epoch: int = 0,
) -> TeacherSource:
    """Returns the teacher in its cheapest form: cached logits where that pays, else online.

    A `HostTeacher` that is not cached is returned as it is, and is computed before each step.

    Args:
        teacher: the frozen teacher.
        dataset: of the students.
        examples: its train split on the devices.
        batches: of the students' training.
        epochs: number of epochs in which the teacher is used.
        cache: `auto`, or `off` for online in every case.
        first_epoch: in which the teacher is used, from 0.

    Raises:
        InputError: for a `HostTeacher` that cannot be cached, in a run of several processes.
    """
    reason = cache_skip_reason(batches, len(examples.labels), dataset.num_classes, epochs)
    views = view_cache.used_views(batches, first_epoch, epochs) if batches.views else []
    if isinstance(teacher, HostTeacher):
        return _prepare_host_teacher(
            teacher, dataset, batches, views, "teacher.cache is off" if cache == "off" else reason
        )
    online = OnlineTeacher(sharding.replicate(teacher.variables))
    if cache == "off":
        return online
    if not reason and views:
        return cached_views(teacher, dataset, examples, batches, views)
    if not reason:
        return cached_teacher(teacher, dataset, examples, batches)
    if multihost.is_primary():
        note = "the teacher's logits are computed in every step and not cached: "
        print(note + reason + out_of_fold.note(teacher.model))
    return online


def _prepare_host_teacher(
    teacher: HostTeacher,
    dataset: Dataset,
    batches: BatchSpec,
    views: Sequence[int],
    reason: str,
) -> CachedTeacher | CachedViews | HostTeacher:
    """Returns the logits of a teacher on the host, or the teacher if they are not cached."""
    if not reason and views:
        logits = view_cache.host_logits(teacher, dataset, batches, views)
        return _place_views(logits, views)
    if not reason:
        logits = host_teacher.augmentation_logits(teacher, dataset, batches.augmentation)
        return CachedTeacher(sharding.replicate(logits))
    if jax.process_count() > 1:
        raise InputError(
            "a teacher that is given as a file is not computed in the steps of a run of several "
            f"processes, and its logits are not cached: {reason}; with --config.data.pad=0 or "
            "--config.teacher.views there are few augmentations"
        )
    if teacher.reads_images:
        print(
            f"the teacher runs outside JAX in every step, and its logits are not cached: {reason}; "
            "--config.data.pad=0 or --config.teacher.views leaves few augmentations, whose logits "
            "are computed once"
        )
    return teacher


def _place_views(logits: np.ndarray, views: Sequence[int]) -> CachedViews:
    return CachedViews(*sharding.replicate((logits, view_cache.view_rows(views))))


def cache_skip_reason(batches: BatchSpec, examples: int, num_classes: int, epochs: int) -> str:
    """Returns why caching the teacher's logits would not pay; empty if it does.

    The answer depends on the config only, never on stored files: a resumed run must do as before.

    Args:
        batches: of the students' training.
        examples: number of training images.
        num_classes: m.
        epochs: in which the teacher is used.
    """
    # No view is computed that no epoch sees.
    count = min(batches.views, epochs) or num_augmentations(batches.augmentation)
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


def cached_views(
    teacher: Teacher,
    dataset: Dataset,
    examples: Examples,
    batches: BatchSpec,
    views: Sequence[int],
) -> CachedViews:
    """Returns the teacher's logits for some fixed views of every image, loaded or computed.

    Args:
        teacher: the logits are stored in its workdir, a file for each view.
        dataset: of the students.
        examples: its train split on the devices.
        batches: of the students' training, with fixed views.
        views: that are used, ascending.
    """
    online = OnlineTeacher(sharding.replicate(teacher.variables))
    program = Partial(logits_program(teacher.model), prng.with_array_seeds(batches), online)

    def augment(images: jax.Array, indices: jax.Array, *, view: jax.Array) -> jax.Array:
        numbers = sample_augmentation(
            indices, seed=batches.order_seed, epoch=view, augmentation=batches.augmentation
        )
        return apply_augmentation(images, numbers, augmentation=batches.augmentation)

    def compute_view(view: int) -> np.ndarray:
        if out_of_fold.has_folds(teacher.model):  # online, each image would need all networks
            change = Partial(augment, view=np.int32(view))
            return _train_logits(teacher, examples, batches.batch_size, change)
        return view_cache.epoch_logits(program, examples, batches, view)

    shape = len(examples.labels), dataset.num_classes
    store = teacher.folder, _cache_key(teacher, dataset, batches)
    logits = view_cache.device_logits(compute_view, shape, batches, views, store)
    return _place_views(logits, views)


def _compute_logits(teacher: Teacher, examples: Examples, batches: BatchSpec) -> np.ndarray:
    def augment(images: jax.Array, indices: jax.Array, *, number: jax.Array) -> jax.Array:
        numbers = jnp.full_like(indices, number)
        return apply_augmentation(images, numbers, augmentation=batches.augmentation)

    return np.stack(
        [
            _train_logits(
                teacher, examples, batches.batch_size, Partial(augment, number=np.int32(number))
            )
            for number in range(num_augmentations(batches.augmentation))
        ]
    )


def _train_logits(
    teacher: Teacher, examples: Examples, batch_size: int, change: Partial
) -> np.ndarray:
    """Returns the logits of the train split, [n, m], after a change of its images."""

    def predict(model: nn.Module, variables: Variables, rows: np.ndarray | None) -> np.ndarray:
        return inference.predict_logits(
            model, variables, examples, batch_size=batch_size, change=change, rows=rows
        )

    return out_of_fold.train_logits(teacher.model, teacher.variables, predict)


def _cache_key(teacher: Teacher, dataset: Dataset, batches: BatchSpec) -> str:
    augmentation = batches.augmentation
    # Without fields at their defaults, which earlier versions did not have in the names of files.
    values = [
        value
        for field in dataclasses.fields(augmentation)
        if (value := getattr(augmentation, field.name)) != field.default
    ]
    settings = teacher.model, dataset_metadata(dataset), *values
    digest = hashlib.sha256(repr(settings).encode())
    # The labels identify which images of the data set are in the split, and their order.
    for value in (dataset.train.labels, *jax.tree.leaves(teacher.variables)):
        digest.update(np.asarray(value).tobytes())
    return digest.hexdigest()[:16]
