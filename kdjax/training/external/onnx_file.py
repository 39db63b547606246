"""A classifier in an ONNX file, run by ONNX Runtime on uint8 images."""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from kdjax.errors import InputError, unknown_name_error

NHWC, NCHW = "nhwc", "nchw"
DTYPES: Mapping[str, type] = {
    "tensor(uint8)": np.uint8,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
}
# Execution providers in order of preference; those that are not installed are left out.
PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
BATCH_SIZE = 256  # images in a call, where the model does not fix it
SMALLEST_PROBABILITY = 1e-30  # the logarithm of smaller ones would be infinite in float32
# Outputs of a model that kdjax has exported; its logits have an abstention column.
KDJAX_OUTPUTS = ("logits", "label", "confidence", "accepted")


@dataclasses.dataclass(frozen=True)
class InputFormat:
    """How uint8 images become the input of a model: (x / scale - mean) / std.

    Attributes:
        layout: `nhwc` or `nchw`.
        channels: `rgb`, as in the data sets, or `bgr`.
        scale: by which pixels are divided.
        mean: per channel, or one for all; in units of the scaled pixels.
        std: the same.
    """

    layout: str = NHWC
    channels: str = "rgb"
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    @property
    def keeps_pixels(self) -> bool:
        """Whether pixel values are passed on unchanged."""
        return self.scale == 1 and set(self.mean) == {0.0} and set(self.std) == {1.0}


def convert_images(images: np.ndarray, fmt: InputFormat, dtype: Any) -> np.ndarray:
    """Returns the input of a model.

    Args:
        images: uint8 [n, h, w, c].
        fmt: of the input.
        dtype: of the input.
    """
    if fmt.channels == "bgr":
        images = images[..., ::-1]
    if not fmt.keeps_pixels:
        mean, std = (np.asarray(values, np.float32) for values in (fmt.mean, fmt.std))
        images = (images.astype(np.float32) / np.float32(fmt.scale) - mean) / std
    if fmt.layout == NCHW:
        images = images.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(images, dtype)


def file_content(path: pathlib.Path) -> list[pathlib.Path]:
    """Returns the files that a model consists of: its own, and those of its external weights.

    Args:
        path: of a file that ONNX Runtime can open.
    """
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    names = {
        entry.value
        for tensor in _tensors(graph)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return [path, *(path.parent / name for name in sorted(names))]


def _tensors(graph: Any) -> Iterator[Any]:
    """Yields the tensors of an ONNX graph and of the graphs within it."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


def to_logits(outputs: np.ndarray) -> np.ndarray:
    """Returns outputs [..., m] as float32 logits: probabilities are replaced by their logarithm."""
    outputs = np.asarray(outputs, np.float32)
    return log_probabilities(outputs) if are_probabilities(outputs) else outputs


def log_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """Returns the logarithm of probabilities, float32, finite also for those that are 0."""
    return np.log(np.maximum(np.float32(probabilities), np.float32(SMALLEST_PROBABILITY)))


def are_probabilities(outputs: np.ndarray) -> bool:
    """Returns whether every row is a distribution: not negative, with a sum of 1 when rounded."""
    return bool((outputs >= 0).all() and _sum_to(1, outputs))


def check_logits(outputs: np.ndarray, source: str) -> None:
    """Raises for values that are neither logits nor probabilities, such as those of a sigmoid.

    As logits, values between 0 and 1 would be nearly uniform distributions.

    Args:
        outputs: [..., m].
        source: of the values, for messages.

    Raises:
        InputError: for values from 0 to 1, or rows with a sum of 100, that are no distributions.
    """
    if are_probabilities(outputs) or outputs.min() < 0:
        return
    if outputs.max() <= 1 or _sum_to(100, outputs):
        sums = outputs.sum(axis=-1, dtype=np.float64)
        raise InputError(
            f"{source}: its values lie between {outputs.min():.4g} and {outputs.max():.4g}, and "
            f"the sum over classes between {sums.min():.4g} and {sums.max():.4g}: must be logits, "
            "or probabilities with a sum of 1; of other shares, such as those of a sigmoid, give "
            "the logarithm"
        )


def _sum_to(total: float, outputs: np.ndarray) -> bool:
    """Returns whether all rows have a sum within 5 %, as probabilities with two decimals do."""
    return bool(np.allclose(outputs.sum(axis=-1, dtype=np.float64), total, rtol=0.05, atol=0))


class OnnxClassifier:
    """An ONNX file with one input of images and an output of one value for each class.

    Attributes:
        path: the file.
        dtype: of the input.
        input_shape: of one image, None where the model leaves it open.
        metadata: texts by name.
        output: name of the output that is used.
        abstention: whether the last column of this output is abstention.
    """

    def __init__(self, path: pathlib.Path, output: str = "") -> None:
        """Opens the file.

        Args:
            path: the file.
            output: name of the output; empty: `logits`, or the only one that can be meant.

        Raises:
            InputError: if the file is missing or damaged, is not a classifier of images, or has
                several outputs of which none is named; or without onnxruntime.
        """
        self.path = path
        self._session = _open_session(path)
        entry = _only_input(self._session.get_inputs(), path)
        self._input_name, self.dtype = entry.name, DTYPES[entry.type]
        batch, *shape = entry.shape
        self._fixed_batch = batch if isinstance(batch, int) else None
        self.input_shape = tuple(size if isinstance(size, int) else None for size in shape)
        self.metadata = dict(self._session.get_modelmeta().custom_metadata_map)
        names = [entry.name for entry in self._session.get_outputs()]
        self.output = _chosen_output(self._session.get_outputs(), output, path)
        self.abstention = self.output == "logits" and set(KDJAX_OUTPUTS) <= set(names)

    def layouts(self, image_shape: tuple[int, ...]) -> list[str]:
        """Returns the layouts in which images [h, w, c] fit the input."""
        height, width, channels = image_shape
        shapes = {NHWC: (height, width, channels), NCHW: (channels, height, width)}
        return [
            layout
            for layout, shape in shapes.items()
            if all(
                size in (None, needed) for size, needed in zip(self.input_shape, shape, strict=True)
            )
        ]

    def run(self, images: np.ndarray, fmt: InputFormat) -> np.ndarray:
        """Returns the outputs, float32 [n, k], for images uint8 [n, h, w, c].

        Raises:
            InputError: if ONNX Runtime fails, or the output is not [n, k].
        """
        size = self._fixed_batch or BATCH_SIZE
        parts = [
            self._run_batch(images[start : start + size], fmt)
            for start in range(0, len(images), size)
        ]
        outputs = np.concatenate(parts)
        return outputs[:, :-1] if self.abstention else outputs

    def _run_batch(self, images: np.ndarray, fmt: InputFormat) -> np.ndarray:
        count = len(images)
        if self._fixed_batch and count < self._fixed_batch:
            images = np.pad(images, [(0, self._fixed_batch - count), (0, 0), (0, 0), (0, 0)])
        values = convert_images(images, fmt, self.dtype)
        try:
            (outputs,) = self._session.run([self.output], {self._input_name: values})
        except Exception as error:  # the exceptions of ONNX Runtime have no common base class
            reason = " ".join(str(error).split())
            raise InputError(f"{str(self.path)!r} cannot be run: {reason}") from error
        outputs = np.asarray(outputs, np.float32)
        if outputs.ndim > 2 and set(outputs.shape[2:]) == {1}:
            outputs = outputs.reshape(outputs.shape[:2])
        if outputs.ndim != 2 or len(outputs) != len(images):
            raise InputError(
                f"{str(self.path)!r}: its output {self.output!r} has shape {outputs.shape} for "
                f"{len(images)} images, not [images, classes]"
            )
        return outputs[:count]


def _open_session(path: pathlib.Path) -> Any:
    if not path.is_file():
        raise InputError(f"teacher.onnx {str(path)!r}: there is no such file")
    try:
        import onnx  # noqa: F401  (of `file_content`)
        import onnxruntime
    except ImportError as error:
        raise InputError(
            f"teacher.onnx {str(path)!r} needs {error.name}: pip install 'kdjax[onnx]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised too
    available = onnxruntime.get_available_providers()
    providers = [name for name in PROVIDERS if name in available]
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # the exceptions of ONNX Runtime have no common base class
        reason = " ".join(str(error).split())
        raise InputError(f"teacher.onnx {str(path)!r} cannot be read: {reason}") from error


def _only_input(inputs: Sequence[Any], path: pathlib.Path) -> Any:
    described = ", ".join(f"{entry.name} {entry.type} {entry.shape}" for entry in inputs)
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in DTYPES:
        raise InputError(
            f"teacher.onnx {str(path)!r} is not a classifier of images: its inputs are "
            f"{described}, and one of uint8 or float with four axes is needed"
        )
    return inputs[0]


def _chosen_output(outputs: Sequence[Any], name: str, path: pathlib.Path) -> str:
    names = [entry.name for entry in outputs]
    if name:
        if name not in names:
            raise unknown_name_error("teacher.onnx_output", name, names)
        return name
    floating = [entry.name for entry in outputs if _may_be_logits(entry)]
    if "logits" in floating:
        return "logits"
    if len(floating) != 1:
        raise InputError(
            f"teacher.onnx {str(path)!r} has {len(floating)} outputs that may be logits; name one "
            f"of {', '.join(names)} with --config.teacher.onnx_output"
        )
    return str(floating[0])


def _may_be_logits(entry: Any) -> bool:
    return entry.type in DTYPES and entry.type != "tensor(uint8)" and len(entry.shape) != 1
