"""One split as arrays: what is decoded once and cached."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Arrays:
    """A split's images with what is worth knowing about them.

    `images` uint8[n, h, w, c], or None where they stay on disk, `labels` int32[n], `moments`
    int64[n, 2, c]: the sums of x and of x^2 over the pixels of each image, `class_names` str[m].
    """

    images: Any
    labels: np.ndarray
    moments: np.ndarray
    class_names: np.ndarray


def join(parts: Sequence[Arrays]) -> Arrays:
    """Returns several splits of one set as a single one.

    Args:
        parts: the splits, in order.
    """
    if len(parts) == 1:
        return parts[0]

    def joined(column: str) -> np.ndarray:
        return np.concatenate([getattr(part, column) for part in parts])

    images = None if parts[0].images is None else joined("images")
    return Arrays(images, joined("labels"), joined("moments"), parts[0].class_names)


def moments(images: np.ndarray) -> np.ndarray:
    """Returns the sums of x and of x^2 over the pixels of each image.

    Args:
        images: uint8[n, h, w, c].

    Returns:
        int64[n, 2, c]; exact, so that the statistics of any subset of the images are too.
    """
    pixels = images.reshape(len(images), -1, images.shape[-1])
    # einsum widens to int64 piece by piece; a converted copy would be eight times the images.
    first = np.einsum("npc->nc", pixels, dtype=np.int64)
    second = np.einsum("npc,npc->nc", pixels, pixels, dtype=np.int64)
    return np.stack([first, second], axis=1)


def statistics(sums: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and standard deviation per channel, in units of full brightness (255).

    mean = S1 / N / 255, std = sqrt(N S2 - S1^2) / N / 255: exact in integers up to the root.

    Args:
        sums: int64[2, c], the sums S1 of x and S2 of x^2 over N pixels.
        count: N.

    Returns:
        (mean, std): float32[c]; std is 1 for a channel that never changes.
    """
    first, second = sums.astype(object)  # Python's integers, because N S2 does not fit in 64 bits
    spread = np.sqrt((count * second - first**2).astype(np.float64))
    mean = first.astype(np.float64) / count / 255
    std = np.where(spread == 0, 1.0, spread / count / 255)
    return mean.astype(np.float32), std.astype(np.float32)
