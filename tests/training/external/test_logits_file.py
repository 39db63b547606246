"""Files of logits: the index of the images, and the checks of rows, views and classes."""

import dataclasses
import pathlib
import warnings
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from support.commands import ROOT
from support.documents import code_blocks
from support.own_teachers import fit_linear, predict

import kdjax.config
from kdjax import data
from kdjax.data import Dataset
from kdjax.data.augment import Augmentation, apply_augmentation, sample_augmentation
from kdjax.data.batches import BatchSpec
from kdjax.data.records import Records
from kdjax.errors import InputError
from kdjax.training import host_teacher, view_cache
from kdjax.training.external import logits_file, logits_teacher

PLAIN, FLIP, CROP = (
    BatchSpec(batch_size=16, steps_per_epoch=71, order_seed=3, augmentation=Augmentation(*fields))
    for fields in ((0, False), (0, True), (1, True))
)
VIEWS = dataclasses.replace(CROP, views=2)
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def dataset(data_dir: pathlib.Path) -> Dataset:
    return data.load("digits", data_dir=data_dir)


@pytest.fixture(scope="module")
def arrays(dataset: Dataset) -> Arrays:
    """The index of the digits, with the logits of a linear teacher."""
    index = logits_file.index_arrays(dataset)
    return {**index, "logits": predict(dataset, fit_linear(dataset.train), index)}


def fields(path: pathlib.Path) -> Any:
    config = kdjax.config.base()
    config.teacher.logits = str(path)
    return kdjax.config.resolve(config).teacher


def describe(
    path: pathlib.Path, arrays: Arrays, dataset: Dataset, batches: BatchSpec = PLAIN
) -> tuple[dict[str, Any], str]:
    np.savez(path, **arrays)
    return logits_teacher.describe_source(fields(path), batches, dataset)


def test_index_names_every_image_by_its_pixels(dataset, arrays) -> None:
    counts = [len(getattr(dataset, name).labels) for name in logits_file.SPLITS]
    assert arrays["split"].tolist() == [
        name for name, count in zip(logits_file.SPLITS, counts, strict=True) for _ in range(count)
    ]
    dev = arrays["split"] == "dev"
    np.testing.assert_array_equal(arrays["labels"][dev], dataset.dev.labels)
    np.testing.assert_array_equal(arrays["indices"][dev], np.arange(counts[1]))
    assert tuple(arrays["class_names"]) == dataset.class_names
    changed = np.asarray(dataset.dev.images).copy()
    changed[3, 0, 0, 0] ^= 1
    differs = logits_file.image_hashes(changed) != arrays["hashes"][dev]
    assert np.flatnonzero(differs).tolist() == [3]


def test_index_of_images_on_disk_is_the_same(dataset, arrays) -> None:
    images = np.asarray(dataset.train.images)
    records = Records(lambda rows: images[rows], np.arange(len(images)), images.shape[1:])
    train = arrays["split"] == "train"
    np.testing.assert_array_equal(logits_file.image_hashes(records), arrays["hashes"][train])


def test_logits_of_each_split_are_those_of_the_file(dataset, arrays, tmp_path) -> None:
    path = tmp_path / "logits.npz"
    source, note = describe(path, arrays, dataset)
    assert "of the 1,150 training images correctly" in note
    teacher = logits_teacher.host_teacher(source, path, tmp_path, dataset, PLAIN.augmentation)
    assert teacher.splits == logits_file.SPLITS
    for name in teacher.splits:
        rows = np.arange(5, 15)
        logits = teacher.compute(name, None, rows, np.zeros(10, np.int32))
        expected = arrays["logits"][arrays["split"] == name][rows]
        np.testing.assert_array_equal(logits, expected)


def test_view_of_each_augmentation_is_chosen_in_training(dataset, arrays, tmp_path) -> None:
    path = tmp_path / "logits.npz"
    views = np.stack([arrays["logits"], arrays["logits"] + 1])
    source, note = describe(path, {**arrays, "logits": views}, dataset, FLIP)
    assert note.count("%") == 2
    teacher = logits_teacher.host_teacher(source, path, tmp_path, dataset, PLAIN.augmentation)
    numbers = np.array([0, 1, 1, 0], np.int32)
    logits = teacher.compute("train", None, np.arange(4), numbers)
    np.testing.assert_array_equal(logits, arrays["logits"][:4] + np.float32(numbers[:, None]))
    plain = teacher.compute("test", None, np.arange(4), numbers)
    np.testing.assert_array_equal(plain, arrays["logits"][arrays["split"] == "test"][:4])


def test_views_that_the_teacher_does_not_know_are_one_warning(dataset, arrays, tmp_path) -> None:
    path, moved = tmp_path / "logits.npz", permuted(arrays, "logits")["logits"]
    views = [moved] * 18
    views[8:10] = [arrays["logits"]] * 2  # without a shift, and mirrored
    with pytest.warns(RuntimeWarning, match="16 of 18 views are classified near chance, such as"):
        _, note = describe(path, {**arrays, "logits": np.stack(views)}, dataset, CROP)
    assert note.count("%") == 18
    views[9] = moved
    with pytest.raises(InputError, match="view 9 classifies"):
        describe(path, {**arrays, "logits": np.stack(views)}, dataset, CROP)


def test_splits_may_be_bytes(dataset, arrays, tmp_path) -> None:
    changed = {**arrays, "split": arrays["split"].astype(np.bytes_)}
    assert describe(tmp_path / "logits.npz", changed, dataset)[0]["splits"][0] == "train"


@pytest.mark.slow
def test_fixed_views_of_a_file_are_those_of_the_index(dataset, arrays, tmp_path) -> None:
    path, index = tmp_path / "logits.npz", logits_file.view_arrays(dataset, VIEWS, images=True)
    images = index.pop("view_images")
    numbers = sample_augmentation(
        jnp.arange(len(images[1])), seed=3, epoch=1, augmentation=VIEWS.augmentation
    )
    expected = apply_augmentation(
        jnp.asarray(dataset.train.images), numbers, augmentation=VIEWS.augmentation
    )
    np.testing.assert_array_equal(images[1], expected)
    views = {**arrays, **index, "logits": np.stack([arrays["logits"], arrays["logits"] + 1])}
    source, _ = describe(path, views, dataset, VIEWS)
    teacher = logits_teacher.host_teacher(source, path, tmp_path, dataset, VIEWS.augmentation)
    assert teacher.fixed_views and teacher.clean is None
    logits = teacher.compute("train", None, np.arange(4), np.ones(4, np.int32))
    np.testing.assert_array_equal(logits, arrays["logits"][:4] + np.float32(1))


@pytest.mark.parametrize("seed", [2**31, 2**32 - 1])
def test_seeds_that_int32_cannot_hold_have_fixed_views(seed, dataset, arrays, tmp_path) -> None:
    path, batches = tmp_path / "logits.npz", dataclasses.replace(VIEWS, order_seed=seed)
    index = logits_file.view_arrays(dataset, batches, images=False)
    views = {**arrays, **index, "logits": np.stack([arrays["logits"], arrays["logits"] + 1])}
    source, _ = describe(path, views, dataset, batches)
    teacher = logits_teacher.host_teacher(source, path, tmp_path, dataset, batches.augmentation)
    (logits,) = view_cache.host_logits(teacher, dataset, batches, [1])
    np.testing.assert_array_equal(logits, arrays["logits"][arrays["split"] == "train"] + 1)


def test_fixed_views_of_an_earlier_version_are_mirrored_at_random(dataset, arrays, tmp_path):
    path, index = tmp_path / "logits.npz", {"augmentation": [3, 1, 1]}
    views = {**arrays, **index, "logits": np.stack([arrays["logits"], arrays["logits"] + 1])}
    assert describe(path, views, dataset, VIEWS)[0]
    changed = dataclasses.replace(VIEWS.augmentation, flip_mode="alternating")
    alternating = dataclasses.replace(VIEWS, augmentation=changed)
    with pytest.raises(InputError, match=r"the run has 2 .*alternating"):
        describe(path, views, dataset, alternating)


@pytest.mark.parametrize(
    ("index", "views", "message"),
    [
        ({}, 2, "copy 'augmentation' from the index of this config"),
        ({"augmentation": [4, 1, 1]}, 2, "order_seed 4, .* run has 2 with order_seed 3, data.pad"),
        ({"augmentation": [3, 1, 1]}, 3, "has logits of 3 views with order_seed 3"),
        (
            {"augmentation": [3, 1, 1, 1]},
            2,
            r"data.flip True \(alternating\), and the run has 2 .* data.flip True \(random\); ",
        ),
        ({"augmentation": [3, 1]}, 2, r"augmentation \(2,\) is not that of the index"),
    ],
)
def test_fixed_views_of_another_run_are_refused(
    index, views, message, dataset, arrays, tmp_path
) -> None:
    changed = {**arrays, "logits": np.stack([arrays["logits"]] * views), **index}
    with pytest.raises(InputError, match=message):
        describe(tmp_path / "logits.npz", changed, dataset, VIEWS)


def test_view_without_augmentation_is_known(dataset, arrays, tmp_path) -> None:
    path = tmp_path / "logits.npz"
    with pytest.warns(RuntimeWarning, match="teach all 2 augmentations"):
        source, _ = describe(path, arrays, dataset, VIEWS)
    teacher = logits_teacher.host_teacher(source, path, tmp_path, dataset, VIEWS.augmentation)
    assert (teacher.clean, teacher.fixed_views) == (0, False)
    source = {**source, "views": 18}
    teacher = logits_teacher.host_teacher(source, path, tmp_path, dataset, CROP.augmentation)
    assert teacher.clean is not None
    assert host_teacher.view_name(teacher.clean, CROP.augmentation) == "+0+0"


def test_logits_of_plain_images_teach_all_augmentations_with_a_warning(
    dataset, arrays, tmp_path
) -> None:
    path = tmp_path / "logits.npz"
    with pytest.warns(RuntimeWarning, match="teach all 2 augmentations"):
        source, _ = describe(path, arrays, dataset, FLIP)
    teacher = logits_teacher.host_teacher(source, path, tmp_path, dataset, PLAIN.augmentation)
    logits = teacher.compute("train", None, np.arange(4), np.array([0, 1, 1, 0]))
    np.testing.assert_array_equal(logits, arrays["logits"][:4])


def test_sample_of_the_images_uses_the_rows_of_the_full_file(dataset, arrays, tmp_path) -> None:
    path, limited = tmp_path / "logits.npz", data.limit_examples(dataset, 64, 0)
    source, _ = describe(path, arrays, limited)
    teacher = logits_teacher.host_teacher(source, path, tmp_path, limited, PLAIN.augmentation)
    linear = fit_linear(dataset.train)
    for name in teacher.splits:
        logits = teacher.compute(name, None, np.arange(64), np.zeros(64, np.int32))
        expected = linear.logits(np.asarray(getattr(limited, name).images))
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-3)


def test_columns_are_mapped_by_class_names(dataset, arrays, tmp_path) -> None:
    order = np.roll(np.arange(10), 3)
    changed = {"logits": arrays["logits"][:, order], "class_names": arrays["class_names"][order]}
    path = tmp_path / "logits.npz"
    source, _ = describe(path, {**arrays, **changed}, dataset)
    teacher = logits_teacher.host_teacher(source, path, tmp_path, dataset, PLAIN.augmentation)
    logits = teacher.compute("train", None, np.arange(4), np.zeros(4, np.int32))
    np.testing.assert_array_equal(logits, arrays["logits"][:4])


def test_train_alone_with_indices_is_enough(dataset, arrays, tmp_path) -> None:
    train = arrays["split"] == "train"
    only = {name: arrays[name][train] for name in ("logits", "indices", "labels")}
    source, _ = describe(tmp_path / "logits.npz", only, dataset)
    assert source["splits"] == ["train"]


def test_probabilities_become_log_probabilities(dataset, arrays, tmp_path) -> None:
    exponent = np.exp(arrays["logits"] - arrays["logits"].max(axis=1, keepdims=True))
    probabilities = exponent / exponent.sum(axis=1, keepdims=True)
    path = tmp_path / "logits.npz"
    source, _ = describe(path, {**arrays, "logits": probabilities}, dataset)
    teacher = logits_teacher.host_teacher(source, path, tmp_path, dataset, PLAIN.augmentation)
    logits = teacher.compute("train", None, np.arange(9), np.zeros(9, np.int32))
    np.testing.assert_allclose(logits, np.log(probabilities[:9]), rtol=1e-4, atol=1e-4)


def permuted(arrays: Arrays, *names: str) -> Arrays:
    """Returns arrays with the rows of some of them permuted alike."""
    order = np.random.default_rng(0).permutation(len(arrays["hashes"]))
    return {key: value[order] if key in names else value for key, value in arrays.items()}


def without(arrays: Arrays, *names: str) -> Arrays:
    return {key: value for key, value in arrays.items() if key not in names}


def one_label(arrays: Arrays) -> Arrays:
    labels = arrays["labels"].copy()
    labels[7] = (labels[7] + 1) % 10
    return {**arrays, "labels": labels}


def with_nan(arrays: Arrays) -> Arrays:
    logits = arrays["logits"].copy()
    logits[11, 3] = np.nan
    return {**arrays, "logits": logits}


def other_cut(arrays: Arrays) -> Arrays:
    """Returns the arrays as if the index had been written for other cuts."""
    return {**arrays, "split": np.roll(arrays["split"], 200)}


ALL = ("logits", "hashes", "labels", "split", "indices")
BAD: dict[str, tuple[Callable[[Arrays], Arrays], str]] = {
    "shuffled rows": (lambda a: permuted(a, *ALL), "in another order than the images"),
    "shuffled logits": (lambda a: permuted(a, "logits"), "near chance: its rows are of other"),
    "shuffled logits, no hashes": (
        lambda a: without(permuted(a, "logits"), "hashes"),
        "near chance: its rows are of other",
    ),
    "shuffled indices": (
        lambda a: without(permuted(a, *ALL), "hashes"),
        "must be in the order of the index",
    ),
    "shuffled second view": (
        lambda a: {**a, "logits": np.stack([a["logits"], permuted(a, "logits")["logits"]])},
        "view 1 classifies",
    ),
    "class order": (
        lambda a: {**without(a, "class_names"), "logits": np.roll(a["logits"], 1, axis=1)},
        "set --config.teacher.class_names=9,0,1",
    ),
    "no logits": (lambda a: without(a, "logits"), "has no array 'logits': it holds class_names"),
    "no index": (lambda a: without(a, "hashes", "indices"), "neither 'hashes' nor 'indices'"),
    "integers": (lambda a: {**a, "logits": a["labels"]}, "not float"),
    "rows cut off": (lambda a: {**a, "logits": a["logits"][:9]}, "for 9 rows of logits"),
    "other labels": (one_label, "image 7 of train has label"),
    "not finite": (with_nan, "not finite, the first is row 11 of view 0"),
    "views": (
        lambda a: {**a, "logits": np.stack([a["logits"]] * 3)},
        "3 views, and an image has 2",
    ),
    "other data": (
        lambda a: {**a, "hashes": np.full_like(a["hashes"], "0")},
        "no logits for 1,150 of 1,150 train images",
    ),
    "other cuts": (other_cut, "written with this config"),
    "no train": (lambda a: {**a, "split": np.full(len(a["split"]), "dev")}, "no row of .* train"),
    "columns": (
        lambda a: {**without(a, "class_names"), "logits": a["logits"][:, :9]},
        "9 outputs for the 10 classes",
    ),
    "class names": (lambda a: {**a, "class_names": a["class_names"][:9]}, "9 class_names for 10"),
    "one text": (lambda a: {**a, "class_names": "a,b"}, r"class_names: <U3 \(\) is not a list"),
    "numbers": (
        lambda a: {**a, "split": np.zeros(len(a["split"]))},
        "split: float64 .* not a list",
    ),
    "label names": (
        lambda a: {**a, "labels": a["labels"].astype(str)},
        "labels of <U.*: must be integers",
    ),
    "unknown split": (
        lambda a: {**a, "split": np.where(a["split"] == "dev", "devel", a["split"])},
        "unknown .*split 'devel': did you mean 'dev'",
    ),
    "objects": (
        lambda a: {**a, "class_names": a["class_names"].astype(object)},
        "class_names holds Python objects",
    ),
    "shares": (
        lambda a: {**a, "logits": (1 / (1 + np.exp(-a["logits"]))).astype(np.float32)},
        "must be logits, or probabilities",
    ),
    "too large": (
        lambda a: {**a, "logits": np.where(a["logits"] > 9, 1e300, np.float64(a["logits"]))},
        "values that are not finite",
    ),
    "bytes": (
        lambda a: {**a, "split": np.full(len(a["split"]), b"\xff")},
        "split: not text in UTF-8",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_file_is_refused_in_one_line(dataset, arrays, tmp_path, case) -> None:
    change, message = BAD[case]
    with warnings.catch_warnings(), pytest.raises(InputError, match=message) as error:
        warnings.simplefilter("ignore")
        describe(tmp_path / "logits.npz", change(arrays), dataset, FLIP)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [None, b"no archive", b"PK\x03\x04 damaged"])
def test_file_that_is_missing_or_damaged_is_one_line(tmp_path, content) -> None:
    path = tmp_path / "logits.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"teacher.logits .*logits.npz") as error:
        logits_file.read(path)
    assert "\n" not in str(error.value)


def test_duplicate_images_keep_their_own_rows(dataset, arrays, tmp_path) -> None:
    images = np.asarray(dataset.train.images).copy()
    images[10] = images[4]
    twice = dataclasses.replace(dataset, train=data.Split(images, dataset.train.labels))
    hashes = arrays["hashes"].copy()
    hashes[10] = hashes[4]
    content = logits_file.LogitsFile(
        arrays["logits"][None], hashes, None, arrays["split"], None, ()
    )
    rows = logits_file.rows_of(content, "train", twice.train, "x")
    assert rows is not None
    np.testing.assert_array_equal(rows, np.arange(len(images)))


def test_code_of_the_page_writes_a_file_that_is_accepted(
    dataset, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("index.npz", **logits_file.index_arrays(dataset, images=True))
    code, _ = code_blocks((ROOT / "docs" / "how-to" / "own-teacher.md").read_text(), "py")
    exec(code, {"predict": fit_linear(dataset.train).logits})
    source, note = logits_teacher.describe_source(fields(tmp_path / "logits.npz"), FLIP, dataset)
    assert (source["views"], source["splits"]) == (2, list(logits_file.SPLITS))
    assert note.count("%") == 2
