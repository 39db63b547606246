"""Parsers of the original files, on files written by the tests."""

import gzip

import numpy as np
import pytest
from support import stand_ins

from kdjax import errors
from kdjax.data.tfds import parse


@pytest.mark.parametrize("shape", [(7,), (3, 4), (2, 5, 3)])
def test_idx_returns_the_array_that_was_written(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.testing.assert_array_equal(parse.idx(stand_ins.idx_gz(values)), values)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0",  # floats
        b"\0\0\x08\x01\0\0\0\x05\1\2\3\4",  # one value too few
        b"\0\0\x08\x01\0\0\0\x01\1\2",  # one too many
    ],
)
def test_invalid_idx_file_raises(content: bytes) -> None:
    with pytest.raises(errors.InputError, match="idx"):
        parse.idx(gzip.compress(content))


def test_svhn_label_ten_is_the_digit_zero() -> None:
    images, labels = stand_ins.random_pair(12, (32, 32, 3), 10, seed=0)
    columns = parse.svhn("extra", stand_ins.mat(images, labels))
    np.testing.assert_array_equal(columns["image"], images)
    np.testing.assert_array_equal(columns["label"], labels)
    assert columns["id"][:2] == ["extra_000000", "extra_000001"]


def test_cifar10_keeps_the_order_of_its_files() -> None:
    pairs, files = stand_ins.cifar10_files()
    columns = parse.cifar("cifar10", "train", files["cifar-10-binary.tar.gz"])
    order = np.concatenate([np.arange(20)[i::5] for i in range(5)])
    np.testing.assert_array_equal(columns["image"], pairs["train"][0][order])
    np.testing.assert_array_equal(columns["label"], pairs["train"][1][order])


def test_cifar100_has_coarse_and_fine_labels() -> None:
    pairs, files = stand_ins.cifar100_files()
    (archive,) = files.values()
    columns = parse.cifar("cifar100", "test", archive)
    np.testing.assert_array_equal(columns["label"], pairs["test"][1])
    np.testing.assert_array_equal(columns["coarse_label"], pairs["test"][1] // 5)
    names = parse.cifar_class_names("cifar100", archive)
    assert (names["coarse_label"][19], names["label"][99]) == ("coarse_19", "fine_99")
