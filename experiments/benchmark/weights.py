"""Converts kdjax weights to the names and layouts of `networks_torch`; needs numpy only."""

from collections.abc import Mapping

import numpy as np

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
# [h, w, in, out] -> [out, in, h, w] and [in, out] -> [out, in].
_AXES = {4: (3, 2, 0, 1), 2: (1, 0)}


def torch_weights(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays of a PyTorch state dict by name.

    Args:
        arrays: Flax arrays in Flax layout by path, such as `params/stem/Conv_0/kernel`.
    """
    return {_torch_name(path): _torch_layout(array) for path, array in arrays.items()}


def _torch_name(path: str) -> str:
    _, *modules, leaf = path.split("/")
    return ".".join([*modules, _LEAVES[leaf]])


def _torch_layout(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.transpose(_AXES.get(array.ndim, (0,))))
