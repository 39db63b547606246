"""Weights from a safetensors file: names, shapes, and errors that name every mismatch."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict
from support.commands import ROOT
from support.documents import code_blocks

from kdjax.errors import InputError
from kdjax.models import weights
from kdjax.models.alexnet import SMALL_LAYERS, AlexNet

SHAPE = (8, 8, 1)
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def model() -> Any:
    return AlexNet(num_outputs=3, width=2, layers=SMALL_LAYERS[:1], normalize=True)


@pytest.fixture(scope="module")
def variables(model: Any) -> Any:
    return dict(jax.jit(lambda: model.init(jax.random.key(1), jnp.zeros((1, *SHAPE)), False))())


@pytest.fixture(scope="module")
def arrays(variables: Any) -> Arrays:
    return {name: np.asarray(leaf) for name, leaf in flatten_dict(variables, sep=".").items()}


def test_file_gives_back_the_variables_and_metadata(model, variables, arrays, tmp_path) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file(arrays, path, metadata={"class_names": "a,b,c"})
    jax.tree.map(np.testing.assert_array_equal, weights.load(path, model, SHAPE), variables)
    assert weights.read(path).metadata == {"class_names": "a,b,c"}


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name.replace(".", "/"),
        lambda name: name.partition(".")[2],  # without the collection
        lambda name: name.partition(".")[2].replace(".", "/"),
    ],
)
def test_names_have_dots_or_slashes_and_the_collection_may_be_left_out(
    variables, arrays, rename
) -> None:
    renamed = {rename(name): array for name, array in arrays.items()}
    loaded = weights.assign(variables, renamed, "file")
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_other_dtypes_are_converted(model, arrays, tmp_path, dtype) -> None:
    path = tmp_path / "weights.safetensors"
    cast = {name: array.astype(dtype) for name, array in arrays.items()}
    safetensors.numpy.save_file(cast, path)
    loaded = weights.load(path, model, SHAPE)
    for name, leaf in flatten_dict(loaded, sep=".").items():
        assert leaf.dtype == np.float32
        np.testing.assert_array_equal(leaf, cast[name].astype(np.float32))


def replaced(arrays: Arrays, name: str, change: Callable[[np.ndarray], Any]) -> Arrays:
    return {**arrays, name: change(arrays[name])}


KERNEL = "params.Conv_0.kernel"
BAD: dict[str, tuple[Callable[[Arrays], Arrays], str]] = {
    "missing": (lambda a: {n: x for n, x in a.items() if n != KERNEL}, f"1 missing: {KERNEL}$"),
    "unknown": (lambda a: {**a, "x": np.zeros(2)}, "1 that it does not have: x$"),
    "misspelt": (
        lambda a: {n.replace("0.kernel", "0.kernle"): x for n, x in a.items()},
        r"did you mean params\.\w+\.kernel",
    ),
    "shape": (lambda a: replaced(a, KERNEL, lambda x: x[:1]), r"shape \(1, 3, 1, 2\), not \(3, 3"),
    "order of PyTorch": (
        lambda a: replaced(a, KERNEL, lambda x: x.transpose(3, 2, 0, 1)),
        "the order of PyTorch: transpose it",
    ),
    "not finite": (lambda a: replaced(a, KERNEL, lambda x: x * np.nan), "not finite"),
    "many": (lambda a: {}, r"7 missing: .*, \.\.\.$"),
}


@pytest.mark.parametrize("case", BAD)
def test_mismatch_is_one_line(variables, arrays, case) -> None:
    change, message = BAD[case]
    with pytest.raises(InputError, match=message) as error:
        weights.assign(variables, change(arrays), "weights.safetensors")
    assert "\n" not in str(error.value) and "'weights.safetensors'" in str(error.value)


@pytest.mark.parametrize("content", [None, b"", b"not safetensors at all"])
def test_file_that_is_missing_or_damaged_is_one_line(tmp_path: pathlib.Path, content: Any) -> None:
    path = tmp_path / "weights.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"weights\.safetensors") as error:
        weights.read(path)
    assert "\n" not in str(error.value)


def test_code_of_the_page_writes_a_file_that_fits(
    model, variables, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, code = code_blocks((ROOT / "docs" / "how-to" / "own-teacher.md").read_text(), "py")
    exec(code, {"variables": variables})
    loaded = weights.load("teacher.safetensors", model, SHAPE)
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
