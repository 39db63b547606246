"""Fixed views of the training images, and the logits of a teacher that are cached for them."""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.networks import (
    CLASSES,
    COUNT,
    MEAN,
    SHAPE,
    STD,
    Linear,
    device_examples,
    linear_spec,
    order,
    random_dataset,
    random_split,
    streamed_examples,
    teacher_variables,
)
from support.runs import final_arrays, log_lines, stop_at_step, tiny

from kdjax import pipeline
from kdjax.data import Dataset
from kdjax.data.augment import apply_augmentation, sample_augmentation
from kdjax.data.batches import BatchSpec, DeviceSplit, make_batch
from kdjax.training import multi_student, step, teacher_network, view_cache
from kdjax.training import teacher as teachers
from kdjax.training.host_teacher import HostTeacher
from kdjax.training.preemption import Preempted
from kdjax.training.teacher import CachedViews, OnlineTeacher, Teacher

# Two steps of 8 of the 20 images: an epoch leaves out four.
STEPS, SIZE = 2, 8
VIEWS = {"pad": 1, "flip": True, "batch_size": SIZE, "steps_per_epoch": STEPS}


def batch_spec(views: int, **changes: Any) -> BatchSpec:
    return linear_spec(**VIEWS | {"views": views} | changes).batches


@pytest.fixture
def dataset() -> Dataset:
    return random_dataset()


@pytest.fixture
def teacher(tmp_path: pathlib.Path) -> Teacher:
    return Teacher(Linear(CLASSES), teacher_variables(), tmp_path)


def prepared(teacher: Any, dataset: Dataset, batches: BatchSpec, **changes: Any) -> Any:
    options = {"epochs": 3, "cache": "auto", "examples": device_examples(), **changes}
    return teachers.prepare_teacher(teacher, dataset, batches=batches, **options)


def view_images(view: int, seed: int = 7) -> np.ndarray:
    """The training images with the augmentations of an epoch of a run without fixed views."""
    return np.asarray(_augmented(view, seed))


@jax.jit
def _augmented(view: int, seed: int) -> jax.Array:
    augmentation = linear_spec(**VIEWS).batches.augmentation
    numbers = sample_augmentation(
        jnp.arange(COUNT), seed=seed, epoch=view, augmentation=augmentation
    )
    return apply_augmentation(random_split().images, numbers, augmentation=augmentation)


def linear_logits(images: np.ndarray, variables: Any = None) -> np.ndarray:
    """The logits of a linear network for images uint8 [n, h, w, c], in float64."""
    layer = (variables or teacher_variables())["params"]["Dense_0"]
    flat = (images.reshape(len(images), -1) / 255 - float(MEAN)) / float(STD)
    return flat @ np.float64(layer["kernel"]) + np.float64(layer["bias"])


@pytest.mark.slow
def test_epoch_sees_the_view_of_its_number_modulo_the_number_of_views() -> None:
    source = DeviceSplit(device_examples(), order())
    fixed, free = (
        jax.jit(functools.partial(make_batch, batch_spec(views), source)) for views in (3, 0)
    )
    for epoch, view in enumerate([0, 1, 2, 0, 1, 2, 0]):
        batch = fixed(jnp.int32(epoch * STEPS))
        np.testing.assert_array_equal(batch.images, free(jnp.int32(view * STEPS)).images)
        assert int(batch.view) == view


@pytest.mark.parametrize(
    ("views", "first_epoch", "epochs", "used"),
    [
        (4, 0, 10, [0, 1, 2, 3]),
        (10, 0, 3, [0, 1, 2]),  # no view is computed that no epoch sees
        (5, 3, 4, [0, 1, 3, 4]),
        (300, 100, 2, [100, 101]),
        (2, 7, 1, [1]),
    ],
)
def test_only_views_of_epochs_with_a_teacher_are_computed(views, first_epoch, epochs, used) -> None:
    assert view_cache.used_views(batch_spec(views), first_epoch, epochs) == used
    rows = view_cache.view_rows(used)
    assert [int(rows[view]) for view in used] == list(range(len(used)))


@pytest.mark.slow
@pytest.mark.parametrize("streamed", [False, True])
def test_cache_holds_the_logits_of_every_view_of_every_image(teacher, dataset, streamed) -> None:
    examples = streamed_examples() if streamed else device_examples()
    cached = prepared(teacher, dataset, batch_spec(2), examples=examples)
    assert isinstance(cached, CachedViews) and cached.logits.shape == (2, COUNT, CLASSES)
    for view in range(2):
        expected = linear_logits(view_images(view))
        np.testing.assert_allclose(cached.logits[view], expected, rtol=1e-4, atol=1e-5)


@pytest.fixture
def host(tmp_path: pathlib.Path) -> tuple[HostTeacher, list[np.ndarray]]:
    """The linear teacher outside JAX, and the numbers that it was called with."""
    calls: list[np.ndarray] = []

    def compute(split: str, images: Any, indices: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        calls.append(numbers)
        return np.float32(linear_logits(images))

    return HostTeacher(compute, "linear", ("train",), True, tmp_path), calls


@pytest.mark.slow
def test_views_are_stored_one_by_one_and_shared_by_any_number_of_views(
    host, dataset, capsys
) -> None:
    teacher, _ = host
    first = prepared(teacher, dataset, batch_spec(2))
    assert "teacher's logits: 2 views of every training image" in capsys.readouterr().out
    more = prepared(teacher, dataset, batch_spec(3))
    assert "teacher's logits: 1 view of every training image" in capsys.readouterr().out
    np.testing.assert_array_equal(more.logits[:2], first.logits)
    again = prepared(teacher, dataset, batch_spec(16), epochs=2, first_epoch=1)
    assert capsys.readouterr().out == ""
    np.testing.assert_array_equal(again.logits, more.logits[1:])
    # Other views of the same number, and other rounding.
    prepared(teacher, dataset, batch_spec(2, order_seed=8))
    prepared(teacher, dataset, batch_spec(2, batch_size=4, steps_per_epoch=5))
    assert len(list((teacher.folder / "logits").iterdir())) == 3 + 2 + 2


def test_teacher_on_the_host_is_computed_once_per_view(host, dataset) -> None:
    teacher, calls = host
    cached = prepared(teacher, dataset, batch_spec(2))
    for view in range(2):
        expected = linear_logits(view_images(view))
        np.testing.assert_allclose(cached.logits[view], expected, rtol=1e-5, atol=1e-5)
    assert sum(map(len, calls)) == 2 * COUNT
    prepared(teacher, dataset, batch_spec(2))
    assert sum(map(len, calls)) == 2 * COUNT
    prepared(teacher._replace(fixed_views=True, key="by view"), dataset, batch_spec(2))
    assert [set(numbers.tolist()) for numbers in calls[-6:]] == [{0}] * 3 + [{1}] * 3


@pytest.mark.slow
def test_view_of_an_image_is_taught_by_the_teacher_of_its_fold(tmp_path, dataset) -> None:
    networks = [
        Linear(CLASSES).init(jax.random.key(seed), jnp.zeros((1, *SHAPE)), train=False)
        for seed in (5, 6)
    ]
    folds = np.int32(np.arange(COUNT) % 3 == 0)
    model, variables = teacher_network.out_of_fold(
        [(Linear(CLASSES), network) for network in networks], folds
    )
    cached = prepared(Teacher(model, variables, tmp_path), dataset, batch_spec(2))
    for view in range(2):
        each = [linear_logits(view_images(view), network) for network in networks]
        expected = np.where(folds[:, None] == 0, *each)
        np.testing.assert_allclose(cached.logits[view], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("views", "classes", "reason"),
    [(16, 10, ""), (5000, 10, ""), (300, 100, "they would take 3.7 GiB on every device")],
)
def test_views_are_cached_if_they_fit_in_memory(views, classes, reason) -> None:
    assert teachers.cache_skip_reason(batch_spec(views), 50_000, classes, 200) == reason


def test_progress_shows_the_time_that_is_left(monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setattr(view_cache, "SECONDS_PER_LINE", -1)
    shape, store = (COUNT, CLASSES), (tmp_path, "key")
    zeros = np.zeros(shape, np.float32)
    view_cache.device_logits(lambda _: zeros, shape, batch_spec(3), [0, 1, 2], store)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:3] == [f"teacher's logits: {done} of 3 views, 0 s left" for done in (1, 2)]
    assert lines[3].startswith("teacher's logits: 3 views in ")


def final_leaves(spec: Any, source: teachers.TeacherSource, epochs: int) -> list[np.ndarray]:
    """The leaves of the state after some epochs with a teacher."""
    program, states = multi_student.make_program([spec]), (step.init_state(spec, SHAPE),)
    for epoch in range(epochs):
        for _ in range(STEPS):
            split = DeviceSplit(device_examples(), order(epoch))
            states, _ = program(states, split, source, 1)
    return jax.tree.leaves(states)


@pytest.mark.slow
def test_training_with_a_view_per_epoch_equals_training_without_views(teacher, dataset) -> None:
    spec = linear_spec(**VIEWS, teacher=teacher.model)
    expected = final_leaves(spec, OnlineTeacher(teacher.variables), 3)
    fixed = dataclasses.replace(spec, batches=batch_spec(3))
    cached = prepared(teacher, dataset, fixed.batches)
    for leaf, other in zip(final_leaves(fixed, cached, 3), expected, strict=True):
        np.testing.assert_array_equal(leaf, other)
    # The test would notice other views.
    swapped = cached._replace(rows=cached.rows[::-1])
    leaves = final_leaves(fixed, swapped, 3)
    assert any(
        not np.array_equal(leaf, other) for leaf, other in zip(leaves, expected, strict=True)
    )


RUN = {
    "smoke": False, "data.limit": 64, "teacher.epochs": 1, "teacher.batch_size": 24,
    "student.epochs": 3, "student.batch_size": 24, "student.average": "ema",
    "student.bn_batches": 2, "objective.pretrain_epochs": 1, "selective.risk": 0.2,
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:teacher.warmup_epochs:RuntimeWarning")
@pytest.mark.slow
def test_run_with_a_view_per_epoch_is_the_uncached_run_bit_for_bit(data_dir, tmp_path) -> None:
    pipeline.train(tiny(data_dir, **RUN | {"teacher.cache": "off"}), tmp_path / "uncached")
    views = {"teacher.views": 3, "teacher.workdir": str(tmp_path / "uncached")}
    pipeline.train(tiny(data_dir, **RUN | views), tmp_path / "views")
    assert len(list((tmp_path / "uncached" / "teacher" / "logits").glob("*-view[12].npz"))) == 2
    (steps, expected), (same, arrays) = (
        final_arrays(tmp_path / name) for name in ("uncached", "views")
    )
    assert steps == same == 6
    for leaf, other in zip(arrays, expected, strict=True):
        np.testing.assert_array_equal(leaf, other)


@pytest.mark.filterwarnings("ignore:objective.rank_weight_start 0.6 with a teacher:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:teacher.warmup_epochs:RuntimeWarning")
@pytest.mark.slow
def test_students_with_views_and_weights_resume_to_the_same_bits(
    data_dir, tmp_path, capsys
) -> None:
    """The weights begin in the epoch of the config, for the student that has them."""
    students = ({"objective.rank_weight_start": 0.6}, {"objective.rank_weight_start": 1.0})
    changes = RUN | {"teacher.views": 2, "students": students, "objective.pretrain_epochs": 0}
    pipeline.train(tiny(data_dir, **changes), tmp_path / "whole")
    assert capsys.readouterr().out.count("from epoch 2 on, losses are weighted") == 1
    changes |= {"teacher.workdir": str(tmp_path / "whole")}
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Preempted):
        stop_at_step(patch, 5)
        pipeline.train(tiny(data_dir, **changes), tmp_path / "stopped")
    pipeline.train(tiny(data_dir, **changes), tmp_path / "stopped")
    names = [f"rank_weight_start={start}" for start in ("0.6", "1.0")]
    nll = []
    for name in names:
        folders = [tmp_path / run / "students" / name for run in ("whole", "stopped")]
        for leaf, other in zip(*(final_arrays(folder)[1] for folder in folders), strict=True):
            np.testing.assert_array_equal(leaf, other)
        lines = [line for line in log_lines(folders[0]) if line["split"] == "dev"]
        nll.append([line["nll"] for line in lines])
    weighted, plain = nll
    assert weighted[0] == plain[0] and weighted[1] != plain[1]
