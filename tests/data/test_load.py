"""Loading of data sets: digits, and small data sets made by the tests."""

import json
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import sklearn.datasets
import tensorflow_datasets as tfds
from support import stand_ins

from kdjax import data, errors
from kdjax.data import arrays
from kdjax.data.tfds import builders, decode, prepare


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


def test_take_first_keeps_the_first_examples_and_the_statistics(digits: data.Dataset) -> None:
    few = data.take_first(digits, 150)
    for split, full_split, size in zip(
        splits_of(few), splits_of(digits), (150, 144, 144, 150), strict=True
    ):
        np.testing.assert_array_equal(split.images, full_split.images[:size])
        np.testing.assert_array_equal(split.labels, full_split.labels[:size])
    assert few.mean is digits.mean


@pytest.mark.parametrize("limit", [0, -1])
def test_take_first_of_less_than_one_example_raises(digits: data.Dataset, limit: int) -> None:
    with pytest.raises(errors.InputError, match=f"limit={limit}: must be at least 1"):
        data.take_first(digits, limit)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("cifar", "cifar10"),
        ("CIFAR100", "cifar100"),
        ("digit", "digits"),
        ("smallset", "small_set"),
    ],
)
def test_unknown_name_raises_with_the_nearest_name(
    name: str, nearest: str, small_set: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    small_set({"train": 3})
    start = time.monotonic()
    with pytest.raises(errors.InputError, match=f"did you mean '{nearest}'"):
        data.load(name, data_dir=tmp_path)
    assert time.monotonic() - start < 2


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
        ({"data_dir": "gs://bucket/tfds"}, "must be a local directory"),
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


def test_directory_without_dataset_info_raises(tmp_path: pathlib.Path) -> None:
    (tmp_path / "digits" / "1.0.0").mkdir(parents=True)
    with pytest.raises(errors.InputError, match="is incomplete: remove it"):
        data.load("digits", data_dir=tmp_path)


class NeedsTensorflow(tfds.core.GeneratorBasedBuilder):
    """A builder with arrays instead of Pillow images, which TFDS encodes with TensorFlow."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> Any:
        features = {
            "image": tfds.features.Image(shape=(4, 4, 3)),
            "label": tfds.features.ClassLabel(num_classes=2),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[Any]:
        yield 0, {"image": np.zeros((4, 4, 3), np.uint8), "label": 0}


def test_builder_that_needs_tensorflow_raises_with_the_package(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(errors.InputError, match=r"needs a package: .*tensorflow"):
        data.load("needs_tensorflow", data_dir=tmp_path)


def failing_after(count: int, failure: BaseException) -> Callable[..., Iterator[Any]]:
    pillow_examples = builders.pillow_examples

    def generate(columns: Any) -> Iterator[Any]:
        for i, example in enumerate(pillow_examples(columns)):
            if i == count:
                raise failure
            yield example

    return generate


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError("no space left on device")])
def test_interrupted_preparation_leaves_no_files(
    failure: BaseException, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(builders, "pillow_examples", failing_after(5, failure))
        with pytest.raises((KeyboardInterrupt, errors.InputError)):
            data.load("digits", data_dir=tmp_path)
    assert list((tmp_path / "digits").iterdir()) == []
    assert len(data.load("digits", data_dir=tmp_path).test.labels) == 359


def test_preparation_writes_nothing_to_stdout(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data.load("digits", data_dir=tmp_path)
    output = capsys.readouterr()
    assert output.out == ""
    assert "digits" in output.err


def test_concurrent_preparation_of_the_same_data_set(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pillow_examples = builders.pillow_examples

    def prepare_meanwhile(columns: Any) -> Iterator[Any]:
        monkeypatch.setattr(builders, "pillow_examples", pillow_examples)
        prepare.prepare("digits", tmp_path, [])
        return pillow_examples(columns)

    monkeypatch.setattr(builders, "pillow_examples", prepare_meanwhile)
    assert len(data.load("digits", data_dir=tmp_path).test.labels) == 359


def test_cached_data_set_is_neither_prepared_nor_decoded_again(
    digits: data.Dataset, data_dir: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, function in ((decode, "split"), (prepare, "prepare")):
        monkeypatch.delattr(module, function)
    again = data.load("digits", data_dir=data_dir)
    np.testing.assert_array_equal(again.train.images, digits.train.images)
    np.testing.assert_array_equal(again.dev.labels, digits.dev.labels)
    assert again.class_names == digits.class_names
