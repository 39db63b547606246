"""The frozen teacher, online and cached, against a linear teacher in float64."""

import dataclasses
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.networks import (
    BATCH,
    CLASSES,
    COUNT,
    SHAPE,
    Linear,
    device_examples,
    flat_inputs,
    linear_spec,
    order,
    random_dataset,
    random_split,
    single_program,
    teacher_variables,
)
from support.runs import final_arrays, tiny

from kdjax import models, pipeline
from kdjax.data import Dataset, batches
from kdjax.data.batches import DeviceSplit
from kdjax.training import inference, multi_student, step
from kdjax.training import teacher as teachers
from kdjax.training.teacher import CachedTeacher, OnlineTeacher, Teacher, TeacherLogits


@pytest.fixture
def dataset() -> Dataset:
    return random_dataset()


@pytest.fixture
def teacher(tmp_path: pathlib.Path) -> Teacher:
    return Teacher(Linear(CLASSES), teacher_variables(), tmp_path)


def cached_logits(teacher: Teacher, dataset: Dataset, **changes: Any) -> np.ndarray:
    examples = batches.put_split(dataset.train, dataset.mean, dataset.std)
    cached = teachers.cached_teacher(teacher, dataset, examples, linear_spec(**changes).batches)
    return np.asarray(cached.logits)


def test_cache_holds_the_logits_of_every_augmentation_of_every_image(teacher, dataset) -> None:
    logits = cached_logits(teacher, dataset, pad=1, flip=True)
    layer = teacher.variables["params"]["Dense_0"]
    padded = np.pad(random_split().images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    number = 0
    for top in range(3):
        for left in range(3):
            crop = padded[:, top : top + 8, left : left + 8]
            for images in (crop, crop[:, :, ::-1]):
                x = flat_inputs(batches.Split(images, random_split().labels))
                expected = x @ np.float64(layer["kernel"]) + np.float64(layer["bias"])
                np.testing.assert_allclose(logits[number], expected, rtol=1e-4, atol=1e-5)
                number += 1
    assert logits.shape == (number, COUNT, CLASSES) == (18, COUNT, CLASSES)


def final_leaves(spec: Any, source: teachers.TeacherSource, epochs: int) -> list[np.ndarray]:
    """The leaves of the state after some epochs with a teacher."""
    program, states = multi_student.make_program([spec]), (step.init_state(spec, SHAPE),)
    for epoch in range(epochs):
        for _ in range(COUNT // BATCH):
            split = DeviceSplit(device_examples(), order(epoch))
            states, _ = program(states, split, source, 1)
    return jax.tree.leaves(states)


@pytest.mark.slow
def test_training_with_cached_logits_equals_training_with_the_online_teacher(
    teacher, dataset
) -> None:
    spec = linear_spec(pad=1, flip=True, teacher=teacher.model)
    cached = teachers.cached_teacher(teacher, dataset, device_examples(), spec.batches)
    online = OnlineTeacher(teacher.variables)
    for leaf, expected in zip(
        final_leaves(spec, cached, 3), final_leaves(spec, online, 3), strict=True
    ):
        np.testing.assert_allclose(leaf, expected, rtol=1e-5, atol=1e-6)
    # The test would notice wrong rows: reversed ones give another student.
    reversed_rows = CachedTeacher(cached.logits[:, ::-1])
    program, states = multi_student.make_program([spec]), (step.init_state(spec, SHAPE),)
    source = DeviceSplit(device_examples(), order())
    states, _ = program(states, source, reversed_rows, 1)
    correct, _ = single_program(spec)(step.init_state(spec, SHAPE), source, teacher.variables, 1)
    kernels = [s.variables["params"]["Dense_0"]["kernel"] for s in (states[0], correct)]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-4


@pytest.mark.slow
def test_cache_is_reused_and_recomputed_if_anything_it_depends_on_differs(
    teacher, dataset, monkeypatch
) -> None:
    first = cached_logits(teacher, dataset)
    calls, predict_logits = [], inference.predict_logits
    monkeypatch.setattr(
        inference,
        "predict_logits",
        lambda *args, **options: calls.append(1) or predict_logits(*args, **options),
    )
    np.testing.assert_array_equal(cached_logits(teacher, dataset), first)
    np.testing.assert_array_equal(cached_logits(teacher, dataset, seed=9, order_seed=9), first)
    assert calls == []
    changed_variables = jax.tree.map(lambda leaf: leaf + 1e-3, teacher.variables)
    changed_images = dataclasses.replace(dataset, train=random_split(seed=1))
    cached_logits(teacher._replace(variables=changed_variables), dataset)
    cached_logits(teacher, changed_images)
    assert len(calls) == 2
    cached_logits(teacher, dataset, flip=True)
    assert len(calls) == 4  # two augmentations
    assert len(list((teacher.folder / "logits").iterdir())) == 4


def test_cache_file_has_the_name_of_earlier_versions(teacher, dataset) -> None:
    # The names were computed with version 0.1.0, in which pad and flip were separate arguments.
    zeros = teacher._replace(variables=jax.tree.map(jnp.zeros_like, teacher.variables))
    cached_logits(zeros, dataset)
    cached_logits(zeros, dataset, pad=1, flip=True)
    names = {path.name for path in (teacher.folder / "logits").iterdir()}
    assert names == {"03b28cfadd34d2ea.npz", "abfdec9c0fa2e734.npz"}


def test_damaged_cache_is_reported_and_computed_again(teacher, dataset) -> None:
    first = cached_logits(teacher, dataset)
    (path,) = (teacher.folder / "logits").iterdir()
    content = path.read_bytes()
    for damaged in (content[:100], b"", content[:-300] + b"x" + content[-299:]):
        path.write_bytes(damaged)
        with pytest.warns(RuntimeWarning, match="is damaged: .*; the logits are computed again"):
            np.testing.assert_array_equal(cached_logits(teacher, dataset), first)
        assert path.read_bytes() == content


def test_cache_of_another_shape_is_reported_and_computed_again(teacher, dataset) -> None:
    first = cached_logits(teacher, dataset)
    (path,) = (teacher.folder / "logits").iterdir()
    np.savez(path, logits=first[:, :-1])
    with pytest.warns(RuntimeWarning, match=r"holds float32 \(1, 19, 3\), not float32 \(1, 20, 3"):
        np.testing.assert_array_equal(cached_logits(teacher, dataset), first)


def test_cache_that_cannot_be_written_is_used_all_the_same(teacher, dataset, tmp_path) -> None:
    first = cached_logits(teacher, dataset)
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "logits").write_text("where a folder should be")
    with pytest.warns(RuntimeWarning, match="cannot be written .*: the next student computes"):
        logits = cached_logits(teacher._replace(folder=folder), dataset)
    np.testing.assert_array_equal(logits, first)


@pytest.mark.parametrize(
    ("pad", "flip", "classes", "examples", "epochs", "reason"),
    [
        (0, False, 10, 50_000, 1, ""),
        (0, True, 10, 50_000, 2, ""),
        (0, True, 10, 50_000, 1, "an image has 2 augmentations, and the teacher is used in 1 epo"),
        (4, True, 10, 50_000, 161, "an image has 162 augmentations, and the teacher is used in 16"),
        (4, True, 10, 50_000, 162, ""),
        (4, True, 100, 50_000, 200, "they would take 3.0 GiB on every device"),
    ],
)
def test_caching_pays_if_an_image_has_at_most_as_many_augmentations_as_epochs(
    pad, flip, classes, examples, epochs, reason
) -> None:
    spec = linear_spec(pad=pad, flip=flip)
    actual = teachers.cache_skip_reason(spec.batches, examples, classes, epochs)
    assert actual.startswith(reason) and bool(actual) == bool(reason)


@pytest.mark.slow
def test_each_source_gives_the_teachers_logits(teacher, dataset) -> None:
    spec = linear_spec(pad=1, flip=True)
    source = DeviceSplit(device_examples(), order())
    batch = batches.make_batch(spec.batches, source, jnp.int32(3))
    online = teachers.teacher_logits(teacher.model, OnlineTeacher(teacher.variables), batch)
    cached = teachers.cached_teacher(teacher, dataset, device_examples(), spec.batches)
    np.testing.assert_allclose(
        teachers.teacher_logits(teacher.model, cached, batch), online, rtol=1e-5, atol=1e-5
    )
    assert teachers.teacher_logits(teacher.model, TeacherLogits(online), batch) is online
    assert teachers.teacher_logits(None, None, batch) is None
    with pytest.raises(TypeError, match="teacher source NoneType"):
        teachers.teacher_logits(teacher.model, None, batch)


class Foreign(nn.Module):
    """A teacher that is none of kdjax's networks: its batch normalization cannot be folded."""

    outputs: int

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        x = nn.LayerNorm()(nn.Dense(5)(images.reshape(len(images), -1)))
        return nn.Dense(self.outputs)(nn.BatchNorm(use_running_average=not train)(x))


@pytest.mark.slow
def test_network_without_foldable_batch_norm_can_be_a_teacher(dataset, tmp_path) -> None:
    model = Foreign(CLASSES)
    variables = model.init(jax.random.key(1), jnp.zeros((1, *SHAPE)), train=False)
    teacher = Teacher(*models.fold_batch_norm(model, variables), tmp_path)
    assert teacher.model is model
    spec = linear_spec(pad=0, flip=True, teacher=teacher.model)
    cached = teachers.prepare_teacher(
        teacher, dataset, device_examples(), spec.batches, epochs=2, cache="auto"
    )
    online = teachers.prepare_teacher(
        teacher, dataset, device_examples(), spec.batches, epochs=2, cache="off"
    )
    assert isinstance(cached, CachedTeacher) and isinstance(online, OnlineTeacher)
    for leaf, expected in zip(
        final_leaves(spec, cached, 2), final_leaves(spec, online, 2), strict=True
    ):
        np.testing.assert_allclose(leaf, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_run_with_and_without_the_cache_ends_alike(data_dir, tmp_path, capsys) -> None:
    arrays = []
    for cache in ("auto", "off"):
        changes = {
            "teacher.cache": cache,
            "data.pad": 0,
            "objective.pretrain_epochs": 1,
            "teacher.workdir": str(tmp_path / "auto") if cache == "off" else "",
        }
        pipeline.train(tiny(data_dir, **changes), tmp_path / cache)
        arrays.append(final_arrays(tmp_path / cache)[1])
    assert len(list((tmp_path / "auto" / "teacher" / "logits").iterdir())) == 1
    for leaf, expected in zip(*arrays, strict=True):
        np.testing.assert_allclose(leaf, expected, rtol=1e-4, atol=1e-5)
    assert "computed in every step" not in capsys.readouterr().out
    changes = {"data.pad": 1, "teacher.workdir": str(tmp_path / "auto")}
    pipeline.train(tiny(data_dir, **changes), tmp_path / "nine augmentations")
    assert (
        "computed in every step and not cached: an image has 9 augmentations"
        in capsys.readouterr().out
    )
