"""TFDS builders that do not need TensorFlow: the four data sets of the paper, and the digits."""

import functools
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

from kdjax import errors
from kdjax.data import splits
from kdjax.data.tfds import parse, sources

# The original files of each split, and the functions that parse their contents.
FILES: dict[str, dict[str, tuple[str, ...]]] = {
    "fashion_mnist": {
        "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
        "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
    },
    "svhn_cropped": {s: (f"{s}_32x32.mat",) for s in ("train", "test", "extra")},
    "cifar10": dict.fromkeys(("train", "test"), ("cifar-10-binary.tar.gz",)),
    "cifar100": dict.fromkeys(("train", "test"), ("cifar-100-binary.tar.gz",)),
}
_PARSERS: dict[str, Callable[..., parse.Columns]] = {
    "fashion_mnist": lambda split, *files: parse.fashion_mnist(*files),
    "svhn_cropped": parse.svhn,
    "cifar10": functools.partial(parse.cifar, "cifar10"),
    "cifar100": functools.partial(parse.cifar, "cifar100"),
}


def create(name: str, root: pathlib.Path, required_splits: Iterable[str]) -> Any:
    """Returns the builder of a data set: one of kdjax for the keys of `FILES`, else that of TFDS.

    Args:
        name: `name` or `name/config` of a data set that TFDS has or that is prepared in `root`.
        root: the TFDS directory.
        required_splits: splits to prepare; SVHN's large `extra` is downloaded only if required.

    Raises:
        InputError: if the data set has no such config.
    """
    if name in FILES:
        return _builder_class(name, "extra" in required_splits)(data_dir=root)
    try:
        return tfds.builder(name, data_dir=root)
    except ValueError as failure:
        raise errors.InputError(str(failure).splitlines()[0]) from failure


def url_infos(name: str, split_names: Iterable[str]) -> dict[str, Any]:
    """Returns the URLs and `UrlInfo` (filename, sha256) of TFDS for the original files.

    Args:
        name: a key of `FILES`.
        split_names: the splits that the files contain.
    """
    filenames = {file for split in split_names for file in FILES[name][split]}
    infos = tfds.builder_cls(name).url_infos
    return {url: info for url, info in infos.items() if info.filename in filenames}


def _builder_class(name: str, extra: bool) -> Any:
    """Returns a subclass of the builder of TFDS that reads the files without TensorFlow."""
    stock: Any = tfds.builder_cls(name)
    present = [split for split in FILES[name] if extra or split != "extra"]

    class Builder(stock, skip_registration=True):  # type: ignore[call-arg]
        name = stock.name

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            infos = url_infos(name, present)
            paths = sources.fetch(name, infos, pathlib.Path(self.data_dir_root), dl_manager)
            if name in parse.CIFAR_NAMES:
                archive = next(iter(paths.values())).read_bytes()
                for key, names in parse.cifar_class_names(name, archive).items():
                    self.info.features[key].names = names
            return {split: self._generate_examples(split, paths) for split in present}

        def _generate_examples(
            self, split: str, paths: dict[str, pathlib.Path]
        ) -> Iterator[tuple[int, parse.Columns]]:
            files = (paths[file].read_bytes() for file in FILES[name][split])
            yield from pillow_examples(_PARSERS[name](split, *files))

    return Builder


class Digits(tfds.core.GeneratorBasedBuilder):
    """The handwritten digits of scikit-learn: 1,797 images of 8 x 8 pixels."""

    VERSION = tfds.core.Version("1.0.0")
    DESCRIPTION = "Handwritten digits of 43 writers, 8 x 8 pixels, from scikit-learn."

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.DESCRIPTION,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1)),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        import sklearn.datasets

        digits = sklearn.datasets.load_digits()
        images = self._change(np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None])
        train, test = splits.stratified_cut(digits.target, 0.2, seed=0)
        return {
            split: self._generate_examples({"image": images[i], "label": digits.target[i]})
            for split, i in (("train", train), ("test", test))
        }

    def _change(self, images: np.ndarray) -> np.ndarray:
        """Returns the images of the data set, before they are cut into splits."""
        return images

    def _generate_examples(self, columns: parse.Columns) -> Iterator[tuple[int, parse.Columns]]:
        return pillow_examples(columns)


class DigitsNoisy(Digits):
    """The digits with noise: in a third of the images, up to 3/4 of the pixels are replaced.

    Most digits are clear and some cannot be read, so a network errs and can tell where. All splits
    have the same distribution of noise.
    """

    VERSION = tfds.core.Version("1.0.0")
    DESCRIPTION = (
        f"{Digits.DESCRIPTION} In a third of the images, drawn at random, 0 to 48 of the 64 pixels "
        "have a random value."
    )

    def _change(self, images: np.ndarray) -> np.ndarray:
        return replace_pixels(images, most=48, one_in=3, seed=0)


def replace_pixels(images: np.ndarray, *, most: int, one_in: int, seed: int) -> np.ndarray:
    """Returns images in which some pixels have a random value.

    An image is changed with probability 1 / `one_in`. The number of its replaced pixels is uniform
    on 0..most; the pixels and their values are uniform too. All are independent of the image.

    Args:
        images: uint8 [n, h, w, 1].
        most: the largest number of replaced pixels, at most h * w.
        one_in: of how many images one is changed, >= 1.
        seed: of all random choices, >= 0.
    """
    pixels = images[0].size
    # As in `splits`, the raw stream of the generator: it is the same in all versions of NumPy.
    raw = np.random.PCG64(seed).random_raw((len(images), 2 + 2 * pixels))
    draws, ranks, values = np.split(raw, [2, 2 + pixels], axis=1)
    changed = draws[:, :1] % np.uint64(one_in) == 0
    counts = np.where(changed, draws[:, 1:] % np.uint64(most + 1), 0).astype(np.int64)
    replaced = ranks.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable") < counts
    noise = (values >> np.uint64(56)).astype(np.uint8)
    return np.where(replaced, noise, images.reshape(len(images), pixels)).reshape(images.shape)


def pillow_examples(columns: parse.Columns) -> Iterator[tuple[int, parse.Columns]]:
    """Yields (key, example) with Pillow images, which TFDS encodes without TensorFlow.

    The keys are numbered as in the builders of TFDS, so that TFDS shuffles into the same order.

    Args:
        columns: one sequence per feature; `image` is uint8 [n, h, w, c].
    """
    for key, values in enumerate(zip(*columns.values(), strict=True)):
        example = dict(zip(columns, values, strict=True))
        image = example["image"]
        squeezed = image[..., 0] if image.shape[-1] == 1 else image
        yield key, {**example, "image": PIL.Image.fromarray(squeezed)}
