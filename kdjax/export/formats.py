"""Export formats: StableHLO, which JAX runs, and ONNX, which ONNX Runtime runs.

A model is exported as one function of images that contains the weights.
"""

import contextlib
import io
import logging
import os
import pathlib
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

PLATFORMS = ("cpu", "cuda", "tpu")
# Version of the ONNX operator set: the oldest that expresses every network of `kdjax.models`, so
# that old versions of ONNX Runtime load the file. The logits are those of opset 23 to the bit.
OPSET = 18
IR_VERSION = 8  # of the file format, the one that was current with this operator set
_EQUINOX_MODULES = ("jax2onnx.plugins.equinox", "jax2onnx.plugins.examples")
_SOURCE_FILES = "jax_hlo_source_file_canonicalization_regex"


class Outputs(NamedTuple):
    """Outputs of an exported model.

    Attributes:
        logits: float32 [n, m+1]; the last column is abstention; [n, m] of a teacher.
        label: int32 [n], the most probable class.
        confidence: float32 [n]; higher is more confident.
        accepted: bool [n], confidence >= threshold, and not an outlier.
        gate_score: float32 [n], of a model with a gate; higher is more like the training images.
            None without a gate.
        outlier: bool [n], whether the gate stops the image; None without a gate.
    """

    logits: np.ndarray
    label: np.ndarray
    confidence: np.ndarray
    accepted: np.ndarray
    gate_score: np.ndarray | None = None
    outlier: np.ndarray | None = None


def concatenate(batches: Sequence[Outputs]) -> Outputs:
    """Returns the outputs of several batches of images as those of one."""
    columns = [column for column in zip(*batches, strict=True) if column[0] is not None]
    return Outputs(*map(np.concatenate, columns))


Function = Callable[[jax.Array], tuple[jax.Array, ...]]
Runner = Callable[[np.ndarray], Outputs]


def to_stablehlo(function: Function, image_shape: tuple[int, ...]) -> bytes:
    """Serializes a function by `jax.export`, for `PLATFORMS` and any batch size.

    Args:
        function: uint8 [n, h, w, c] -> the fields of `Outputs`, traceable.
        image_shape: h, w, c.
    """
    (batch,) = jax.export.symbolic_shape("n")
    images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.uint8)
    with _source_names_only():
        exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(images)
        return bytes(exported.serialize())


@contextlib.contextmanager
def _source_names_only() -> Iterator[None]:
    """Removes the folders from the names of source files in the exported module."""
    before = getattr(jax.config, _SOURCE_FILES)
    jax.config.update(_SOURCE_FILES, ".*/")
    try:
        yield
    finally:
        jax.config.update(_SOURCE_FILES, before)


def input_shape(content: bytes) -> tuple[int, ...]:
    """Returns h, w, c of the images for a function written by `to_stablehlo`."""
    return tuple(jax.export.deserialize(bytearray(content)).in_avals[0].shape[1:])


def run_stablehlo(content: bytes) -> Runner:
    """Loads a function written by `to_stablehlo`; it is compiled once for each batch size.

    Raises:
        Exception: of JAX, if its version or the platform cannot load the function.
    """
    exported = jax.export.deserialize(bytearray(content))
    call = jax.jit(exported.call)
    _, *image_shape = exported.in_avals[0].shape
    with _silent_stderr():
        call.lower(jax.ShapeDtypeStruct((1, *image_shape), jnp.uint8))
    return lambda images: Outputs(*jax.device_get(call(images)))


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Discards what XLA writes to the stderr of the process; it raises the same error."""
    saved = os.dup(2)
    with pathlib.Path(os.devnull).open("w") as devnull:
        os.dup2(devnull.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def onnx_available() -> bool:
    """Returns whether the packages of the extra `kdjax[onnx]` are installed."""
    return all(find_spec(name) for name in ("jax2onnx", "onnxruntime"))


def to_onnx(function: Function, image_shape: tuple[int, ...]) -> bytes:
    """Converts a function to an ONNX model with input `images` and the fields of `Outputs`.

    Args:
        function: uint8 [n, h, w, c] -> the fields of `Outputs`, traceable.
        image_shape: h, w, c.
    """
    images = jax.ShapeDtypeStruct(("n", *image_shape), jnp.uint8)
    one_image = jax.ShapeDtypeStruct((1, *image_shape), jnp.uint8)
    count = len(jax.eval_shape(function, one_image))  # more with a gate
    # The layers of jax2onnx rely on rank promotion.
    with (
        _silent_logging(),
        _readable_calls(),
        _without_equinox(),
        jax.numpy_rank_promotion("allow"),
    ):
        from jax2onnx import to_onnx as convert

        model = convert(
            function,
            [images],
            model_name="kdjax",
            opset=OPSET,
            input_names=["images"],
            output_names=list(Outputs._fields[:count]),
        )
    model.ir_version = min(model.ir_version, IR_VERSION)
    # It calls the axis of all views of n images n too; ONNX Runtime infers the shapes itself.
    model.graph.ClearField("value_info")
    return model.SerializeToString()


def _readable_calls() -> contextlib.AbstractContextManager[None]:
    """Returns a context in which jax2onnx 0.13.0 can read functions that call `jax.jit` inside.

    From JAX 0.11 on it cannot: such calls are inlined. Earlier, loops would be as well.
    """
    return jax.disable_jit() if jax.__version_info__ >= (0, 11) else contextlib.nullcontext()


@contextlib.contextmanager
def _without_equinox() -> Iterator[None]:
    """Hides the parts of jax2onnx for Equinox, unless this process has imported it.

    The first conversion imports the parts for all libraries. Those for Equinox, and the examples,
    compile programs when they are imported, which takes several seconds.
    """
    hidden = () if "equinox" in sys.modules else _EQUINOX_MODULES
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # cannot be imported
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)


@contextlib.contextmanager
def _silent_logging() -> Iterator[None]:
    """Discards the messages of jax2onnx about each plugin that it cannot load and each layer."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def conversion_hint(error: BaseException) -> str:
    """Returns what helps against a known failure of `to_onnx`, to follow a message; or nothing.

    jax2onnx 0.13.0 takes the arguments of pooling layers by name only.
    """
    layer = re.search(r"(\w+)Plugin\.get_monkey_patch.* positional argument", str(error))
    return f"; give {layer[1]} its arguments by name, such as window_shape=(2, 2)" if layer else ""


def run_onnx(content: bytes) -> Runner:
    """Loads a function written by `to_onnx` into ONNX Runtime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    names = [name for name in Outputs._fields if name in names]
    return lambda images: Outputs(*session.run(names, {"images": images}))


class Format(NamedTuple):
    """An export format.

    Attributes:
        write: `(function, image_shape) -> content of the file`.
        run: `content of the file -> function of images`.
    """

    write: Callable[[Function, tuple[int, ...]], bytes]
    run: Callable[[bytes], Runner]


STABLEHLO, ONNX = "model.stablehlo", "model.onnx"
FORMATS: Mapping[str, Format] = {
    STABLEHLO: Format(to_stablehlo, run_stablehlo),
    ONNX: Format(to_onnx, run_onnx),
}
