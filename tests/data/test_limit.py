"""Random samples of the splits of a data set, of limited size."""

import dataclasses
import pathlib

import numpy as np
import pytest

from kdjax import data, errors


@pytest.fixture(scope="module")
def digits(data_dir: pathlib.Path) -> data.Dataset:
    return data.load("digits", data_dir=data_dir)


def splits_of(dataset: data.Dataset) -> list[data.Split]:
    return [dataset.train, dataset.dev, dataset.calibration, dataset.test]


def test_limit_draws_a_sample_of_each_split_and_keeps_the_statistics(digits: data.Dataset) -> None:
    few = data.limit_examples(digits, 40, seed=0)
    for name in ("train", "dev", "calibration", "test"):
        split, full_split = getattr(few, name), getattr(digits, name)
        assert len(split.labels) == 40
        rows = rows_in(full_split, split)
        assert rows.tolist() == sorted(set(rows.tolist()))
        np.testing.assert_array_equal(split.labels, full_split.labels[rows])
        if name != "calibration":
            quotas = 40 * np.bincount(full_split.labels) / len(full_split.labels)
            assert (np.abs(np.bincount(split.labels) - quotas) < 1).all()
    assert few.mean is digits.mean


def rows_in(full_split: data.Split, split: data.Split) -> np.ndarray:
    """Returns the row in `full_split` of each image of `split`."""
    rows = {image.tobytes(): row for row, image in enumerate(np.asarray(full_split.images))}
    return np.array([rows[image.tobytes()] for image in np.asarray(split.images)])


def test_limit_of_a_data_set_sorted_by_class_has_all_classes(digits: data.Dataset) -> None:
    order = np.argsort(digits.train.labels, kind="stable")
    ordered = data.Split(digits.train.images[order], digits.train.labels[order])
    few = data.limit_examples(dataclasses.replace(digits, train=ordered), 10, seed=0)
    assert few.train.labels.tolist() == list(range(10))


def test_limit_depends_on_the_seed_only(digits: data.Dataset) -> None:
    first, again, other = (data.limit_examples(digits, 30, seed) for seed in (0, 0, 1))
    for split, same, different in zip(*map(splits_of, (first, again, other)), strict=True):
        np.testing.assert_array_equal(split.images, same.images)
        assert not np.array_equal(split.images, different.images)


def test_limit_above_the_size_of_a_split_keeps_it(digits: data.Dataset) -> None:
    few = data.limit_examples(digits, 359, seed=0)
    assert few.test is digits.test and few.dev is digits.dev
    assert len(few.train.labels) == 359


@pytest.mark.parametrize(
    ("limit", "seed", "message"),
    [
        (0, 0, "limit=0: must be at least 1"),
        (-1, 0, "limit=-1: must be at least 1"),
        (5, -1, "split_seed is -1: must be at least 0"),
    ],
)
def test_limit_and_seed_out_of_range_raise(
    limit: int, seed: int, message: str, digits: data.Dataset
) -> None:
    with pytest.raises(errors.InputError, match=message):
        data.limit_examples(digits, limit, seed)
