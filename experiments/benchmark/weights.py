"""From kdjax's names and layouts of weights to those of `networks_torch`; numpy alone."""

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
    """Returns the state dict's arrays by name.

    Args:
        arrays: by path, such as `params/stem/Conv_0/kernel`; layouts as Flax has them.
    """
    return {_name(path): _layout(array) for path, array in arrays.items()}


def _name(path: str) -> str:
    _, *modules, leaf = path.split("/")
    return ".".join([*modules, _LEAVES[leaf]])


def _layout(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.transpose(_AXES.get(array.ndim, (0,))))
