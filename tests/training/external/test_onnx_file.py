"""How images become the input of an ONNX file, and its outputs logits."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from kdjax.errors import InputError
from kdjax.training.external import onnx_file
from kdjax.training.external.onnx_file import InputFormat, OnnxClassifier

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), np.uint8)
MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_every_pixel_follows_the_equation(dtype, layout, channels):
    fmt = InputFormat(layout, channels, 255.0, MEAN, STD)
    converted = onnx_file.convert_images(IMAGES, fmt, dtype)
    assert converted.dtype == dtype and converted.flags.c_contiguous
    for n, y, x, c in np.ndindex(IMAGES.shape):
        source = IMAGES[n, y, x, 2 - c if channels == "bgr" else c]
        expected = (source / 255 - MEAN[c]) / STD[c]
        found = converted[n, y, x, c] if layout == "nhwc" else converted[n, c, y, x]
        assert found == pytest.approx(expected, abs=2e-3 if dtype == np.float16 else 1e-6)


def test_pixels_that_are_kept_have_every_value():
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    converted = onnx_file.convert_images(every, InputFormat(), np.uint8)
    np.testing.assert_array_equal(converted, every)
    assert InputFormat().keeps_pixels and not InputFormat(scale=255.0).keeps_pixels
    assert InputFormat(mean=(0.0,) * 3, std=(1.0,) * 3).keeps_pixels


def test_probabilities_become_finite_logarithms_and_logits_stay():
    logits = np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32)
    np.testing.assert_array_equal(onnx_file.to_logits(logits), logits)
    found = onnx_file.to_logits(softmax(logits, axis=1))
    np.testing.assert_allclose(found, log_softmax(logits, axis=1), rtol=1e-5)
    certain = onnx_file.to_logits(np.array([[0.0, 1.0], [1.0, 0.0]]))
    assert np.all(np.isfinite(certain)) and certain.dtype == np.float32


@pytest.mark.parametrize(
    ("rows", "are"),
    [
        ([[0.25, 0.75], [1, 0]], True),
        ([[0.5, 0.5005]], True),  # rounded, as of float16
        ([[0.33, 0.33, 0.33]], True),  # rounded to two decimals
        ([[0.5, 0.6]], False),
        ([[1.5, -0.5]], False),
        ([[0.25, 0.75], [2, 3]], False),
    ],
)
def test_outputs_are_probabilities_if_every_row_is_a_distribution(rows, are):
    assert onnx_file.are_probabilities(np.array(rows)) is are


@pytest.mark.parametrize(
    "values", [[[0.9, 0.3], [0.2, 0.1]], [[0.0, 0.0]], [[90, 10], [25, 75]], [[0.4, 0.5], [1, 0]]]
)
def test_shares_that_are_no_probabilities_are_refused(values):
    with pytest.raises(InputError, match=r"^teacher x: .* must be logits, or probabilities"):
        onnx_file.check_logits(np.array(values, np.float32), "teacher x")


@pytest.mark.parametrize("values", [[[0.25, 0.75]], [[3, 2.0]], [[-0.1, 0.2]], [[0.5, 1.5]]])
def test_logits_and_probabilities_are_not_refused(values):
    onnx_file.check_logits(np.array(values, np.float32), "teacher x")


@dataclasses.dataclass
class Session:
    """A stand-in for a session of ONNX Runtime that returns the means of the channels."""

    batch: int | str
    shape: tuple = (4, 6, 3)
    output: object = None
    calls: list = dataclasses.field(default_factory=list)

    def get_inputs(self):
        return [SimpleNamespace(name="x", type="tensor(float)", shape=[self.batch, *self.shape])]

    def get_outputs(self):
        return [SimpleNamespace(name="logits", type="tensor(float)", shape=[self.batch, 3])]

    def get_modelmeta(self):
        return SimpleNamespace(custom_metadata_map={"author": "A"})

    def run(self, names, inputs):
        (values,) = inputs.values()
        self.calls.append(len(values))
        return [values.mean(axis=(1, 2)) if self.output is None else self.output(values)]


@pytest.fixture
def classifier(tmp_path, monkeypatch):
    """Returns a function from a session to its classifier."""
    onnxruntime = pytest.importorskip("onnxruntime")
    (tmp_path / "net.onnx").touch()

    def make(session):
        monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: session)
        return OnnxClassifier(tmp_path / "net.onnx")

    return make


@pytest.mark.parametrize(("batch", "calls"), [("n", [5]), (2, [2, 2, 2]), (5, [5]), (8, [8])])
def test_images_are_padded_to_a_fixed_batch(classifier, batch, calls):
    session = Session(batch)
    model = classifier(session)
    found = model.run(IMAGES, InputFormat())
    np.testing.assert_allclose(found, IMAGES.mean(axis=(1, 2)), rtol=1e-5)
    assert session.calls == calls and model.metadata == {"author": "A"}


def test_many_images_are_run_in_batches(classifier):
    session = Session("n")
    images = np.repeat(IMAGES, 60, axis=0)  # 300
    assert classifier(session).run(images, InputFormat()).shape == (300, 3)
    assert session.calls == [onnx_file.BATCH_SIZE, 300 - onnx_file.BATCH_SIZE]


def test_outputs_with_empty_axes_are_flattened_and_others_refused(classifier):
    pooled = Session("n", output=lambda values: values.mean(axis=(1, 2))[:, :, None, None])
    assert classifier(pooled).run(IMAGES, InputFormat()).shape == (5, 3)
    maps = Session("n", output=lambda values: values)
    with pytest.raises(InputError, match=r"has shape \(5, 4, 6, 3\) for 5 images, not \[images"):
        classifier(maps).run(IMAGES, InputFormat())


def test_error_of_the_runtime_is_one_line(classifier):
    def fail(values):
        raise RuntimeError("Got invalid dimensions\n for input")

    with pytest.raises(InputError, match=r"cannot be run: Got invalid dimensions for input$"):
        classifier(Session("n", output=fail)).run(IMAGES, InputFormat())


@pytest.mark.parametrize(
    ("shape", "layouts"),
    [
        ((4, 6, 3), ["nhwc"]), ((3, 4, 6), ["nchw"]), (("h", "w", "c"), ["nhwc", "nchw"]),
        ((None, None, 3), ["nhwc"]), ((5, 5, 5), []),
    ],
)  # fmt: skip
def test_layouts_are_those_that_fit_the_images(classifier, shape, layouts):
    assert classifier(Session("n", shape=shape)).layouts((4, 6, 3)) == layouts
