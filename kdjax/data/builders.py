"""TFDS builders that need no TensorFlow to prepare: the four sets of the paper, and the digits."""

import functools
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

from kdjax import errors
from kdjax.data import parse, sources, splits

# The original files of each split, and what makes columns of their contents.
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


def create(name: str, root: pathlib.Path, wanted: Iterable[str]) -> Any:
    """Returns the TFDS builder of a set: the project's own where it has one.

    Args:
        name: a name that TFDS knows or that is prepared in `root`, `name` or `name/config`.
        root: the TFDS directory.
        wanted: splits that are asked for; SVHN's large `extra` is fetched only then.

    Raises:
        InputError: if the set has no such config.
    """
    if name in FILES:
        return _builder_class(name, "extra" in wanted)(data_dir=root)
    try:
        return tfds.builder(name, data_dir=root)
    except ValueError as failure:
        raise errors.InputError(str(failure).splitlines()[0]) from failure


def url_infos(name: str, split_names: Iterable[str]) -> dict[str, Any]:
    """Returns URL to TFDS's `UrlInfo` (filename, sha256) of the original files.

    Args:
        name: a set in `FILES`.
        split_names: the splits whose files are meant.
    """
    wanted = {file for split in split_names for file in FILES[name][split]}
    known = tfds.builder_cls(name).url_infos
    return {url: info for url, info in known.items() if info.filename in wanted}


def _builder_class(name: str, extra: bool) -> Any:
    """The stock builder, name, version and features, with readers that need no TensorFlow."""
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
    """scikit-learn's bundled handwritten digits: 1,797 images of 8 x 8 pixels."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Handwritten digits of 43 writers, 8 x 8 pixels, from scikit-learn.",
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
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
        train, test = splits.stratified_cut(digits.target, 0.2, seed=0)
        return {
            split: self._generate_examples({"image": images[i], "label": digits.target[i]})
            for split, i in (("train", train), ("test", test))
        }

    def _generate_examples(self, columns: parse.Columns) -> Iterator[tuple[int, parse.Columns]]:
        return pillow_examples(columns)


def pillow_examples(columns: parse.Columns) -> Iterator[tuple[int, parse.Columns]]:
    """Yields (key, example) with Pillow images, which TFDS encodes without TensorFlow.

    The keys count up as the stock builders' do, so that TFDS shuffles into the same order.

    Args:
        columns: one sequence per feature; `image` is uint8[n, h, w, c].
    """
    for key, values in enumerate(zip(*columns.values(), strict=True)):
        example = dict(zip(columns, values, strict=True))
        image = example["image"]
        squeezed = image[..., 0] if image.shape[-1] == 1 else image
        yield key, {**example, "image": PIL.Image.fromarray(squeezed)}
