"""Convolution in every form against loops in numpy and against lax, with gradients and vmap."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from kdjax.models.cpu.convolution import Conv, convolve

# Size of the image and of the kernel, padding, strides: every form, odd and even sizes.
CASES = {
    "1x1": ((5, 6), (1, 1), ((0, 0), (0, 0)), (1, 1)),
    "1x1, stride 2": ((5, 6), (1, 1), ((0, 0), (0, 0)), (2, 2)),
    "1x1, padded": ((4, 5), (1, 1), ((1, 0), (0, 2)), (3, 2)),
    "3x3": ((6, 5), (3, 3), ((1, 1), (1, 1)), (1, 1)),
    "3x3, stride 2": ((6, 5), (3, 3), ((1, 1), (1, 1)), (2, 2)),
    "small image": ((2, 2), (3, 3), ((1, 1), (1, 1)), (1, 1)),
    "small image, stride 2": ((3, 2), (3, 3), ((1, 1), (1, 1)), (2, 2)),
    "one pixel": ((1, 1), (5, 3), ((2, 2), (1, 1)), (1, 2)),
    "positions within the padding": ((2, 1), (5, 5), ((7, 2), (6, 1)), (1, 2)),
    "unequal sides": ((3, 4), (5, 3), ((2, 3), (1, 0)), (2, 1)),
}
over_cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def arrays(size, sides, dtype, channels=3, features=4):
    rng = np.random.default_rng(0)
    dtype = jnp.dtype(dtype)
    images, kernel = rng.normal(size=(2, *size, channels)), rng.normal(size=(*sides, channels, 4))
    return images.astype(dtype), kernel[..., :features].astype(dtype)


def loop_reference(images, kernel, strides, padding):
    """The equation, in float64 numpy."""
    padded = np.pad(np.asarray(images, np.float64), ((0, 0), *padding, (0, 0)))
    kernel = np.asarray(kernel, np.float64)
    sides = kernel.shape[:2]
    shape = [(n - k) // s + 1 for n, k, s in zip(padded.shape[1:3], sides, strides, strict=True)]
    out = np.empty((len(images), *shape, kernel.shape[-1]))
    for i, j in np.ndindex(*shape):
        top, left = i * strides[0], j * strides[1]
        patch = padded[:, top : top + sides[0], left : left + sides[1]]
        out[:, i, j] = np.tensordot(patch, kernel, 3)
    return out


def lax_form(images, kernel, strides, padding):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(images, kernel, strides, padding, dimension_numbers=numbers)


@functools.partial(jax.jit, static_argnums=(2, 3))  # one program for each case
def ours(images, kernel, strides, padding):
    numbers = lax.conv_dimension_numbers(images.shape, kernel.shape, ("NHWC", "HWIO", "NHWC"))
    return convolve(images, kernel, strides, padding, dimension_numbers=numbers)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 2e-2)])
@over_cases
def test_convolution_follows_its_equation(case, dtype, tolerance):
    size, sides, padding, strides = case
    images, kernel = arrays(size, sides, dtype)
    actual = ours(images, kernel, strides, padding)
    expected = loop_reference(images, kernel, strides, padding)
    assert actual.dtype == dtype
    np.testing.assert_allclose(
        np.asarray(actual, np.float64), expected, rtol=0, atol=tolerance * np.abs(expected).max()
    )


@pytest.mark.slow
@over_cases
def test_gradients_equal_those_of_lax_in_float64(case):
    size, sides, padding, strides = case

    def gradients(form, images, kernel):
        out, pull = jax.vjp(lambda x, w: form(x, w, strides, padding), images, kernel)
        return out, *pull(np.sin(np.arange(out.size, dtype=out.dtype)).reshape(out.shape))

    with jax.enable_x64(True):
        images, kernel = arrays(size, sides, "float64")
        run = jax.jit(gradients, static_argnums=0)
        actual, expected = (run(form, images, kernel) for form in (ours, lax_form))
        for value, reference in zip(actual, expected, strict=True):
            assert value.dtype == reference.dtype == jnp.float64
            np.testing.assert_allclose(value, reference, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["1x1, stride 2", "3x3", "small image"])
def test_vmap_over_kernels_with_gradients(name):
    size, sides, padding, strides = CASES[name]
    images, kernel = arrays(size, sides, "float32")
    kernels = np.stack([kernel, 2 * kernel, -kernel])

    @jax.jit
    @jax.value_and_grad
    def loss(kernel):
        return jnp.sum(jnp.sin(ours(images, kernel, strides, padding)))

    mapped = jax.jit(jax.vmap(loss))(kernels)
    separate = [loss(kernel) for kernel in kernels]
    for value, reference in zip(mapped, zip(*separate, strict=True), strict=True):
        np.testing.assert_allclose(value, np.stack(reference), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("mapped", [(0, 0), (0, None), (None, 0)])
@pytest.mark.parametrize("name", ["3x3, stride 2", "small image"])
def test_vmap_over_either_array_equals_separate_calls(name, mapped):
    size, sides, padding, strides = CASES[name]
    arrays_of = arrays(size, sides, "float32")
    several = [
        array if axis is None else np.stack([array, 3 * array])
        for array, axis in zip(arrays_of, mapped, strict=True)
    ]

    @jax.jit
    def gradients(images, kernel):
        out, pull = jax.vjp(lambda x, w: ours(x, w, strides, padding), images, kernel)
        return out, *pull(jnp.sin(out))

    results = jax.jit(jax.vmap(gradients, mapped))(*several)
    for index in range(2):
        elements = [
            array if axis is None else array[index]
            for array, axis in zip(several, mapped, strict=True)
        ]
        for value, reference in zip(results, gradients(*elements), strict=True):
            np.testing.assert_allclose(value[index], reference, rtol=1e-4, atol=1e-4)


def test_vmap_over_kernels_and_images_makes_no_grouped_convolution():
    size, sides, padding, strides = CASES["3x3"]
    several = [jnp.stack([array] * 3) for array in arrays(size, sides, "float32")]
    form = functools.partial(ours, strides=strides, padding=padding)
    gradient = jax.vmap(lambda x, w: jax.vjp(form, x, w)[1](form(x, w)))
    text = jax.jit(gradient).lower(*several).as_text()
    counts = [text.count(f"{name}_group_count = ") for name in ("feature", "batch")]
    ones = [text.count(f"{name}_group_count = 1 ") for name in ("feature", "batch")]
    assert counts == ones and counts[0] == 9


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-12), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("batch, stride, chunks", [(20, 1, 2), (20, 2, 2), (17, 1, 1), (16, 2, 1)])
def test_kernel_gradient_is_the_sum_over_chunks_of_images(
    monkeypatch, batch, stride, chunks, dtype, tolerance
):
    # Images of several devices are not divided again.
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    rng = np.random.default_rng(0)
    images, kernel = rng.normal(size=(batch, 16, 16, 2)), rng.normal(size=(3, 3, 2, 3))
    size = 16 // stride
    pull = rng.normal(size=(batch, size, size, 3))

    def gradient(form, *arrays):
        images, kernel, pull = arrays
        numbers = ((stride, stride), ((1, 1), (1, 1)))
        return jax.vjp(lambda kernel: form(images, kernel, *numbers), kernel)[1](pull)[0]

    with jax.enable_x64(True):
        reference = jax.jit(functools.partial(gradient, lax_form))(images, kernel, pull)
        arrays_of = [jnp.asarray(array, dtype) for array in (images, kernel, pull)]
        program = jax.jit(functools.partial(gradient, ours)).lower(*arrays_of)
        actual = program.compile()(*arrays_of)
    assert ("stablehlo.while" in program.as_text()) == (chunks > 1)
    assert actual.dtype == dtype
    bound = tolerance * np.abs(reference).max()
    np.testing.assert_allclose(np.asarray(actual, float), reference, rtol=0, atol=bound)


# In a loop, XLA:CPU is fast with this order of axes only.
def test_convolutions_of_the_gradient_have_the_order_of_axes_that_is_fast_in_loops():
    size, sides, padding, strides = CASES["3x3, stride 2"]

    def gradients(images, kernel):
        form = functools.partial(ours, strides=strides, padding=padding)
        return jax.vjp(form, images, kernel)[1](form(images, kernel))

    text = jax.jit(gradients).lower(*arrays(size, sides, "float32")).as_text()
    assert text.count("stablehlo.convolution") == 3
    assert text.count("[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]") == 3


@pytest.mark.slow
@pytest.mark.parametrize("use_bias", [True, False])
def test_layer_has_the_parameters_of_flax_and_their_names(use_bias):
    class Layer(nn.Module):
        conv: type[nn.Conv]

        @nn.compact
        def __call__(self, x):
            return self.conv(4, (3, 3), strides=2, padding=1, use_bias=use_bias)(x)

    images, _ = arrays((2, 2), (3, 3), "float32")
    (actual, params), (expected, of_flax) = (
        Layer(conv).init_with_output(jax.random.key(0), images) for conv in (Conv, nn.Conv)
    )
    jax.tree.map(np.testing.assert_array_equal, params, of_flax)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["1x1", "small image"])
def test_product_replaces_the_convolution_in_the_gradient_too(name):
    size, sides, padding, strides = CASES[name]

    def gradients(images, kernel):
        form = functools.partial(ours, strides=strides, padding=padding)
        return jax.vjp(form, images, kernel)[1](form(images, kernel))

    text = jax.jit(gradients).lower(*arrays(size, sides, "float32")).as_text()
    assert "dot_general" in text and "convolution" not in text


@pytest.mark.parametrize(
    "size, side, stride, expected",
    # With 2 pixels, each position uses both; with 4 in a row, 3 + 4 + 4 + 3 in total.
    [((2, 2), 3, 1, 4**2), ((4, 4), 5, 1, 14**2), ((1, 1), 3, 1, 1), ((3, 3), 5, 2, 6**2)],
)
def test_kernel_larger_than_the_image_is_not_multiplied_by_padding(size, side, stride, expected):
    images, kernel = arrays(size, (side, side), "float32")
    form = functools.partial(ours, strides=(stride, stride), padding=((side // 2,) * 2,) * 2)
    flops = jax.jit(form).lower(images, kernel).cost_analysis()["flops"]
    assert flops == 2 * expected * len(images) * kernel[0, 0].size
