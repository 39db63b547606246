"""Images that stay on disk until they are asked for."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Records:
    """Images that are indexed as an array of uint8[n, h, w, c], and read by `np.asarray`.

    `records[rows]` are fewer images, still unread, for a slice or an array of rows.
    """

    read: Callable[[np.ndarray], np.ndarray]  # places int[k] -> uint8[k, h, w, c]; thread-safe
    places: np.ndarray
    image_shape: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of images, height, width and channels."""
        return len(self.places), *self.image_shape

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, rows: slice | np.ndarray) -> "Records":
        return dataclasses.replace(self, places=self.places[rows])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.read(self.places), dtype)
