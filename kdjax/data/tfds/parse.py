"""Parsers of the original files of the four data sets: pure functions of bytes.

A split is a dict of columns; the keys and their order are the feature names of the TFDS builder.
"""

import gzip
import io
import struct
import tarfile
from typing import Any

import numpy as np

from kdjax import errors

Columns = dict[str, Any]

# For each label feature, in the order of the label bytes: the file of its class names.
CIFAR_NAMES = {
    "cifar10": {"label": "batches.meta.txt"},
    "cifar100": {"coarse_label": "coarse_label_names.txt", "label": "fine_label_names.txt"},
}
_CIFAR_FILES = {
    ("cifar10", "train"): tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    ("cifar10", "test"): ("test_batch.bin",),
    ("cifar100", "train"): ("train.bin",),
    ("cifar100", "test"): ("test.bin",),
}


def idx(packed: bytes) -> np.ndarray:
    """Returns the array in a gzipped idx file of bytes, the format of MNIST.

    Args:
        packed: gzip of: two zero bytes, type 8, rank, the big-endian uint32 sizes, the values.

    Returns:
        uint8, with the shape in the header.

    Raises:
        InputError: for another header, or a number of values that does not match it.
    """
    data = gzip.decompress(packed)
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        raise errors.InputError(f"starts with {data[:4]!r}: not an idx file of bytes")
    shape = struct.unpack_from(f">{data[3]}I", data, 4)
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * data[3])
    if values.size != np.prod(shape):
        raise errors.InputError(f"idx file has {values.size} values, but its header says {shape}")
    return values.reshape(shape)


def fashion_mnist(images: bytes, labels: bytes) -> Columns:
    """Returns the columns of one split of Fashion-MNIST.

    Args:
        images: gzipped idx file of [n, 28, 28].
        labels: gzipped idx file of [n].

    Returns:
        `image` uint8 [n, 28, 28, 1] and `label` [n].
    """
    return {"image": idx(images)[..., None], "label": idx(labels)}


def svhn(split: str, mat: bytes) -> Columns:
    """Returns the columns of one split of SVHN.

    Args:
        split: its name, which is part of the ids in TFDS.
        mat: MATLAB file with X uint8 [32, 32, 3, n] and y [n, 1], with 10 for the digit 0.

    Returns:
        `image` uint8 [n, 32, 32, 3], `label` [n] and `id`.
    """
    import scipy.io

    content = scipy.io.loadmat(io.BytesIO(mat))
    labels = content["y"].reshape(-1) % 10
    ids = [f"{split}_{i:06d}" for i in range(len(labels))]
    return {"image": np.moveaxis(content["X"], -1, 0), "label": labels, "id": ids}


def cifar(name: str, split: str, archive: bytes) -> Columns:
    """Returns the columns of one split of CIFAR-10 or CIFAR-100.

    Args:
        name: `cifar10` or `cifar100`.
        split: `train` or `test`.
        archive: tar.gz of the binary version: for each image its label bytes (CIFAR-100: coarse,
            fine), then 3072 bytes [3, 32, 32].

    Returns:
        `image` uint8 [n, 32, 32, 3], `label` [n], for CIFAR-100 `coarse_label` [n], and `id`.
    """
    members = _members(archive, _CIFAR_FILES[name, split])
    keys = tuple(CIFAR_NAMES[name])
    rows = np.frombuffer(b"".join(members), np.uint8).reshape(-1, len(keys) + 3072)
    labels = {key: rows[:, i] for i, key in enumerate(keys)}
    images = rows[:, len(keys) :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    ids = [f"{split}_{i:05d}" for i in range(len(rows))]
    return {"image": images, **labels, "id": ids}


def cifar_class_names(name: str, archive: bytes) -> dict[str, list[str]]:
    """Returns the class names of each label feature of CIFAR-10 or CIFAR-100.

    Args:
        name: `cifar10` or `cifar100`.
        archive: as in `cifar`.
    """
    texts = _members(archive, tuple(CIFAR_NAMES[name].values()))
    return {key: text.decode().split() for key, text in zip(CIFAR_NAMES[name], texts, strict=True)}


def _members(archive: bytes, names: tuple[str, ...]) -> list[bytes]:
    """Returns the contents of the files with these names in any folder of the archive."""
    contents = {}
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        for member in tar:
            file = tar.extractfile(member)
            if file is not None:
                contents[member.name.rsplit("/", 1)[-1]] = file.read()
    return [contents[name] for name in names]
