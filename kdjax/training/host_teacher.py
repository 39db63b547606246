"""A frozen teacher that is computed outside JAX: by ONNX Runtime, or beforehand by the user."""

import hashlib
import pathlib
import time
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kdjax.data import Dataset, dataset_metadata, deployment_views
from kdjax.data.augment import (
    Augmentation,
    apply_augmentation,
    num_augmentations,
    sample_augmentation,
)
from kdjax.data.batches import BatchSource, BatchSpec, take_batch
from kdjax.data.deployment_views import IDENTITY, View
from kdjax.errors import InputError
from kdjax.runtime import atomic_io, multihost

CHUNK = 1024  # images that are augmented and passed to the teacher at once

# `(split, images uint8 [b, h, w, c], indices [b], augmentation numbers [b]) -> float32 [b, m]`.
# The images are augmented; None for a teacher that does not read them. Of a teacher with
# `fixed_views`, the numbers are those of the views.
Compute = Callable[[str, np.ndarray | None, np.ndarray, np.ndarray], np.ndarray]


class ExternalNetwork(nn.Module):
    """Stands for the network of a teacher that JAX cannot compute.

    Attributes:
        key: of the teacher, see `HostTeacher`.
    """

    key: str

    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Raises, because the teacher's logits are computed outside JAX."""
        raise TypeError("the logits of an external teacher are not computed in JAX")


class HostTeacher(NamedTuple):
    """A frozen teacher that is computed outside JAX.

    Attributes:
        compute: its logits, by class of the data set.
        key: a hash of all that the logits depend on, apart from the data.
        splits: names of the splits that it can be applied to; always with `train`.
        reads_images: whether `compute` needs the images.
        folder: its workdir, where its logits are stored.
        fixed_views: whether its logits of the train split are numbered by view, see
            `BatchSpec.view`, and not by augmentation.
        clean: the number of the training images without augmentation; None if it has no logits for
            them.
    """

    compute: Compute
    key: str
    splits: tuple[str, ...]
    reads_images: bool
    folder: pathlib.Path
    fixed_views: bool = False
    clean: int | None = 0

    @property
    def model(self) -> nn.Module:
        """What stands for its network in a `TrainSpec`."""
        return ExternalNetwork(self.key)


class HostBatch(NamedTuple):
    """The images of one step as the host needs them.

    Attributes:
        images: uint8 [b, h, w, c], augmented.
        indices: int32 [b], of the images in the split.
        numbers: int32 [b], of their augmentations.
        view: int32 [], see `BatchSpec.view`.
    """

    images: jax.Array
    indices: jax.Array
    numbers: jax.Array
    view: jax.Array


def host_batch(spec: BatchSpec, source: BatchSource, step: jax.Array) -> HostBatch:
    """Returns the augmented batch of a step, not normalized; see `batches.make_batch`."""
    epoch, position = step // spec.steps_per_epoch, step % spec.steps_per_epoch
    raw, view = take_batch(source, position, spec.batch_size), spec.view(epoch)
    numbers = sample_augmentation(
        raw.indices, seed=spec.order_seed, epoch=view, augmentation=spec.augmentation
    )
    images = apply_augmentation(raw.images, numbers, augmentation=spec.augmentation)
    return HostBatch(images, raw.indices, numbers, view)


def batch_logits(teacher: HostTeacher, batch: HostBatch) -> np.ndarray:
    """Returns the logits of a batch of the train split, float32 [b, m]."""
    images, indices, numbers, view = map(np.asarray, batch)
    if teacher.fixed_views:
        numbers = np.full_like(indices, view)
    return teacher.compute("train", images, indices, numbers)


def augmentation_logits(
    teacher: HostTeacher, dataset: Dataset, augmentation: Augmentation
) -> np.ndarray:
    """Returns the logits of the train split for every augmentation, float32 [augmentations, n, m].

    Those that are stored in the teacher's folder are read; the others are computed and stored.
    """
    count = num_augmentations(augmentation)
    with multihost.primary_first("teacher logits computed"):
        return np.stack(
            [_stored_view(teacher, dataset, augmentation, number) for number in range(count)]
        )


def split_logits(teacher: HostTeacher, dataset: Dataset, split: str) -> np.ndarray:
    """Returns the logits of the images of a split without augmentation, float32 [n, m].

    Args:
        teacher: the teacher; if it has none for the training images, those of its first view.
        dataset: of the run.
        split: one of `teacher.splits`.
    """
    plain = Augmentation(pad=0, flip=False)
    with multihost.primary_first(f"teacher logits of {split}"):
        return _stored_view(_of_clean_images(teacher), dataset, plain, 0, split)


def averaged_logits(
    teacher: HostTeacher, dataset: Dataset, split: str, views: Sequence[View]
) -> np.ndarray:
    """Returns the mean logits of a split over deployment views, float32 [n, m].

    Args:
        teacher: the teacher; one that is given as logits has only those of the images themselves,
            which are returned.
        dataset: of the run.
        split: one of `teacher.splits`.
        views: see `deployment_views.views`.
    """
    if tuple(views) == (IDENTITY,) or not teacher.reads_images:
        return split_logits(teacher, dataset, split)
    augmentation, numbers = deployment_views.augmentation(views)
    with multihost.primary_first(f"teacher logits of {split}"):
        return deployment_views.mean_logits(
            [_stored_view(teacher, dataset, augmentation, number, split) for number in numbers]
        )


def _of_clean_images(teacher: HostTeacher) -> HostTeacher:
    """Returns a teacher whose number 0 is the training images without augmentation."""

    def compute(
        split: str, images: np.ndarray | None, indices: np.ndarray, numbers: np.ndarray
    ) -> np.ndarray:
        return teacher.compute(split, images, indices, np.full_like(numbers, teacher.clean or 0))

    return teacher._replace(compute=compute)


def view_name(number: int, augmentation: Augmentation) -> str:
    """Returns the name of an augmentation: the shift down and to the right, and `m` if mirrored.

    Unlike its number, the name does not depend on the other augmentations.
    """
    crop, mirrored = divmod(number, 1 + augmentation.flip)
    top, left = divmod(crop, 2 * augmentation.pad + 1)
    shift = f"{augmentation.pad - top:+d}{augmentation.pad - left:+d}"
    return shift + ("m" if mirrored else "")


def _stored_view(
    teacher: HostTeacher,
    dataset: Dataset,
    augmentation: Augmentation,
    number: int,
    split: str = "train",
) -> np.ndarray:
    name = f"{data_key(teacher, dataset, split)}-{split}{view_name(number, augmentation)}.npz"
    path = teacher.folder / "logits" / name
    shape = len(getattr(dataset, split).labels), dataset.num_classes
    logits = load_logits(path, shape)
    check_computed_by_primary(path, logits)
    if logits is None:
        logits = _compute_view(teacher, dataset, augmentation, number, split)
        store_logits(path, logits)
    return logits


def check_computed_by_primary(path: pathlib.Path, logits: np.ndarray | None) -> None:
    """Raises if logits are missing that the primary process must have stored.

    Args:
        path: the file.
        logits: its content; None if there is none.

    Raises:
        InputError: in the other processes.
    """
    if logits is None and not multihost.is_primary():
        raise InputError(
            f"{str(path)!r} is missing: the workdir must be in a folder that all processes share"
        )


def data_key(teacher: HostTeacher, dataset: Dataset, split: str) -> str:
    """Returns a hash of a teacher and the images of a split, for the names of files."""
    digest = hashlib.sha256(repr((teacher.key, dataset_metadata(dataset))).encode())
    # The labels identify which images of the data set are in the split, and their order.
    digest.update(np.asarray(getattr(dataset, split).labels).tobytes())
    return digest.hexdigest()[:16]


def _compute_view(
    teacher: HostTeacher, dataset: Dataset, augmentation: Augmentation, number: int, split: str
) -> np.ndarray:
    data, parts, start = getattr(dataset, split), [], time.perf_counter()
    for first in range(0, len(data.labels), CHUNK):
        rows = np.arange(first, min(first + CHUNK, len(data.labels)), dtype=np.int32)
        numbers = np.full(len(rows), number, np.int32)
        images = None
        if teacher.reads_images:
            images = augmented(np.asarray(data.images[rows]), numbers, augmentation)
        parts.append(teacher.compute(split, images, rows, numbers))
    if teacher.reads_images:
        seconds = time.perf_counter() - start
        label = f", augmentation {number + 1} of {num_augmentations(augmentation)}"
        print(
            f"teacher's logits of {split}{label if split == 'train' else ''}: "
            f"{len(data.labels):,} images in {seconds:.1f} s",
            flush=True,
        )
    return np.concatenate(parts)


def augmented(images: np.ndarray, numbers: np.ndarray, augmentation: Augmentation) -> np.ndarray:
    """Returns augmented images, uint8 [b, h, w, c], on the host."""
    if num_augmentations(augmentation) == 1:
        return images
    return np.asarray(_apply(jnp.asarray(images), jnp.asarray(numbers), augmentation=augmentation))


_apply = jax.jit(apply_augmentation, static_argnames="augmentation")


def load_logits(path: pathlib.Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """Returns stored logits; None if there are none, or with a warning if they are damaged."""
    if not path.exists():
        return None
    try:
        (logits,) = atomic_io.read_npz(path, "logits")
    except InputError as error:
        reason = str(error)
    else:
        if logits.shape == shape and logits.dtype == np.float32:
            return logits
        reason = f"{str(path)!r} holds {logits.dtype} {logits.shape}, not float32 {shape}"
    warnings.warn(f"{reason}; the logits are computed again", RuntimeWarning, stacklevel=3)
    return None


def store_logits(path: pathlib.Path, logits: np.ndarray) -> None:
    """Stores logits; warns if the folder cannot be written."""
    try:
        path.parent.mkdir(exist_ok=True)
        atomic_io.write_npz(path, {"logits": logits})
    except OSError as error:  # the teacher's workdir may belong to another user
        warnings.warn(
            f"{path} cannot be written ({error.strerror}): the next student computes the logits "
            "again",
            RuntimeWarning,
            stacklevel=3,
        )
