"""Teachers in ONNX files: layouts, dtypes, scales, classes, the check on dev, bad files."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import onnx
import pytest
from support.own_teachers import FLOAT, UINT8, Linear, class_metadata, fit_linear, write_onnx

import kdjax.config
from kdjax import data
from kdjax.data import Dataset
from kdjax.errors import InputError
from kdjax.runtime import atomic_io
from kdjax.training.external import onnx_file, onnx_teacher
from kdjax.training.external.onnx_file import InputFormat, OnnxClassifier, convert_images


@pytest.fixture(scope="module")
def dataset(data_dir: pathlib.Path) -> Dataset:
    return data.load("digits", data_dir=data_dir)


@pytest.fixture(scope="module")
def linear(dataset: Dataset) -> Linear:
    return fit_linear(dataset.train)


def fields(path: pathlib.Path, **changes: Any) -> Any:
    """Returns `config.teacher` with an ONNX file and other fields."""
    config = kdjax.config.base()
    config.teacher.update({"onnx": str(path), **changes})
    return kdjax.config.resolve(config).teacher


def logits_of(path: pathlib.Path, dataset: Dataset, **changes: Any) -> np.ndarray:
    """Returns the logits of the test split, as a run gets them."""
    source, _ = onnx_teacher.describe_source(fields(path, **changes), dataset)
    teacher = onnx_teacher.host_teacher(source, path, path.parent)
    images, count = np.asarray(dataset.test.images), len(dataset.test.labels)
    return teacher.compute("test", images, np.arange(count), np.zeros(count, np.int32))


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ({"dtype": UINT8}, {}),
        ({"dtype": UINT8, "shape": ("n", 1, 8, 8)}, {}),
        ({"dtype": UINT8, "shape": (16, 8, 8, 1)}, {}),  # a fixed batch, with a partial last one
        ({"dtype": FLOAT, "scale": 255}, {}),
        ({"dtype": FLOAT, "shape": ("n", 1, 8, 8)}, {"input_scale": 1.0}),
        ({"dtype": FLOAT, "shape": ("n", "c", "h", "w"), "scale": 255}, {"input_layout": "nhwc"}),
        ({"dtype": UINT8, "outputs": ("features", "logits")}, {}),
        ({"dtype": UINT8, "outputs": ("a", "b")}, {"onnx_output": "b"}),
    ],
)
def test_logits_are_those_of_the_model(dataset, linear, tmp_path, options, changes) -> None:
    path = write_onnx(tmp_path / "teacher.onnx", linear, **options)
    expected = linear.logits(np.asarray(dataset.test.images))
    np.testing.assert_allclose(logits_of(path, dataset, **changes), expected, rtol=1e-4, atol=1e-3)


def test_abstention_of_an_exported_student_is_left_out(dataset, linear, tmp_path) -> None:
    student = Linear(np.c_[linear.kernel, linear.kernel[:, :1]], np.r_[linear.bias, np.float32(9)])
    names = ("label", "confidence", "accepted", "logits")
    path = write_onnx(tmp_path / "teacher.onnx", student, dtype=UINT8, outputs=names)
    expected = linear.logits(np.asarray(dataset.test.images))
    np.testing.assert_allclose(logits_of(path, dataset), expected, rtol=1e-4, atol=1e-3)


def test_probabilities_become_log_probabilities(dataset, linear, tmp_path) -> None:
    path = write_onnx(tmp_path / "teacher.onnx", linear, dtype=UINT8, softmax=True)
    logits = logits_of(path, dataset)
    expected = np.float64(linear.logits(np.asarray(dataset.test.images)))
    expected -= np.log(np.exp(expected).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-3)


def test_images_are_scaled_normalized_and_transposed_as_the_format_says() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    mean, std = np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.6, 0.7])
    fmt = InputFormat("nchw", "bgr", 255.0, tuple(mean), tuple(std))
    expected = ((images[..., ::-1] / 255 - mean) / std).transpose(0, 3, 1, 2)
    converted = convert_images(images, fmt, np.float32)
    assert converted.dtype == np.float32
    np.testing.assert_allclose(converted, expected, rtol=1e-5)


def test_named_normalizations_stand_for_their_numbers(dataset, linear, tmp_path) -> None:
    mean, std = (float(value[0]) for value in (dataset.mean, dataset.std))
    # The model gets (x / 255 - mean) / std, and undoes it.
    shifted = Linear(linear.kernel * 255 * std, linear.bias + 255 * mean * linear.kernel.sum(0))
    path = write_onnx(tmp_path / "teacher.onnx", shifted)
    expected = linear.logits(np.asarray(dataset.test.images))
    for given in ({"input_mean": "data"}, {"input_mean": str(mean), "input_std": (std,)}):
        logits = logits_of(path, dataset, **given)
        np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-2)


ORDER = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]


@pytest.mark.parametrize("by_field", [False, True])
def test_classes_are_mapped_by_name(dataset, linear, tmp_path, by_field) -> None:
    names = [dataset.class_names[index] for index in ORDER]
    metadata = None if by_field else class_metadata(names)
    shuffled = linear.with_order(ORDER)
    path = write_onnx(tmp_path / "teacher.onnx", shuffled, dtype=UINT8, metadata=metadata)
    changes = {"class_names": ",".join(names)} if by_field else {}
    expected = linear.logits(np.asarray(dataset.test.images))
    np.testing.assert_allclose(logits_of(path, dataset, **changes), expected, rtol=1e-4, atol=1e-3)


def test_teacher_of_more_classes_is_reduced_to_those_of_the_data_set(
    dataset, linear, tmp_path
) -> None:
    more = Linear(
        np.c_[np.full((64, 1), 1e-3, np.float32), linear.kernel], np.r_[np.float32(99), linear.bias]
    )
    metadata = {"names": str(dict(enumerate(["other", *dataset.class_names])))}
    path = write_onnx(tmp_path / "teacher.onnx", more, dtype=UINT8, metadata=metadata)
    expected = linear.logits(np.asarray(dataset.test.images))
    np.testing.assert_allclose(logits_of(path, dataset), expected, rtol=1e-4, atol=1e-3)


def test_check_says_how_accurate_the_teacher_is_and_how_it_reads_images(
    dataset, linear, tmp_path
) -> None:
    path = write_onnx(tmp_path / "teacher.onnx", linear, dtype=UINT8)
    _, note = onnx_teacher.describe_source(fields(path), dataset)
    correct = (linear.logits(np.asarray(dataset.dev.images)).argmax(1) == dataset.dev.labels).mean()
    assert f"{100 * correct:.1f} % of {len(dataset.dev.labels)} dev images" in note
    assert "uint8 nhwc rgb, pixels unchanged" in note


# A wrong setting -> the model that needs the right one, and the fields that are named.
CAUSES = {
    "scale": ({"scale": 1.0}, "--config.teacher.input_scale=1 "),
    "class order": ({"dtype": UINT8}, "--config.teacher.class_names=3,1,4,0,5,9"),
    "scale and class order": ({"scale": 1.0}, "class_names=3,1,4,0,5,9"),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_cause_of_an_accuracy_near_chance_is_named(dataset, linear, tmp_path, cause) -> None:
    options, flag, model = *CAUSES[cause], linear
    if "class order" in cause:
        model = linear.with_order(ORDER)
    path = write_onnx(tmp_path / "teacher.onnx", model, **options)
    with pytest.raises(InputError, match="near chance") as error:
        onnx_teacher.describe_source(fields(path), dataset)
    assert flag in str(error.value) and "\n" not in str(error.value)


def coloured(dataset: Dataset, linear: Linear) -> tuple[Dataset, Linear]:
    """Returns digits as red images with noise in blue, and their classifier."""
    rng = np.random.default_rng(0)

    def split(name: str) -> data.Split:
        grey = np.asarray(getattr(dataset, name).images)
        noise = rng.integers(0, 256, grey.shape, dtype=np.uint8)
        images = np.concatenate([grey, np.zeros_like(grey), noise], axis=-1)
        return data.Split(images, getattr(dataset, name).labels)

    changed = dataclasses.replace(
        dataset,
        **{name: split(name) for name in ("train", "dev", "calibration", "test")},
        mean=np.full(3, 0.5, np.float32),
        std=np.full(3, 0.5, np.float32),
    )
    kernel = np.zeros((64, 3, 10), np.float32)
    kernel[:, 0] = linear.kernel
    return changed, Linear(kernel.reshape(192, 10), linear.bias)


def test_channel_order_is_named_as_the_cause(dataset, linear, tmp_path) -> None:
    red, rgb = coloured(dataset, linear)
    bgr = Linear(rgb.kernel.reshape(64, 3, 10)[:, ::-1].reshape(192, 10), rgb.bias)
    path = write_onnx(tmp_path / "teacher.onnx", bgr, dtype=UINT8, shape=("n", 8, 8, 3))
    with pytest.raises(InputError, match=r"--config.teacher.input_channels=bgr 9\d.\d %"):
        onnx_teacher.describe_source(fields(path), red)
    logits = logits_of(path, red, input_channels="bgr")
    np.testing.assert_allclose(logits, rgb.logits(red.test.images), rtol=1e-4, atol=1e-3)


def test_teacher_near_chance_without_a_cause_is_a_warning(dataset, linear, tmp_path) -> None:
    noise = np.random.default_rng(1).normal(size=linear.kernel.shape).astype(np.float32)
    path = write_onnx(tmp_path / "teacher.onnx", Linear(noise, linear.bias), dtype=UINT8)
    with pytest.warns(RuntimeWarning, match="near chance, and no other scale"):
        onnx_teacher.describe_source(fields(path), dataset)


BAD = {
    "missing file": ({}, {"onnx": "nothing.onnx"}, "there is no such file"),
    "image size": ({"shape": ("n", 9, 9, 1)}, {}, r"shape \[9, 9, 1\].*\[8, 8, 1\]"),
    "ambiguous layout": ({"shape": ("n", "c", "h", "w")}, {}, "input_layout=nhwc or nchw"),
    "layout that does not fit": ({}, {"input_layout": "nchw"}, "to which only 'nhwc' fits"),
    "several outputs": ({"outputs": ("a", "b")}, {}, "--config.teacher.onnx_output"),
    "unknown output": ({}, {"onnx_output": "score"}, "did you mean 'scores'"),
    "scale of uint8": ({"dtype": UINT8}, {"input_scale": 255.0}, "leave the field empty"),
    "number of means": ({}, {"input_mean": "0.5,0.5,0.5"}, "3 values for images with 1 channel"),
    "mean that is no number": ({}, {"input_mean": "imagenets"}, "must be numbers"),
    "std of zero": ({}, {"input_std": "0"}, "must be above 0"),
    "two normalizations": ({}, {"input_mean": "data", "input_std": "0.5"}, "names both"),
    "number of names": ({}, {"class_names": "a,b"}, "has 2 names, .* 10 outputs"),
    "unknown class": ({}, {"class_names": "a,b,c,d,e,f,g,h,i,j"}, "has no class '0'"),
    "name twice": ({}, {"class_names": "0,1,2,3,4,5,6,7,8,8"}, "has the class '8' twice"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(dataset, linear, tmp_path, case) -> None:
    options, changes, message = BAD[case]
    shape = options.get("shape", ())
    model = Linear(np.zeros((81, 10), np.float32), linear.bias) if 9 in shape else linear
    path = write_onnx(tmp_path / "teacher.onnx", model, **options)
    with pytest.raises(InputError, match=message) as error:
        onnx_teacher.describe_source(fields(path, **changes), dataset)
    assert "\n" not in str(error.value)


def test_file_that_is_not_onnx_is_one_line(dataset, tmp_path) -> None:
    (tmp_path / "teacher.onnx").write_text("not a model")
    with pytest.raises(InputError, match=r"teacher.onnx .* cannot be read") as error:
        onnx_teacher.describe_source(fields(tmp_path / "teacher.onnx"), dataset)
    assert "\n" not in str(error.value)


def test_number_of_classes_that_differs_needs_names(dataset, linear, tmp_path) -> None:
    path = write_onnx(tmp_path / "teacher.onnx", linear.with_order(range(9)), dtype=UINT8)
    with pytest.raises(InputError, match="9 outputs for the 10 classes"):
        onnx_teacher.describe_source(fields(path), dataset)


def test_file_that_changes_within_a_run_is_refused(dataset, linear, tmp_path) -> None:
    path = write_onnx(tmp_path / "teacher.onnx", linear, dtype=UINT8)
    source, _ = onnx_teacher.describe_source(fields(path), dataset)
    write_onnx(path, linear.with_order(ORDER), dtype=UINT8)
    teacher = onnx_teacher.host_teacher(source, path, tmp_path)
    with pytest.raises(InputError, match="not the file with which the run has started"):
        teacher.compute("test", np.asarray(dataset.test.images), np.arange(1), np.zeros(1))


@pytest.mark.parametrize("location", ["teacher.onnx.data", "weights.bin"])
def test_external_weights_are_part_of_the_content(tmp_path, linear, location) -> None:
    model = onnx.load(write_onnx(tmp_path / "inside.onnx", linear))
    path = tmp_path / "teacher.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location=location, size_threshold=100)
    assert OnnxClassifier(path).output == "scores"
    files = onnx_file.file_content(path)
    assert files == [path, tmp_path / location]
    before = atomic_io.file_hash(*files)
    changed = bytearray(files[1].read_bytes())
    changed[0] ^= 1
    files[1].write_bytes(changed)
    assert atomic_io.file_hash(*onnx_file.file_content(path)) != before


def test_output_that_is_not_finite_outside_the_check_is_refused(tmp_path, linear, dataset) -> None:
    path = write_onnx(tmp_path / "teacher.onnx", linear, dtype=UINT8)
    source, _ = onnx_teacher.describe_source(fields(path), dataset)
    steep = Linear(np.full_like(linear.kernel, 3e38), linear.bias)
    write_onnx(path, steep, dtype=UINT8)
    source["sha256"] = atomic_io.file_hash(path)
    teacher = onnx_teacher.host_teacher(source, path, tmp_path)
    images = np.zeros((3, 8, 8, 1), np.uint8)
    images[1] = 255  # only this one overflows
    with pytest.raises(InputError, match="outputs for image 7 of train are not finite"):
        teacher.compute("train", images, np.array([5, 7, 6]), np.zeros(3, np.int32))


def test_channel_order_of_grey_images_is_refused(tmp_path, linear, dataset) -> None:
    path = write_onnx(tmp_path / "teacher.onnx", linear, dtype=UINT8)
    with pytest.raises(InputError, match="input_channels 'bgr': has no effect on images with one"):
        onnx_teacher.describe_source(fields(path, input_channels="bgr"), dataset)
