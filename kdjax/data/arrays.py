"""The arrays of one split, as they are decoded and cached, and their pixel statistics."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Arrays:
    """The arrays of one split.

    Attributes:
        images: uint8 [n, h, w, c]; None if the images are left on disk.
        labels: int32 [n].
        moments: int64 [n, 2, c], the sums of x and of x^2 over the pixels of each image.
        class_names: str [m].
    """

    images: Any
    labels: np.ndarray
    moments: np.ndarray
    class_names: np.ndarray


def join(parts: Sequence[Arrays]) -> Arrays:
    """Concatenates splits of one data set.

    Args:
        parts: the splits, in order, at least one.
    """
    if len(parts) == 1:
        return parts[0]

    def concatenated(field: str) -> np.ndarray:
        return np.concatenate([getattr(part, field) for part in parts])

    images = None if parts[0].images is None else concatenated("images")
    return Arrays(images, concatenated("labels"), concatenated("moments"), parts[0].class_names)


def moments(images: np.ndarray) -> np.ndarray:
    """Returns the sums of x and of x^2 over the pixels of each image.

    Args:
        images: uint8 [n, h, w, c].

    Returns:
        int64 [n, 2, c]. The sums are exact, so the statistics of every subset of the images are
        exact too.
    """
    pixels = images.reshape(len(images), -1, images.shape[-1])
    # einsum converts to int64 in blocks; a converted copy would need eight times the memory.
    first = np.einsum("npc->nc", pixels, dtype=np.int64)
    second = np.einsum("npc,npc->nc", pixels, pixels, dtype=np.int64)
    return np.stack([first, second], axis=1)


def statistics(sums: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and standard deviation per channel, in units of full brightness (255).

    mean = S1 / N / 255, std = sqrt(N S2 - S1^2) / N / 255, in exact integers before the root.

    Args:
        sums: int64 [2, c], the sums S1 of x and S2 of x^2 over N pixels.
        count: N.

    Returns:
        (mean, std): float32 [c]; std is 1 for a constant channel.
    """
    first, second = sums.astype(object)  # Python integers, because N S2 can exceed 64 bits
    spread = np.sqrt((count * second - first**2).astype(np.float64))
    mean = first.astype(np.float64) / count / 255
    std = np.where(spread == 0, 1.0, spread / count / 255)
    return mean.astype(np.float32), std.astype(np.float32)
