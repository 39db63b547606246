"""Fixtures: small TFDS data sets, and small replacements of the original files."""

import hashlib
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import PIL.Image
import pytest
import tensorflow_datasets as tfds
from support import stand_ins

from kdjax.data.tfds import sources


@pytest.fixture
def small_set(tmp_path: pathlib.Path) -> Callable[..., stand_ins.Pairs]:
    """Returns a function that prepares random images in `tmp_path` and returns the splits."""

    def prepare(
        sizes: dict[str, int],
        *,
        version: str = "1.0.0",
        shape: tuple[int, ...] = (12, 10, 3),
        seed: int = 0,
        features: dict[str, Any] | None = None,
    ) -> stand_ins.Pairs:
        pairs = {
            split: stand_ins.random_pair(n, shape, 3, seed + i)
            for i, (split, n) in enumerate(sizes.items())
        }

        class SmallSet(tfds.core.GeneratorBasedBuilder, skip_registration=True):
            VERSION = tfds.core.Version(version)

            def _info(self) -> Any:
                image = tfds.features.Image(shape=shape)
                label = tfds.features.ClassLabel(names=["ant", "bee", "cat"])
                return tfds.core.DatasetInfo(
                    builder=self,
                    features=tfds.features.FeaturesDict(
                        features or {"image": image, "label": label}
                    ),
                )

            def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
                return {split: self._generate_examples(*pair) for split, pair in pairs.items()}

            def _generate_examples(self, images: Any, labels: Any) -> Iterator[Any]:
                for i, (image, label) in enumerate(zip(images, labels, strict=True)):
                    values = {
                        "image": PIL.Image.fromarray(image),
                        "label": label,
                        "id": str(i),
                        "other": label,
                    }
                    yield i, {key: values[key] for key in self.info.features}

        SmallSet(data_dir=tmp_path).download_and_prepare(file_format="array_record")
        return pairs

    return prepare


@pytest.fixture
def encoded_set(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., pathlib.Path]:
    """Returns a function that prepares encoded images with any labels; it returns `data_dir`.

    The splits train and test hold the same records.
    """
    monkeypatch.setattr(tfds.features.ClassLabel, "encode_example", lambda self, label: label)
    root = tmp_path / "data"

    def prepare(
        records: Sequence[tuple[bytes, int]], *, shape: tuple[int, ...], classes: int
    ) -> pathlib.Path:
        class EncodedSet(tfds.core.GeneratorBasedBuilder, skip_registration=True):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self) -> Any:
                features = {
                    "image": tfds.features.Image(shape=shape),
                    "label": tfds.features.ClassLabel(num_classes=classes),
                }
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features)
                )

            def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
                return {split: self._generate_examples() for split in ("train", "test")}

            def _generate_examples(self) -> Iterator[Any]:
                for i, (image, label) in enumerate(records):
                    yield i, {"image": image, "label": label}

        EncodedSet(data_dir=root).download_and_prepare(file_format="array_record")
        return root

    return prepare


@pytest.fixture
def originals(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Callable[..., Any]:
    """Returns a function that replaces a data set's original files by small ones at `base_url`."""
    monkeypatch.setattr(sources, "DEBIAN", tmp_path / ".no-debian-package-here")

    def stand_in(
        name: str, base_url: str = "http://127.0.0.1:9/"
    ) -> tuple[stand_ins.Pairs, dict[str, bytes]]:
        pairs, files = stand_ins.ORIGINALS[name]()
        infos = {
            base_url + file: tfds.core.download.checksums.UrlInfo(
                len(content), hashlib.sha256(content).hexdigest(), file
            )
            for file, content in files.items()
        }
        monkeypatch.setattr(tfds.builder_cls(name), "url_infos", infos)
        return pairs, files

    return stand_in
