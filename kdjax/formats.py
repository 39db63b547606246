"""The forms in which a model is taken away: StableHLO, which needs JAX, and ONNX, which does not.

The model is one function on images, with its weights inside.
"""

import contextlib
import io
import logging
import os
import pathlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

PLATFORMS = ("cpu", "cuda", "tpu")
OPSET = 23  # of ONNX
_SOURCE_FILES = "jax_hlo_source_file_canonicalization_regex"


class Outputs(NamedTuple):
    """What a model makes of images.

    Attributes:
        logits: float32 [n, m+1], the last column abstention.
        label: int32 [n], the most probable class.
        confidence: float32 [n].
        accepted: bool [n], whether the confidence reaches the threshold.
    """

    logits: np.ndarray
    label: np.ndarray
    confidence: np.ndarray
    accepted: np.ndarray


Function = Callable[[jax.Array], tuple[jax.Array, ...]]
Runner = Callable[[np.ndarray], Outputs]


def to_stablehlo(function: Function, image_shape: tuple[int, ...]) -> bytes:
    """Returns a function as what `jax.export.deserialize` reads, for `PLATFORMS` and any batch.

    Args:
        function: uint8 [n, h, w, c] -> the fields of `Outputs`, traceable.
        image_shape: h, w, c.
    """
    (batch,) = jax.export.symbolic_shape("n")
    images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.uint8)
    with _without_folders():
        exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(images)
        return bytes(exported.serialize())


@contextlib.contextmanager
def _without_folders() -> Iterator[None]:
    """Keeps the exporting machine's folders out of the names of source files in the module."""
    before = getattr(jax.config, _SOURCE_FILES)
    jax.config.update(_SOURCE_FILES, ".*/")
    try:
        yield
    finally:
        jax.config.update(_SOURCE_FILES, before)


def run_stablehlo(content: bytes) -> Runner:
    """Returns the function that `to_stablehlo` wrote, compiled once for every batch size.

    Raises:
        Exception: of JAX's, whatever keeps this version of it, or this platform, from loading it.
    """
    exported = jax.export.deserialize(bytearray(content))
    call = jax.jit(exported.call)
    _, *image_shape = exported.in_avals[0].shape
    with _muted():
        call.lower(jax.ShapeDtypeStruct((1, *image_shape), jnp.uint8))
    return lambda images: Outputs(*jax.device_get(call(images)))


@contextlib.contextmanager
def _muted() -> Iterator[None]:
    """Keeps XLA, which writes past Python, from the process's stderr: it raises as well."""
    saved = os.dup(2)
    with pathlib.Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def onnx_at_hand() -> bool:
    """Returns whether the packages of `pip install kdjax[onnx]` are installed."""
    return all(find_spec(name) for name in ("jax2onnx", "onnxruntime"))


def to_onnx(function: Function, image_shape: tuple[int, ...]) -> bytes:
    """Returns a function as an ONNX model with the input `images` and the fields of `Outputs`.

    Args:
        function: uint8 [n, h, w, c] -> the fields of `Outputs`, traceable.
        image_shape: h, w, c.
    """
    images = jax.ShapeDtypeStruct(("n", *image_shape), jnp.uint8)
    # jax2onnx's own layers lean on rank promotion.
    with _quiet(), jax.numpy_rank_promotion("allow"):
        from jax2onnx import to_onnx as convert

        model = convert(
            function,
            [images],
            model_name="kdjax",
            opset=OPSET,
            input_names=["images"],
            output_names=list(Outputs._fields),
        )
    return model.SerializeToString()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences jax2onnx, which reports each plugin that it cannot load and each layer it meets."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def run_onnx(content: bytes) -> Runner:
    """Returns the function that `to_onnx` wrote, run by ONNX Runtime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda images: Outputs(*session.run(list(Outputs._fields), {"images": images}))


class Format(NamedTuple):
    """How a model is written, and run again: functions above."""

    write: Callable[[Function, tuple[int, ...]], bytes]
    run: Callable[[bytes], Runner]


STABLEHLO, ONNX = "model.stablehlo", "model.onnx"
FORMATS: Mapping[str, Format] = {
    STABLEHLO: Format(to_stablehlo, run_stablehlo),
    ONNX: Format(to_onnx, run_onnx),
}
