"""Loading of data sets: digits, and small data sets made by the tests."""

import json
import pathlib
import pwd
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sklearn.datasets
import tensorflow_datasets as tfds
from support import stand_ins

from kdjax import data, errors
from kdjax.data import arrays
from kdjax.data.tfds import decode, prepare


@pytest.fixture(scope="module")
def digits(data_dir: pathlib.Path) -> data.Dataset:
    return data.load("digits", data_dir=data_dir)


def splits_of(dataset: data.Dataset) -> list[data.Split]:
    return [dataset.train, dataset.dev, dataset.calibration, dataset.test]


def test_digits_are_those_of_scikit_learn(digits: data.Dataset) -> None:
    bundled = sklearn.datasets.load_digits()
    expected = np.array([[[round(v * 255 / 16)] for v in row] for row in bundled.data], np.uint8)
    parts = splits_of(digits)
    assert stand_ins.examples(*parts) == stand_ins.examples((expected, bundled.target))
    assert (digits.name, digits.version, digits.num_classes) == ("digits", "1.0.0", 10)
    assert digits.image_shape == (8, 8, 1)
    assert [p.images.dtype for p in parts] == [np.uint8] * 4
    assert [p.labels.dtype for p in parts] == [np.int32] * 4


def test_splits_are_stratified_by_class(digits: data.Dataset) -> None:
    train, dev, calibration, test = (np.bincount(p.labels) for p in splits_of(digits))
    assert [c.sum() for c in (train, dev, calibration, test)] == [1150, 144, 144, 359]
    total = train + dev + calibration + test
    for fraction, count in ((0.08, dev), (0.2, test), (0.72, train + calibration)):
        np.testing.assert_allclose(count, fraction * total, atol=1.6)


def test_mean_and_std_are_computed_on_train_after_the_cuts(digits: data.Dataset) -> None:
    pixels = digits.train.images.astype(np.float64) / 255
    np.testing.assert_allclose(digits.mean, pixels.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(digits.std, pixels.std((0, 1, 2)), rtol=1e-6)


def test_statistics_are_exact_beyond_float32_precision() -> None:
    # A million pixels of 255 and one of 254: the variance 1e-6 is below the precision of float32.
    sums = np.array([[255 * 10**6 + 254], [255**2 * 10**6 + 254**2]])
    mean, std = arrays.statistics(sums, 10**6 + 1)
    np.testing.assert_allclose(std[0] * 255, np.sqrt(10**6) / (10**6 + 1), rtol=1e-6)
    np.testing.assert_allclose(mean[0], 1 - 1 / (10**6 + 1) / 255, rtol=1e-7)


def test_std_of_a_constant_channel_is_one() -> None:
    images = np.full((4, 5, 5, 2), 200, np.uint8)
    mean, std = arrays.statistics(arrays.moments(images).sum(axis=0), images[..., 0].size)
    np.testing.assert_allclose(mean, 200 / 255, rtol=1e-6)
    np.testing.assert_array_equal(std, 1)


def test_tfds_reads_the_prepared_digits(digits: data.Dataset, data_dir: pathlib.Path) -> None:
    source = tfds.data_source("digits", split="test", data_dir=data_dir)
    assert len(source) == len(digits.test.labels)
    np.testing.assert_array_equal(source[3]["image"], digits.test.images[3])


def test_other_seed_and_fraction_cut_the_same_train_split(
    digits: data.Dataset, data_dir: pathlib.Path
) -> None:
    other = data.load("digits", data_dir=data_dir, dev_fraction=0.25, split_seed=1)
    assert len(other.dev.labels) == round(0.25 * 1438)
    np.testing.assert_array_equal(other.test.images, digits.test.images)
    expected = stand_ins.examples(digits.train, digits.dev, digits.calibration)
    assert stand_ins.examples(other.train, other.dev, other.calibration) == expected


def test_default_directory_is_that_of_tfds(
    digits: data.Dataset, data_dir: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    np.testing.assert_array_equal(data.load("digits").dev.images, digits.dev.images)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train_split": "trian"}, "unknown split 'trian': did you mean 'train'"),
        ({"test_split": "valid"}, "unknown split 'valid'"),
        ({"test_split": "train"}, "must not overlap"),
        ({"train_split": "train+train"}, "must not overlap"),
        ({"dev_fraction": 1.0}, "fraction"),
        ({"calibration_fraction": 0.9}, "calibration split of 1294 of 1294"),
        ({"calibration_fraction": 0.0001}, "calibration split of 0 of 1294"),
        ({"calibration_fraction": float("nan")}, "calibration fraction is nan"),
        ({"split_seed": -5}, "split_seed is -5: must be at least 0"),
        ({"data_dir": "gs://bucket/tfds"}, "must be a local directory"),
        ({"data_dir": "~no_such_user/tfds"}, "'~no_such_user/tfds': the home directory is unknown"),
        ({"name": "../digits"}, "unknown data set"),
        ({"name": "mnist/no_such_config"}, "no_such_config"),
        (
            {"name": "imdb_reviews"},
            "not an image-classification data set.*text: Text, label: ClassLabel",
        ),
        ({"name": "cars196"}, r"shape \(None, None, 3\)"),
    ],
)
def test_invalid_arguments_raise_with_one_line(
    arguments: dict[str, Any], message: str, digits: data.Dataset, data_dir: pathlib.Path
) -> None:
    with pytest.raises(errors.InputError, match=message) as raised:
        data.load(**{"name": "digits", "data_dir": data_dir, **arguments})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("arguments", [{"split_seed": -5}, {"dev_fraction": 2.0}])
def test_arguments_are_checked_before_anything_is_written(
    arguments: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    with pytest.raises(errors.InputError):
        data.load("digits", data_dir=tmp_path / "new", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_missing_home_directory_raises_with_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unknown(*_: Any) -> None:
        raise KeyError

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(errors.InputError, match="'~/tensorflow_datasets': the home directory"):
        data.load("digits")


def test_tilde_in_the_directory_is_the_home_directory(
    data_dir: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(data_dir.parent))
    assert data.is_prepared("digits", f"~/{data_dir.name}")


def test_prepared_data_set_has_its_classes_and_image_size(
    small_set: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    pairs = small_set({"train": 30, "validation": 9})
    loaded = data.load(
        "small_set",
        data_dir=tmp_path,
        test_split="validation",
        dev_fraction=0.2,
        calibration_fraction=0.3,
    )
    assert loaded.class_names == ("ant", "bee", "cat")
    assert loaded.image_shape == (12, 10, 3)
    assert [len(p.labels) for p in splits_of(loaded)] == [15, 6, 9, 9]
    assert stand_ins.examples(loaded.test) == stand_ins.examples(pairs["validation"])


def test_plus_joins_splits_into_train(
    small_set: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    pairs = small_set({"train": 12, "extra": 18, "test": 6})
    loaded = data.load("small_set", data_dir=tmp_path, train_split="train+extra")
    assert [len(p.labels) for p in splits_of(loaded)] == [24, 3, 3, 6]
    expected = stand_ins.examples(pairs["train"], pairs["extra"])
    assert stand_ins.examples(*splits_of(loaded)[:3]) == expected


def test_newest_prepared_version_is_read(
    small_set: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    for version, size in (("1.9.0", 4), ("1.10.0", 5), ("1.2.0", 6)):
        small_set({"train": 10, "test": size}, version=version)
    assert len(data.load("small_set", data_dir=tmp_path).test.labels) == 5


def test_other_features_are_ignored(small_set: Callable[..., Any], tmp_path: pathlib.Path) -> None:
    features = {
        "id": tfds.features.Text(),
        "image": tfds.features.Image(shape=(12, 10, 3)),
        "label": tfds.features.ClassLabel(num_classes=3),
    }
    pairs = small_set({"train": 10, "test": 6}, features=features)
    loaded = data.load("small_set", data_dir=tmp_path)
    assert stand_ins.examples(loaded.test) == stand_ins.examples(pairs["test"])
    assert loaded.class_names == ("0", "1", "2")


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"image": tfds.features.Image(shape=(12, 10, 3))}, "and has image: Image"),
        (
            {
                "image": tfds.features.Image(shape=(12, 10, 3)),
                "label": tfds.features.ClassLabel(num_classes=3),
                "other": tfds.features.ClassLabel(num_classes=3),
            },
            "other: ClassLabel",
        ),
        (
            {
                "image": tfds.features.Image(shape=(None, 10, 3)),
                "label": tfds.features.ClassLabel(num_classes=3),
            },
            "one fixed size",
        ),
    ],
)
def test_data_set_without_one_image_and_label_feature_of_fixed_size_raises(
    features: dict[str, Any], message: str, small_set: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    small_set({"train": 10, "test": 5}, features=features)
    with pytest.raises(errors.InputError, match=message):
        data.load("small_set", data_dir=tmp_path)


def test_unlabelled_split_raises(
    small_set: Callable[..., Any], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        stand_ins, "random_pair", lambda n, shape, *_: (np.zeros((n, *shape), np.uint8), [-1] * n)
    )
    small_set({"train": 10, "test": 5})
    with pytest.raises(errors.InputError, match="unlabelled"):
        data.load("small_set", data_dir=tmp_path)


def test_other_file_format_raises(small_set: Callable[..., Any], tmp_path: pathlib.Path) -> None:
    small_set({"train": 10, "test": 5})
    info = tmp_path / "small_set/1.0.0/dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"fileFormat": "tfrecord"}))
    with pytest.raises(errors.InputError, match="is in format tfrecord, must be array_record"):
        data.load("small_set", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("pattern", "content"),
    [
        ("*-train.array_record*", None),
        ("*-train.array_record*", b""),
        ("*-train.array_record*", b"damaged" * 20000),
        ("dataset_info.json", b""),
        ("dataset_info.json", b"{}"),
    ],
)
def test_damaged_data_set_raises_with_its_directory(
    pattern: str, content: bytes | None, small_set: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    small_set({"train": 10, "test": 5})
    (file,) = (tmp_path / "small_set/1.0.0").glob(pattern)
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(errors.InputError, match=r"small_set/1\.0\.0 is damaged: remove it"):
        data.load("small_set", data_dir=tmp_path)


def test_cached_data_set_is_neither_prepared_nor_decoded_again(
    digits: data.Dataset, data_dir: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, function in ((decode, "split"), (prepare, "prepare")):
        monkeypatch.delattr(module, function)
    again = data.load("digits", data_dir=data_dir)
    np.testing.assert_array_equal(again.train.images, digits.train.images)
    np.testing.assert_array_equal(again.dev.labels, digits.dev.labels)
    assert again.class_names == digits.class_names
