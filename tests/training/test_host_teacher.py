"""A teacher that is computed on the host: in every step, and cached."""

import pathlib
from typing import Any

import jax
import numpy as np
import pytest
from support.networks import (
    BATCH,
    CLASSES,
    COUNT,
    MEAN,
    STD,
    device_examples,
    linear_spec,
    order,
    random_dataset,
    random_split,
    teacher_variables,
)

from kdjax.data import Dataset
from kdjax.data.augment import Augmentation, apply_augmentation, num_augmentations
from kdjax.data.batches import DeviceSplit
from kdjax.data.deployment_views import apply_view, views
from kdjax.errors import InputError
from kdjax.training import host_teacher, multi_student, step
from kdjax.training import teacher as teachers
from kdjax.training.host_teacher import HostTeacher
from kdjax.training.spec import pretraining_spec
from kdjax.training.teacher import CachedTeacher, OnlineTeacher

AUGMENTATION = Augmentation(pad=1, flip=True)


def linear_logits(images: np.ndarray) -> np.ndarray:
    """The logits of the linear teacher for images uint8 [n, h, w, c]."""
    layer = teacher_variables()["params"]["Dense_0"]
    flat = (images.reshape(len(images), -1) / 255 - float(MEAN)) / float(STD)
    return np.float32(flat @ np.float64(layer["kernel"]) + np.float64(layer["bias"]))


@pytest.fixture
def dataset() -> Dataset:
    return random_dataset()


@pytest.fixture
def teacher(tmp_path: pathlib.Path) -> HostTeacher:
    def compute(split: str, images: Any, indices: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        return linear_logits(images)

    return HostTeacher(compute, "linear", ("train", "test"), True, tmp_path)


def final_leaves(spec: Any, source: teachers.TeacherSource) -> list[np.ndarray]:
    """The leaves of the state after an epoch of pre-training and one with a teacher."""
    states: Any = (step.init_state(spec, (8, 8, 1)),)
    for epoch, phase in enumerate((pretraining_spec(spec), spec)):
        program = multi_student.make_program([phase])
        for _ in range(COUNT // BATCH):
            split = DeviceSplit(device_examples(), order(epoch))
            states, _ = program(states, split, source, 1)
        assert program.memory(states, split, source, 1) > 0
    return jax.tree.leaves(states)


@pytest.mark.slow
def test_teacher_on_the_host_teaches_as_the_same_network_in_jax(teacher) -> None:
    """It gets the augmented images of each batch, in an epoch of pre-training none."""
    spec = linear_spec(pad=1, flip=True)
    online = OnlineTeacher(teacher_variables())
    for leaf, expected in zip(final_leaves(spec, teacher), final_leaves(spec, online), strict=True):
        np.testing.assert_allclose(leaf, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_cached_logits_are_those_of_every_augmentation(teacher, dataset) -> None:
    logits = host_teacher.augmentation_logits(teacher, dataset, AUGMENTATION)
    images = random_split().images
    assert logits.shape == (18, COUNT, CLASSES)
    for number in range(num_augmentations(AUGMENTATION)):
        numbers = np.full(COUNT, number, np.int32)
        augmented = apply_augmentation(images, numbers, augmentation=AUGMENTATION)
        expected = linear_logits(np.asarray(augmented))
        np.testing.assert_allclose(logits[number], expected, rtol=1e-5, atol=1e-6)


def test_stored_logits_are_shared_by_augmentations_and_splits(teacher, dataset) -> None:
    both = host_teacher.augmentation_logits(teacher, dataset, Augmentation(pad=0, flip=True))

    def fail(*_: Any) -> np.ndarray:
        raise AssertionError("computed again")

    silent = teacher._replace(compute=fail)
    plain = host_teacher.augmentation_logits(silent, dataset, Augmentation(pad=0, flip=False))
    np.testing.assert_array_equal(plain[0], both[0])
    np.testing.assert_array_equal(host_teacher.split_logits(silent, dataset, "train"), both[0])
    with pytest.raises(AssertionError, match="computed again"):  # another teacher
        host_teacher.split_logits(silent._replace(key="other"), dataset, "train")


@pytest.mark.parametrize("name", ["none", "flip", "shift"])
def test_logits_of_a_split_are_averaged_over_deployment_views(teacher, dataset, name) -> None:
    chosen, images = views(name, flip=True), dataset.test.images
    by_view = [linear_logits(np.asarray(apply_view(images, view))) for view in chosen]
    logits = host_teacher.averaged_logits(teacher, dataset, "test", chosen)
    np.testing.assert_allclose(logits, np.mean(by_view, axis=0), rtol=1e-5, atol=1e-5)
    # A teacher that is given as logits has no other views.
    given = teacher._replace(
        reads_images=False, key="given", compute=lambda *_: np.ones((COUNT, CLASSES), np.float32)
    )
    logits = host_teacher.averaged_logits(given, dataset, "test", chosen)
    np.testing.assert_array_equal(logits, 1)


def test_name_of_an_augmentation_is_its_shift() -> None:
    names = [host_teacher.view_name(number, AUGMENTATION) for number in range(18)]
    assert len(set(names)) == 18
    assert names[:3] == ["+1+1", "+1+1m", "+1+0"]
    centre = names.index("+0+0")
    images = random_split().images
    numbers = np.full(COUNT, centre, np.int32)
    unchanged = apply_augmentation(images, numbers, augmentation=AUGMENTATION)
    np.testing.assert_array_equal(unchanged, images)
    assert host_teacher.view_name(0, Augmentation(pad=0, flip=False)) == "+0+0"


def test_teacher_is_cached_where_that_pays(teacher, dataset, capsys) -> None:
    def prepared(epochs: int, cache: str) -> teachers.TeacherSource:
        batches = linear_spec(pad=1, flip=True).batches
        return teachers.prepare_teacher(
            teacher, dataset, device_examples(), batches, epochs=epochs, cache=cache
        )

    assert isinstance(prepared(18, "auto"), CachedTeacher)
    assert "teacher's logits of train, augmentation 18 of 18: 20 images" in capsys.readouterr().out
    assert prepared(17, "auto") is teacher
    assert (
        "in every step, and its logits are not cached: an image has 18" in capsys.readouterr().out
    )
    assert prepared(18, "off") is teacher


def test_several_processes_need_cached_logits(teacher, dataset, monkeypatch) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    batches = linear_spec(pad=1, flip=True).batches
    with pytest.raises(InputError, match=r"not cached: an image has 18 .*--config.data.pad=0"):
        teachers.prepare_teacher(
            teacher, dataset, device_examples(), batches, epochs=2, cache="auto"
        )


def test_damaged_stored_logits_are_computed_again(teacher, dataset) -> None:
    expected = host_teacher.split_logits(teacher, dataset, "test")
    (path,) = (teacher.folder / "logits").glob("*test*")
    path.write_bytes(b"damaged")
    with pytest.warns(RuntimeWarning, match="computed again"):
        again = host_teacher.split_logits(teacher, dataset, "test")
    np.testing.assert_array_equal(again, expected)


def test_placeholder_cannot_be_applied(teacher) -> None:
    with pytest.raises(TypeError, match="not computed in JAX"):
        teacher.model.apply({}, np.zeros((1, 8, 8, 1), np.float32), train=False)
