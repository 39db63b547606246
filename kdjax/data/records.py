"""Images on disk that are read on access."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Records:
    """Images on disk, indexed like an array uint8 [n, h, w, c]; `np.asarray` reads them.

    Indexing with a slice or an array of rows returns `Records`, without reading.

    Attributes:
        read: record numbers int [k] -> images uint8 [k, h, w, c]; thread-safe.
        numbers: int [n], the record number of each image.
        image_shape: h, w, c.
    """

    read: Callable[[np.ndarray], np.ndarray]
    numbers: np.ndarray
    image_shape: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of images, height, width and channels."""
        return len(self.numbers), *self.image_shape

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, rows: slice | np.ndarray) -> "Records":
        return dataclasses.replace(self, numbers=self.numbers[rows])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.read(self.numbers), dtype)
