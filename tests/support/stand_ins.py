"""Small files in the formats of the original files of the four data sets, with random images."""

import gzip
import io
import pathlib
import struct
import tarfile

import numpy as np
import scipy.io

from kdjax import data

Pairs = dict[str, tuple[np.ndarray, np.ndarray]]


def random_pair(
    n: int, shape: tuple[int, ...], classes: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns random images uint8 [n, *shape] and labels [n] that cover all classes."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % classes)
    return rng.integers(0, 256, (n, *shape), dtype=np.uint8), labels


def idx_gz(values: np.ndarray) -> bytes:
    """Returns a gzipped idx file, the format of Fashion-MNIST."""
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return gzip.compress(header + values.astype(np.uint8).tobytes())


def mat(images: np.ndarray, labels: np.ndarray) -> bytes:
    """Returns a MATLAB file in the format of SVHN."""
    file = io.BytesIO()
    digits = np.where(labels == 0, 10, labels).astype(np.uint8)
    scipy.io.savemat(file, {"X": images.transpose(1, 2, 3, 0), "y": digits[:, None]})
    return file.getvalue()


def tar_gz(files: dict[str, bytes]) -> bytes:
    """Returns a tar.gz archive with the files in a folder."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"folder/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def cifar_bin(images: np.ndarray, *labels: np.ndarray) -> bytes:
    """Returns a binary file in the format of CIFAR."""
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return np.column_stack([*labels, planes]).astype(np.uint8).tobytes()


def fashion_mnist_files() -> tuple[Pairs, dict[str, bytes]]:
    pairs = {
        "train": random_pair(20, (28, 28, 1), 10, 0),
        "test": random_pair(10, (28, 28, 1), 10, 1),
    }
    files = {}
    for prefix, (images, labels) in zip(("train", "t10k"), pairs.values(), strict=True):
        files[f"{prefix}-images-idx3-ubyte.gz"] = idx_gz(images[..., 0])
        files[f"{prefix}-labels-idx1-ubyte.gz"] = idx_gz(labels)
    return pairs, files


def svhn_cropped_files() -> tuple[Pairs, dict[str, bytes]]:
    sizes = {"train": 20, "test": 10, "extra": 30}
    pairs = {s: random_pair(n, (32, 32, 3), 10, i) for i, (s, n) in enumerate(sizes.items())}
    return pairs, {f"{split}_32x32.mat": mat(*pair) for split, pair in pairs.items()}


def cifar10_files() -> tuple[Pairs, dict[str, bytes]]:
    images, labels = random_pair(20, (32, 32, 3), 10, 0)
    test = random_pair(10, (32, 32, 3), 10, 1)
    batches = {
        f"data_batch_{i + 1}.bin": cifar_bin(images[i::5], labels[i::5]) for i in reversed(range(5))
    }
    names = "\n".join(f"class-{i}" for i in range(10)) + "\n\n"
    archive = {**batches, "test_batch.bin": cifar_bin(*test), "batches.meta.txt": names.encode()}
    return {"train": (images, labels), "test": test}, {"cifar-10-binary.tar.gz": tar_gz(archive)}


def cifar100_files() -> tuple[Pairs, dict[str, bytes]]:
    pairs = {
        "train": random_pair(200, (32, 32, 3), 100, 0),
        "test": random_pair(100, (32, 32, 3), 100, 1),
    }
    archive = {
        f"{split}.bin": cifar_bin(images, labels // 5, labels)
        for split, (images, labels) in pairs.items()
    }
    for kind, count in (("coarse", 20), ("fine", 100)):
        names = "\n".join(f"{kind}_{i}" for i in range(count))
        archive[f"{kind}_label_names.txt"] = names.encode()
    return pairs, {"cifar-100-binary.tar.gz": tar_gz(archive)}


# Data set -> function that returns its splits and its original files.
ORIGINALS = {
    "fashion_mnist": fashion_mnist_files,
    "svhn_cropped": svhn_cropped_files,
    "cifar10": cifar10_files,
    "cifar100": cifar100_files,
}


def write_files(folder: pathlib.Path, files: dict[str, bytes]) -> None:
    """Writes files into a folder, given as name -> content."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def examples(*parts: data.Split | tuple[np.ndarray, np.ndarray]) -> list[tuple[bytes, int]]:
    """Returns the examples of splits, sorted, because TFDS shuffles them."""
    pairs = [(p.images, p.labels) if isinstance(p, data.Split) else p for p in parts]
    return sorted(
        (image.tobytes(), int(label)) for pair in pairs for image, label in zip(*pair, strict=True)
    )
