"""Winograd convolution against the direct one, its precision, and when it is used."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from kdjax.models.cpu import winograd
from kdjax.models.cpu.convolution import convolve
from kdjax.runtime import compiler

ONE, AROUND = (1, 1), ((1, 1), (1, 1))


def arrays(size=(4, 8), channels=3, features=5, dtype="float64"):
    rng = np.random.default_rng(0)
    images, kernel = rng.normal(size=(2, *size, channels)), rng.normal(size=(3, 3, channels, 5))
    return jnp.asarray(images, dtype), jnp.asarray(kernel[..., :features], dtype)


def direct(images, kernel):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(images, kernel, ONE, AROUND, dimension_numbers=numbers)


# Compiled without optimization: the tests run it once.
@functools.partial(
    jax.jit, static_argnums=0, compiler_options=compiler.OPTIONS["initialize"]["cpu"]
)
def with_gradients(form, images, kernel):
    out, pull = jax.vjp(form, images, kernel)
    return out, *pull(jnp.sin(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape))


@pytest.mark.slow
@pytest.mark.parametrize("size", [(4, 4), (12, 4), (7, 6), (5, 8)])
def test_equals_the_direct_convolution_with_its_gradients_in_float64(size):
    with jax.enable_x64(True):
        given = arrays(size)
        actual, expected = (with_gradients(form, *given) for form in (winograd.convolve, direct))
    for value, reference in zip(actual, expected, strict=True):
        np.testing.assert_allclose(value, reference, rtol=0, atol=1e-12 * np.abs(reference).max())


@pytest.mark.slow
def test_chunks_of_images_are_processed_in_order(monkeypatch):
    monkeypatch.setattr(winograd, "CHUNK_SIZE", 12)  # two images of four tiles, one channel each
    monkeypatch.setattr(winograd, "MIN_TILES", 8)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    with jax.enable_x64(True):
        images, kernel = arrays((8, 8))
        given = jnp.concatenate([images, 2 - images, images[::-1]]), kernel
        actual, expected = (with_gradients(form, *given) for form in (winograd.convolve, direct))
        assert "[3,2,8,8,3]" in str(jax.make_jaxpr(winograd.convolve)(*given))
    for value, reference in zip(actual, expected, strict=True):
        np.testing.assert_allclose(value, reference, rtol=0, atol=1e-12 * np.abs(reference).max())


def relative_errors(monkeypatch, points):
    """The largest error of each result, relative to its largest value, against float64."""
    for name, matrix in zip(
        ("INPUTS", "KERNEL", "OUTPUTS"), winograd.matrices(points), strict=True
    ):
        monkeypatch.setattr(winograd, name, matrix)
    given = arrays((8, 8), channels=128, dtype="float32")
    with jax.enable_x64(True):
        expected = with_gradients(direct, *(jnp.asarray(array, "float64") for array in given))
    # A new function, because a traced one keeps its matrices.
    actual = with_gradients(lambda *arrays: winograd.convolve(*arrays), *given)
    pairs = [
        (np.asarray(value), np.asarray(reference))
        for value, reference in zip(actual, expected, strict=True)
    ]
    return np.array([np.abs(value - ref).max() / np.abs(ref).max() for value, ref in pairs])


@pytest.mark.slow
def test_float32_error_is_as_documented_and_half_of_that_of_the_papers_points(monkeypatch):
    ours, papers = (
        relative_errors(monkeypatch, points) for points in (winograd.POINTS, (0, 1, -1, 2, -2))
    )
    assert (ours < 4e-6).all()
    assert (ours < papers / 2).all()


def test_matrices_of_the_papers_points_are_those_of_the_paper():
    inputs, kernel, outputs = map(np.array, winograd.matrices((0, 1, -1, 2, -2)))
    rows = [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0]]
    rows += [[0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]]
    np.testing.assert_array_equal(inputs, rows)
    rows = [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]
    np.testing.assert_allclose(24 * kernel, rows, rtol=1e-15)
    powers = [[1, 1, 1, 1, 1], [0, 1, -1, 2, -2], [0, 1, 1, 4, 4], [0, 1, -1, 8, -8]]
    np.testing.assert_array_equal(outputs, np.column_stack([powers, [0, 0, 0, 1]]))


@pytest.mark.slow
def test_vmap_over_kernels():
    with jax.enable_x64(True):
        images, kernel = arrays()
        kernels = jnp.stack([kernel, 2 * kernel, kernel[::-1]])
        actual = jax.vmap(winograd.convolve, (None, 0))(images, kernels)
        expected = jnp.stack([direct(images, kernel) for kernel in kernels])
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("case", "used"),
    [
        ({}, True),
        ({"batch": 63}, False),
        ({"batch": jax.export.symbolic_shape("n")[0]}, False),
        ({"size": (7, 7)}, True),
        ({"size": (6, 8)}, True),
        ({"size": (6, 7)}, False),
        ({"channels": 63}, False),
        ({"features": 63}, False),
        ({"sides": (1, 1)}, False),
        ({"strides": (2, 2)}, False),
        ({"padding": ((0, 0), (0, 0))}, False),
        ({"dtype": "bfloat16"}, False),
    ],
)
def test_used_only_where_supported_and_faster(case, used):
    sizes = {"batch": 64, "size": (4, 4), "channels": 64, "features": 64, "sides": (3, 3)}
    forms = {"dtype": "float32", "strides": ONE, "padding": AROUND}
    given = {**sizes, **forms, **case}
    images = jax.ShapeDtypeStruct(
        (given["batch"], *given["size"], given["channels"]), given["dtype"]
    )
    kernel = jax.ShapeDtypeStruct(
        (*given["sides"], given["channels"], given["features"]), given["dtype"]
    )
    strides, padding = given["strides"], given["padding"]
    assert winograd.is_faster(images, kernel, strides, padding) is used
    numbers = lax.conv_dimension_numbers(images.shape, kernel.shape, ("NHWC", "HWIO", "NHWC"))
    steps = jax.make_jaxpr(
        lambda x, w: convolve(x, w, strides, padding, dimension_numbers=numbers)
    )(images, kernel)
    assert ("[36," in str(steps)) is used
