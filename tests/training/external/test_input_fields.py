"""How a given teacher reads images: every field, and what is proposed for a wrong one."""

import pathlib
from types import SimpleNamespace

import numpy as np
import pytest

import kdjax.config
from kdjax.errors import InputError
from kdjax.training.external import input_fields
from kdjax.training.external.onnx_file import InputFormat, OnnxClassifier

MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
IMAGENET = input_fields.NORMALIZATIONS["imagenet"]


def fields(**changes):
    config = kdjax.config.base().teacher
    config.update(changes)
    return config


def dataset(shape=(8, 8, 3)):
    channels = shape[-1]
    return SimpleNamespace(
        image_shape=shape, mean=np.float32(MEAN[:channels]), std=np.float32(STD[:channels])
    )


def classifier(input_shape=(None, None, None), dtype=np.float32):
    """A classifier without its file: only the shape and the dtype of its input are read."""
    stand_in = SimpleNamespace(
        input_shape=input_shape, dtype=np.dtype(dtype), path=pathlib.Path("net.onnx")
    )
    stand_in.layouts = lambda shape: OnnxClassifier.layouts(stand_in, shape)
    return stand_in


def nchw(shape=(8, 8, 3)):
    height, width, channels = shape
    return classifier((channels, height, width))


@pytest.mark.parametrize(
    ("mean", "std", "expected"),
    [
        ("", "", ((0.0,), (1.0,))),
        ("0.5", "0.25", ((0.5,), (0.25,))),
        ("0.5", "", ((0.5,), (1.0,))),
        ("", "0.1, 0.2,0.3", ((0.0,), (0.1, 0.2, 0.3))),
        ("imagenet", "", IMAGENET),
        ("", " ImageNet ", IMAGENET),
        ("imagenet", "imagenet", IMAGENET),
    ],
)
def test_normalization_is_numbers_or_a_name(mean, std, expected):
    given = fields(input_mean=mean, input_std=std)
    assert input_fields.normalization(given, dataset(), ((0.0,), (1.0,))) == expected


def test_statistics_of_the_data_set_have_a_name():
    mean, std = input_fields.normalization(fields(input_mean="data"), dataset(), ((0.0,), (1.0,)))
    np.testing.assert_allclose([mean, std], [MEAN, STD], rtol=1e-6)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ("imagenet", "0.5", "'imagenet' names both; leave the other field empty"),
        ("imagenet", "data", "names both"),
        ("x", "", "teacher.input_mean 'x': must be numbers such as .* or one of data, imagenet"),
        ("", "1,y", "teacher.input_std '1,y': must be numbers"),
        ("0.1,0.2", "", "teacher.input_mean has 2 values for images with 3 channels: give 1 or 3"),
        ("nan", "", r"teacher.input_mean \[nan\]: must be finite"),
        ("", "0", r"teacher.input_std \[0.0\]: must be above 0"),
        ("", "0.5,-1,0.5", "must be above 0"),
    ],
)
def test_invalid_normalization_is_one_line(mean, std, message):
    with pytest.raises(InputError, match=message):
        input_fields.normalization(
            fields(input_mean=mean, input_std=std), dataset(), ((0.0,), (1.0,))
        )


@pytest.mark.parametrize(
    ("input_shape", "given", "layout"),
    [
        ((3, 8, 8), "auto", "nchw"),
        ((8, 8, 3), "auto", "nhwc"),
        ((None, None, None), "nchw", "nchw"),
        ((None, None, 3), "auto", "nhwc"),
        ((3, None, None), "nchw", "nchw"),
    ],
)
def test_layout_follows_from_the_shape_or_is_given(input_shape, given, layout):
    fmt = input_fields.input_format(fields(input_layout=given), classifier(input_shape), dataset())
    assert (fmt.layout, fmt.channels, fmt.scale) == (layout, "rgb", 255.0)


@pytest.mark.parametrize(
    ("input_shape", "given", "message"),
    [
        ((3, 9, 9), "auto", r"images of shape \[3, 9, 9\], the data set has .*\[8, 8, 3\]: choose"),
        ((None, None, None), "auto", r"\[any, any, any\], which fits both layouts: set .*=nhwc or"),
        ((3, 8, 8), "nhwc", "teacher.input_layout 'nhwc': .* to which only 'nchw' fits"),
    ],
)
def test_layout_that_does_not_fit_or_is_ambiguous_is_refused(input_shape, given, message):
    with pytest.raises(InputError, match=message):
        input_fields.input_format(fields(input_layout=given), classifier(input_shape), dataset())


def test_network_that_takes_pixels_gets_them_unchanged():
    network = classifier((8, 8, 3), np.uint8)
    fmt = input_fields.input_format(fields(), network, dataset())
    assert fmt.keeps_pixels
    assert input_fields.describe(fmt, np.uint8) == "uint8 nhwc rgb, pixels unchanged"
    for name, value in (("input_scale", 2.0), ("input_mean", "0.5"), ("input_std", "0.5")):
        with pytest.raises(InputError, match=f"teacher.{name} .*takes uint8 images"):
            input_fields.input_format(fields(**{name: value}), network, dataset())


def test_formats_are_described_by_their_equation():
    fmt = InputFormat("nchw", "bgr", 255.0, (0.5,), (0.25,))
    assert input_fields.describe(fmt, np.float32) == "float32 nchw bgr, (x / 255 - 0.5) / 0.25"
    plain = InputFormat("nhwc", "rgb", 255.0)
    assert input_fields.describe(plain, np.float16) == "float16 nhwc rgb, x / 255"


def test_stored_format_is_restored():
    fmt = InputFormat("nchw", "bgr", 1.0, MEAN, STD)
    values = input_fields.stored(fmt)
    assert values["mean"] == list(MEAN)
    assert input_fields.restored(values) == fmt


@pytest.mark.parametrize("shape", [(8, 8, 3), (8, 8, 1)])
def test_other_formats_are_given_by_their_fields_and_the_nearest_come_first(shape):
    """Each proposal, put into the fields, gives the format that is proposed with it."""
    data, network = dataset(shape), nchw(shape)
    fmt = input_fields.input_format(fields(), network, data)
    proposals = list(input_fields.other_formats(fmt, network, data))
    assert [len(changed) for _, changed in proposals] == sorted(len(c) for _, c in proposals)
    seen = {fmt}
    for other, changed in proposals:
        changes = {name.removeprefix("teacher."): value for name, value in changed.items()}
        if "input_scale" in changes:
            changes["input_scale"] = float(changes["input_scale"])
        assert input_fields.input_format(fields(**changes), network, data) == other
        assert other not in seen  # no proposal twice
        seen.add(other)
    assert any(other.channels == "bgr" for other in seen) == (shape[-1] == 3)
    assert any(other.mean == IMAGENET[0] for other in seen) == (shape[-1] == 3)
    assert any(other.scale == 1 for other in seen)


def test_network_of_both_layouts_has_proposals_of_the_other_one():
    fmt = input_fields.input_format(fields(input_layout="nhwc"), classifier(), dataset())
    (first, changed), *_ = input_fields.other_formats(fmt, classifier(), dataset())
    assert len(changed) == 1
    layouts = {
        other.layout for other, _ in input_fields.other_formats(fmt, classifier(), dataset())
    }
    assert layouts == {"nhwc", "nchw"} and first != fmt


def test_pixels_of_uint8_networks_have_no_other_scale():
    network = classifier((None, None, 3), np.uint8)
    fmt = input_fields.input_format(fields(), network, dataset())
    proposals = list(input_fields.other_formats(fmt, network, dataset()))
    assert [changed for _, changed in proposals] == [{"teacher.input_channels": "bgr"}]
