"""The fast network: its equations in float64, its whitening layer, and what is not trained."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import erf

from kdjax import models
from kdjax.models import fast_cnn
from kdjax.models.cost import cost
from kdjax.training.optimizer import OptimizerOptions, make_optimizer


def images_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def correlated_images(count: int, channels: int) -> np.ndarray:
    """Images whose neighbouring pixels and channels are alike, as those of photographs."""
    noise = np.random.default_rng(2).normal(size=(count, 12, 12, channels))
    smooth = noise + np.roll(noise, 1, 1) + np.roll(noise, 1, 2) + 0.5
    return (smooth + 0.7 * smooth.mean(-1, keepdims=True)).astype(np.float32)


def patches_of(images: np.ndarray) -> np.ndarray:
    """Returns every patch of 2x2 pixels as a row."""
    rows, columns = (size - 1 for size in images.shape[1:3])
    corners = itertools.product(range(rows), range(columns))
    patches = [images[:, i : i + 2, j : j + 2].reshape(len(images), -1) for i, j in corners]
    return np.concatenate(patches).astype(np.float64)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [5, 300])
def test_whitened_patches_are_uncorrelated_with_the_variance_of_the_equation(
    channels: int, count: int
) -> None:
    images = correlated_images(count, channels)
    kernel = fast_cnn.whitening_kernel(images)
    assert kernel.shape == (2, 2, channels, 8 * channels) and kernel.dtype == np.float32
    filters = kernel.reshape(4 * channels, -1)
    half = filters.shape[1] // 2
    assert_array_equal(filters[:, half:], -filters[:, :half])
    covariance = np.cov(patches_of(images) @ filters[:, :half], rowvar=False, bias=True)
    variances = np.linalg.eigvalsh(np.cov(patches_of(images), rowvar=False, bias=True))[::-1]
    assert_allclose(covariance, np.diag(variances / (variances + 5e-4)), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("inputs", "outputs"), [(3, 8), (8, 8), (8, 3)])
def test_dirac_kernel_copies_its_inputs(inputs: int, outputs: int) -> None:
    kernel = fast_cnn.dirac(jax.random.key(0), (3, 3, inputs, outputs))
    x = images_of(2, 5, 6, inputs)
    y = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    copied = min(inputs, outputs)
    assert_array_equal(y[..., :copied], x[..., :copied])
    others = np.asarray(kernel)[..., copied:]
    assert others.size == 0 or 0 < np.abs(others).max() <= 1 / np.sqrt(9 * inputs)


# The forward pass in float64 numpy, from the description.


def convolve(x: np.ndarray, kernel: np.ndarray, padding: int) -> np.ndarray:
    x = np.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    rows, columns = (size - kernel.shape[0] + 1 for size in x.shape[1:3])
    taps = itertools.product(*map(range, kernel.shape[:2]))
    return sum(x[:, i : i + rows, j : j + columns] @ kernel[i, j] for i, j in taps)


def gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 + erf(x / np.sqrt(2))) / 2


def pool(x: np.ndarray) -> np.ndarray:
    rows, columns = (size // 2 for size in x.shape[1:3])
    windows = x[:, : 2 * rows, : 2 * columns].reshape(len(x), rows, 2, columns, 2, -1)
    return windows.max((2, 4))


def reference(variables: Any, x: np.ndarray, depth: int, train: bool) -> np.ndarray:
    params, stats = (
        jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables[name])
        for name in ("params", "batch_stats")
    )
    whitening = params["whitening"]
    x = gelu(convolve(x.astype(np.float64), whitening["kernel"], 0) + whitening["bias"])
    for layer in range(3 * depth):
        x = convolve(x, params[f"Conv_{layer}"]["kernel"], 1)
        x = pool(x) if layer % depth == 0 else x
        norm = stats[f"BatchNorm_{layer}"]
        mean, variance = (x.mean((0, 1, 2)), x.var((0, 1, 2))) if train else norm.values()
        x = (x - mean) / np.sqrt(variance + 1e-5) + params[f"BatchNorm_{layer}"]["bias"]
        x = gelu(x)
    return x.max((1, 2)) @ params["head"]["Dense_0"]["kernel"] / 9


def random_variables(model: Any, images: np.ndarray) -> Any:
    rng = np.random.default_rng(1)

    def value(path: Any, leaf: Any) -> np.ndarray:
        variance = path[-1].key == "var"
        values = rng.uniform(0.5, 1.5, leaf.shape) if variance else rng.normal(0, 0.4, leaf.shape)
        return values.astype(np.float32)

    return jax.tree.map_with_path(
        value, jax.eval_shape(lambda: model.init(jax.random.key(0), images, False))
    )


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(("name", "depth"), [("fast_cnn", 2), ("fast_cnn_shallow", 1)])
def test_forward_pass_equals_the_description(name: str, depth: int, train: bool) -> None:
    images = images_of(3, 19, 18, 2)
    model = models.create(name, 5, width=3)
    variables = random_variables(model, images)
    # `values()` above relies on this order.
    assert list(variables["batch_stats"]["BatchNorm_0"]) == ["mean", "var"]
    logits, _ = jax.jit(model.apply, static_argnums=2, static_argnames="mutable")(
        variables, images, train, mutable=("batch_stats",)
    )
    expected = reference(variables, images, depth, train)
    assert_allclose(logits, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("name", "parameters", "convolutions"),
    [
        # Width 64: pixels of each layer, and its input and output channels.
        (
            "fast_cnn",
            1_971_640,
            [
                *((31, 24, 64), (15, 64, 64), (15, 64, 256)),
                *((7, 256, 256), (7, 256, 256), (3, 256, 256)),
            ],
        ),
        ("fast_cnn_shallow", 754_552, [(31, 24, 64), (15, 64, 256), (7, 256, 256)]),
    ],
)
def test_cost_is_that_of_the_description(
    name: str, parameters: int, convolutions: list[tuple[int, int, int]]
) -> None:
    values = cost(models.create(name, 10), (32, 32, 3))
    products = sum(size**2 * 9 * inputs * outputs for size, inputs, outputs in convolutions)
    assert values.multiply_adds == 31**2 * 12 * 24 + products + 256 * 10
    by_hand = 12 * 24 + 24 + sum((9 * c + 1) * d for _, c, d in convolutions) + 2560
    assert values.parameters == by_hand == parameters


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "sam", "muon"])
@pytest.mark.parametrize("decay_all", [False, True])
def test_no_optimizer_changes_the_whitening_kernel(optimizer: str, decay_all: bool) -> None:
    params = {
        "whitening": {"kernel": jnp.ones((2, 2, 1, 8)), "bias": jnp.ones(8)},
        "Conv_0": {"kernel": jnp.ones((3, 3, 8, 4))},
    }
    options = OptimizerOptions(momentum=0.9, nesterov=True, weight_decay=0.1, decay_all=decay_all)
    transform = make_optimizer(optimizer, optax.constant_schedule(0.1), options)
    # As the gradient of the network, which is zero for this kernel.
    gradient = jax.tree.map(jnp.ones_like, params)
    gradient["whitening"]["kernel"] = jnp.zeros((2, 2, 1, 8))
    extra = {"grad_fn": lambda *_: gradient} if optimizer == "sam" else {}
    updates, _ = transform.update(gradient, transform.init(params), params, **extra)
    assert_array_equal(updates["whitening"]["kernel"], 0)
    assert np.all(np.asarray(updates["whitening"]["bias"]) != 0)
    assert np.all(np.asarray(updates["Conv_0"]["kernel"]) != 0)


def test_gradient_of_the_whitening_kernel_is_zero() -> None:
    images = images_of(2, 8, 8, 1)
    model = models.create("fast_cnn_shallow", 3, width=2)
    variables = random_variables(model, images)

    def loss(params: Any) -> jax.Array:
        return model.apply({**variables, "params": params}, images, False).sum()

    gradient = jax.jit(jax.grad(loss))(variables["params"])["whitening"]
    assert_array_equal(gradient["kernel"], 0)
    assert np.abs(gradient["bias"]).max() > 0


def test_images_determine_the_whitening_kernel_only() -> None:
    images = correlated_images(20, 3)
    model = models.create("fast_cnn", 5, width=3)
    before = random_variables(model, images)["params"]
    after = model.init_from_images(before, images)
    assert_array_equal(after["whitening"]["kernel"], fast_cnn.whitening_kernel(images))
    after["whitening"]["kernel"] = before["whitening"]["kernel"]
    jax.tree.map(assert_array_equal, after, before)
