"""A teacher's logits for fixed views of the training images, computed once per view.

View v of an image is the augmentation that it has in epoch v of a run without fixed views. Its
logits are computed in the batches of that epoch, in their order, because the rounding of a logit
may depend on the other images of its batch. A run with as many views as epochs is then the run
without a cache, bit for bit where an online teacher is a program of its own (on the CPU).
"""

import dataclasses
import hashlib
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.data import Dataset
from kdjax.data.augment import epoch_order, order_program, sample_augmentation
from kdjax.data.batches import BatchSource, BatchSpec, Examples, iterate_batches
from kdjax.runtime import multihost, sharding
from kdjax.training import host_teacher
from kdjax.training.host_teacher import HostTeacher

SECONDS_PER_LINE = 10  # between lines that show the progress

# `(images of the step, finished steps) -> logits [b, m]`, on the devices.
BatchLogits = Callable[[BatchSource, jax.Array], jax.Array]


def used_views(batches: BatchSpec, first_epoch: int, epochs: int) -> list[int]:
    """Returns the views that some epochs see, ascending; at most one per epoch.

    Args:
        batches: of the students' training, with fixed views.
        first_epoch: from 0.
        epochs: number of epochs.
    """
    last = first_epoch + min(epochs, batches.views)  # later epochs see the same views again
    return sorted({batches.view(epoch) for epoch in range(first_epoch, last)})


def view_rows(views: Sequence[int]) -> np.ndarray:
    """Returns the position of each view among the used ones, int32; 0 for those not used."""
    rows = np.zeros(max(views) + 1, np.int32)
    rows[list(views)] = np.arange(len(views))
    return rows


def device_logits(
    compute_view: Callable[[int], np.ndarray],
    shape: tuple[int, int],
    batches: BatchSpec,
    views: Sequence[int],
    store: tuple[pathlib.Path, str],
) -> np.ndarray:
    """Returns the logits of a teacher in JAX for some views, loaded or computed and stored.

    Args:
        compute_view: the teacher's logits of the train split in a view, [n, m].
        shape: n and m.
        batches: of the students' training.
        views: from `used_views`.
        store: the folder of the files, and a hash of the teacher and the data.

    Returns:
        float32 [views, n, m].
    """
    paths = [_path(store, batches, view) for view in views]
    multihost.barrier("before reading the teacher's logits of views")
    stored = [host_teacher.load_logits(path, shape) for path in paths]
    multihost.barrier("after reading the teacher's logits of views")
    return _completed(stored, paths, views, compute_view)


def epoch_logits(
    compute: BatchLogits, examples: Examples, batches: BatchSpec, epoch: int
) -> np.ndarray:
    """Returns the logits of every image, float32 [n, m], as augmented in an epoch.

    Args:
        compute: the logits of a batch.
        examples: the train split.
        batches: of the training; the images that do not fill a batch come last.
        epoch: from 0.
    """
    size, steps = batches.batch_size, batches.steps_per_epoch
    order = order_program(len(examples.labels))(batches.order_seed, epoch)
    # The batch after the last one begins with the images that the epoch leaves out.
    left_out_first = jnp.roll(order, -steps * size)
    calls = [(order, steps)]
    if len(order) > steps * size:
        calls.append((left_out_first, 1))
    parts = []
    for visited, count in calls:
        with iterate_batches(examples, sharding.replicate(visited), size) as sources:
            for position in range(count):
                step = sharding.replicate(np.int32(epoch * steps + position))
                parts.append(compute(next(sources), step))
    computed = np.concatenate(jax.device_get(parts))[: len(order)]
    logits = np.empty_like(computed)
    logits[np.asarray(order)] = computed
    return logits


def host_logits(
    teacher: HostTeacher, dataset: Dataset, batches: BatchSpec, views: Sequence[int]
) -> np.ndarray:
    """Returns the logits of a teacher outside JAX for some views, loaded or computed and stored.

    Args:
        teacher: the teacher.
        dataset: of the run.
        batches: of the students' training.
        views: from `used_views`.

    Returns:
        float32 [views, n, m].
    """
    shape = len(dataset.train.labels), dataset.num_classes
    store = teacher.folder, host_teacher.data_key(teacher, dataset, "train")
    paths = [_path(store, batches, view) for view in views]
    with multihost.primary_first("teacher logits of views computed"):
        stored = [host_teacher.load_logits(path, shape) for path in paths]
        for path, logits in zip(paths, stored, strict=True):
            host_teacher.check_computed_by_primary(path, logits)
        return _completed(
            stored, paths, views, lambda view: _host_view(teacher, dataset, batches, view)
        )


def _host_view(teacher: HostTeacher, dataset: Dataset, batches: BatchSpec, view: int) -> np.ndarray:
    """Returns the logits of a view, float32 [n, m], computed in the batches of its epoch."""
    count = len(dataset.train.labels)
    order = np.asarray(epoch_order(count, seed=batches.order_seed, epoch=view))
    numbers = np.asarray(
        _numbers(
            jnp.asarray(order),
            seed=np.uint32(batches.order_seed),  # an int from 2^31 on is too large under jit
            epoch=view,
            augmentation=batches.augmentation,
        )
    )
    logits = np.empty((count, dataset.num_classes), np.float32)
    for start in range(0, count, batches.batch_size):
        rows = order[start : start + batches.batch_size]
        row_numbers = numbers[start : start + batches.batch_size]
        images = None
        if teacher.reads_images:
            pixels = np.asarray(dataset.train.images[rows])
            images = host_teacher.augmented(pixels, row_numbers, batches.augmentation)
        if teacher.fixed_views:
            row_numbers = np.full_like(rows, view)
        logits[rows] = teacher.compute("train", images, rows, row_numbers)
    return logits


_numbers = jax.jit(sample_augmentation, static_argnames="augmentation")


def _path(store: tuple[pathlib.Path, str], batches: BatchSpec, view: int) -> pathlib.Path:
    folder, key = store
    # Not the number of views: a view is the same among 4 views as among 16.
    settings = (
        key,
        dataclasses.astuple(batches.augmentation),
        batches.order_seed,
        batches.batch_size,
    )
    digest = hashlib.sha256(repr(settings).encode()).hexdigest()[:16]
    return folder / "logits" / f"{digest}-view{view}.npz"


def _completed(
    stored: Sequence[np.ndarray | None],
    paths: Sequence[pathlib.Path],
    views: Sequence[int],
    compute_view: Callable[[int], np.ndarray],
) -> np.ndarray:
    """Returns the logits of all views; those that are not stored are computed, and then stored."""
    logits = {view: found for view, found in zip(views, stored, strict=True) if found is not None}
    missing = [view for view in views if view not in logits]
    for view in _with_progress(missing):
        logits[view] = compute_view(view)
        if multihost.is_primary():
            host_teacher.store_logits(paths[views.index(view)], logits[view])
    return np.stack([logits[view] for view in views])


def _with_progress(views: Sequence[int]) -> Iterator[int]:
    """Yields views, and prints how many are done, with the time left, every few seconds."""
    start = shown = time.perf_counter()
    number_of_views = f"{len(views)} view{'s' * (len(views) > 1)}"
    for done, view in enumerate(views):
        now = time.perf_counter()
        if done == 0:
            _print(f"{number_of_views} of every training image")
        elif now - shown > SECONDS_PER_LINE:
            left = (now - start) / done * (len(views) - done)
            _print(f"{done} of {number_of_views}, {left:,.0f} s left")
            shown = now
        yield view
    if views:
        _print(f"{number_of_views} in {time.perf_counter() - start:.1f} s")


def _print(text: str) -> None:
    if multihost.is_primary():
        print(f"teacher's logits: {text}", flush=True)
