import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from kdjax import compiler
from kdjax.models import winograd
from kdjax.models.convolution import convolve

ONE, AROUND = (1, 1), ((1, 1), (1, 1))


def arrays(size=(4, 8), channels=3, features=5, dtype="float64"):
    rng = np.random.default_rng(0)
    images, kernel = rng.normal(size=(2, *size, channels)), rng.normal(size=(3, 3, channels, 5))
    return jnp.asarray(images, dtype), jnp.asarray(kernel[..., :features], dtype)


def direct(images, kernel):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(images, kernel, ONE, AROUND, dimension_numbers=numbers)


# What a test compiles once need not be fast.
@functools.partial(
    jax.jit, static_argnums=0, compiler_options=compiler.OPTIONS["initialize"]["cpu"]
)
def with_gradients(form, images, kernel):
    out, pull = jax.vjp(form, images, kernel)
    return out, *pull(jnp.sin(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape))


@pytest.mark.parametrize("size", [(4, 4), (4, 8), (12, 4)])
def test_in_float64_it_is_the_direct_convolution_and_so_are_its_gradients(size):
    with jax.enable_x64(True):
        given = arrays(size)
        found, expected = (with_gradients(form, *given) for form in (winograd.convolve, direct))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12 * np.abs(other).max())


def test_images_are_worked_on_in_parts_and_come_back_in_their_order(monkeypatch):
    monkeypatch.setattr(winograd, "PART", 12)  # of two images of four tiles, a channel each
    monkeypatch.setattr(winograd, "LEAST_TILES", 8)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    with jax.enable_x64(True):
        images, kernel = arrays((8, 8))
        given = jnp.concatenate([images, 2 - images, images[::-1]]), kernel
        found, expected = (with_gradients(form, *given) for form in (winograd.convolve, direct))
        assert "[3,2,8,8,3]" in str(jax.make_jaxpr(winograd.convolve)(*given))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12 * np.abs(other).max())


def lost(monkeypatch, points):
    """The largest difference from float64, relative to the largest value, of each result."""
    for name, matrix in zip(
        ("INPUTS", "KERNEL", "OUTPUTS"), winograd.matrices(points), strict=True
    ):
        monkeypatch.setattr(winograd, name, matrix)
    given = arrays((8, 8), channels=128, dtype="float32")
    with jax.enable_x64(True):
        expected = with_gradients(direct, *(jnp.asarray(array, "float64") for array in given))
    # A function of its own: one that was traced before keeps the matrices it had.
    found = with_gradients(lambda *arrays: winograd.convolve(*arrays), *given)
    pairs = [
        (np.asarray(one), np.asarray(other)) for one, other in zip(found, expected, strict=True)
    ]
    return np.array([np.abs(one - other).max() / np.abs(other).max() for one, other in pairs])


def test_in_float32_it_loses_as_little_as_it_says_and_half_of_what_the_paper_does(monkeypatch):
    ours, papers = (lost(monkeypatch, points) for points in (winograd.POINTS, (0, 1, -1, 2, -2)))
    assert (ours < 4e-6).all()
    assert (ours < papers / 2).all()


def test_the_matrices_of_the_papers_points_are_the_papers():
    inputs, kernel, outputs = map(np.array, winograd.matrices((0, 1, -1, 2, -2)))
    rows = [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0]]
    rows += [[0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]]
    np.testing.assert_array_equal(inputs, rows)
    rows = [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]
    np.testing.assert_allclose(24 * kernel, rows, rtol=1e-15)
    powers = [[1, 1, 1, 1, 1], [0, 1, -1, 2, -2], [0, 1, 1, 4, 4], [0, 1, -1, 8, -8]]
    np.testing.assert_array_equal(outputs, np.column_stack([powers, [0, 0, 0, 1]]))


def test_kernels_can_be_mapped_over():
    with jax.enable_x64(True):
        images, kernel = arrays()
        kernels = jnp.stack([kernel, 2 * kernel, kernel[::-1]])
        found = jax.vmap(winograd.convolve, (None, 0))(images, kernels)
        expected = jnp.stack([direct(images, one) for one in kernels])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("case", "pays"),
    [
        ({}, True),
        ({"batch": 63}, False),
        ({"batch": jax.export.symbolic_shape("n")[0]}, False),
        ({"size": (6, 8)}, False),
        ({"channels": 63}, False),
        ({"features": 63}, False),
        ({"sides": (1, 1)}, False),
        ({"strides": (2, 2)}, False),
        ({"padding": ((0, 0), (0, 0))}, False),
        ({"dtype": "bfloat16"}, False),
    ],
)
def test_it_is_taken_where_it_pays(case, pays):
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
    assert winograd.pays(images, kernel, strides, padding) is pays
    numbers = lax.conv_dimension_numbers(images.shape, kernel.shape, ("NHWC", "HWIO", "NHWC"))
    steps = jax.make_jaxpr(
        lambda x, w: convolve(x, w, strides, padding, dimension_numbers=numbers)
    )(images, kernel)
    assert ("[36," in str(steps)) is pays
