"""A folder of drawn pictures, and small listings of files that only their names matter for."""

import pathlib
from collections.abc import Callable

import numpy as np
import PIL.Image
import pytest
from support import pictures


@pytest.fixture(scope="session")
def album(shared_folder: Callable[..., pathlib.Path]) -> pathlib.Path:
    """Four class folders of 12 pictures in mixed sizes and modes, and five broken files."""

    def draw(folder: pathlib.Path) -> None:
        pictures.make_folder(folder, count=12)

    return shared_folder("album", draw)


@pytest.fixture
def make_files(tmp_path: pathlib.Path) -> Callable[..., pathlib.Path]:
    """Returns a function that writes a different small picture for each name in a new folder."""

    def make(*names: str, root: str = "pictures") -> pathlib.Path:
        folder = tmp_path / root
        for seed, name in enumerate(names):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
            PIL.Image.fromarray(pixels).save(path)
        return folder

    return make
