"""The networks: shapes, dtypes, initialization, and their equations in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from hypothesis import given, settings
from hypothesis import strategies as st

from kdjax import models
from kdjax.errors import InputError
from kdjax.models import apply, common, resnet

# At 10 outputs and 3 channels.
COUNTS = {
    "resnet18": 11_173_962,
    "resnet50": 23_520_842,
    # Kernels and biases of the five convolutions and of the linear layer.
    "alexnet": (3 * 11 * 11 + 1) * 64
    + (64 * 5 * 5 + 1) * 192
    + (192 * 3 * 3 + 1) * 384
    + (384 * 3 * 3 + 1) * 256
    + (256 * 3 * 3 + 1) * 256
    + (256 + 1) * 10,
    # By hand: kernels, two parameters per batch-norm channel, linear layer.
    "alexnet_small": 9 * (3 * 32 + 32 * 64 + 64 * 96 + 96 * 64 + 64 * 64)
    + 2 * (32 + 64 + 96 + 64 + 64)
    + (64 + 1) * 10,
    "resnet8": 78_042,
    "resnet14": 175_258,
    # With projections; github.com/akamaster/pytorch_resnet_cifar10 has none, and 2,752 fewer.
    "resnet20": 272_474,
    "resnet32": 466_906,
    "resnet44": 661_338,
    "resnet56": 855_770,
    # By hand in test_fast_cnn.
    "fast_cnn": 1_971_640,
    "fast_cnn_shallow": 754_552,
}
# Networks with the blocks of resnet14, and more of them.
DEEPER = ("resnet20", "resnet32", "resnet44", "resnet56")
NETWORKS = [name for name in models.MODELS if name not in DEEPER]
SMALL = ("alexnet_small", "resnet8")
# Tests of the larger networks only repeat what those of small ones have shown.
WITH_SLOW = [
    name if name in (*SMALL, "fast_cnn") else pytest.param(name, marks=pytest.mark.slow)
    for name in NETWORKS
]


def images_of(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def shapes(model, shape, **kwargs):
    """Returns the shapes of logits and variables, without compiling."""
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    init = functools.partial(model.init_with_output, jax.random.key(0), train=False, **kwargs)
    return jax.eval_shape(init, images)


def intermediate_shapes(model, shape):
    _, variables = shapes(model, shape, mutable=True, capture_intermediates=True)
    return traverse_util.flatten_dict(variables["intermediates"], sep="/")


def random_variables(model, images):
    """Variables none of which has its initial value, without compiling an initializer."""
    rng = np.random.default_rng(1)

    def value(path, leaf):
        positive = path[-1].key in ("var", "scale")
        values = rng.uniform(0.5, 1.5, leaf.shape) if positive else rng.normal(0, 0.5, leaf.shape)
        return values.astype(np.float32)

    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, False))
    return jax.tree.map_with_path(value, variables)


def jitted(model):
    return jax.jit(model.apply, static_argnums=2, static_argnames="mutable")


def small(name, dtype):
    model = models.create(name, 3, width=4, dtype=dtype)
    images = images_of(3, 8, 8, 1)
    return jitted(model), random_variables(model, images), images


@pytest.mark.slow
@pytest.mark.parametrize("name", models.MODELS)
def test_parameter_counts_equal_the_published_ones(name):
    _, variables = shapes(models.create(name, 10), (1, 32, 32, 3))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == COUNTS[name]


def test_parameters_of_alexnet_sum_up_to_the_published_count():
    assert COUNTS["alexnet"] == 2_472_266


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "channels"), [((8, 8), 1), ((28, 28), 1), ((32, 32), 3), ((9, 13), 3)]
)
@pytest.mark.parametrize("name", WITH_SLOW)
def test_every_model_accepts_every_image_size(name, size, channels):
    logits, _ = shapes(models.create(name, 11), (5, *size, channels))
    assert (logits.shape, logits.dtype) == ((5, 11), jnp.float32)


@pytest.mark.slow
@given(st.integers(8, 70), st.integers(8, 70))
@settings(max_examples=20, deadline=None)
def test_no_feature_map_of_alexnet_is_empty(height, width):
    model = models.create("alexnet", 3, width=1)
    maps = intermediate_shapes(model, (1, height, width, 1))
    assert all(leaf.size > 0 for (leaf,) in maps.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_width_scales_every_layer(name):
    _, narrow = shapes(models.create(name, 3, width=2), (1, 8, 8, 1))
    _, wide = shapes(models.create(name, 3, width=4), (1, 8, 8, 1))
    for variables in (narrow, wide):
        variables["params"].pop("whitening", None)  # its size depends on the channels of the images
    for small, large in zip(*map(jax.tree.leaves, (narrow, wide)), strict=True):
        outputs = small.shape[-1]
        assert large.shape[-1] == (outputs if outputs == 3 else 2 * outputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_only_the_head_is_computed_in_float32(name):
    model = models.create(name, 3, width=2, dtype="bfloat16")
    _, variables = shapes(model, (1, 8, 8, 1))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    for path, (leaf,) in intermediate_shapes(model, (1, 8, 8, 1)).items():
        in_head = path.startswith("head") or path == "__call__"
        assert leaf.dtype == (jnp.float32 if in_head else jnp.bfloat16), path


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", SMALL)
def test_training_mode_updates_the_statistics_and_keeps_dtypes(name, dtype):
    apply, variables, images = small(name, dtype)
    logits, trained = apply(variables, images, True, mutable=("batch_stats",))
    _, evaluated = apply(variables, images, False, mutable=("batch_stats",))
    before = variables["batch_stats"]
    jax.tree.map(np.testing.assert_array_equal, evaluated["batch_stats"], before)
    for old, new in zip(*map(jax.tree.leaves, (before, trained["batch_stats"])), strict=True):
        assert new.dtype == jnp.float32
        assert np.all(old != new)
    assert logits.dtype == jnp.float32
    assert np.all(np.isfinite(logits))


@pytest.mark.slow
@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-6), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("name", SMALL)
def test_evaluation_mode_is_independent_of_the_batch(name, dtype, tolerance):
    apply, variables, images = small(name, dtype)
    batched = apply(variables, images, False)
    separate = np.concatenate([apply(variables, image[None], False) for image in images])
    size = np.abs(separate).max()
    np.testing.assert_allclose(batched / size, separate / size, rtol=0, atol=tolerance)
    assert np.ptp(separate / size, axis=0).max() > 5 * tolerance


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, path, fan",
    [
        ("resnet8", "params/stage2_block0/ConvNorm_0/Conv_0/kernel", 3 * 3 * 64),
        ("alexnet_small", "params/Conv_3/kernel", 3 * 3 * 96),
    ],
)
def test_kernels_are_initialized_with_the_variance_of_he(name, path, fan):
    model = models.create(name, 3)
    # Without optimization, the initializers compile in a fifth of the time.
    compiler_options = {"xla_backend_optimization_level": 0}
    init = jax.jit(model.init, static_argnums=2, compiler_options=compiler_options)
    variables = init(jax.random.key(0), images_of(1, 8, 8, 1), False)
    kernel = traverse_util.flatten_dict(variables, sep="/")[path]
    assert np.std(kernel) == pytest.approx(np.sqrt(2 / fan), rel=0.03)


@pytest.mark.parametrize(
    "name, num_outputs, options, words",
    [
        ("resnet19", 10, {}, "'resnet19': did you mean 'resnet18'"),
        ("alexnet_smal", 10, {}, "did you mean 'alexnet_small'"),
        ("resnet8", 10, {"widht": 3}, "'widht': did you mean 'width'"),
        ("resnet8", 10, {"dtype": "float16"}, "'float16': did you mean 'bfloat16'"),
        ("resnet8", 10, {"stem": "larg"}, "'larg': did you mean 'large'"),
        ("resnet8", 10, {"width": 0}, "width = 0"),
        ("resnet8", 10, {"width": 2.5}, "width = 2.5"),
        ("resnet8", 0, {}, "num_outputs = 0"),
        ("alexnet", -1, {}, "num_outputs = -1"),
    ],
)
def test_invalid_arguments_are_named(name, num_outputs, options, words):
    with pytest.raises(InputError, match=words):
        models.create(name, num_outputs, **options)


@pytest.mark.parametrize("shape", [(1, 7, 8, 1), (1, 32, 7, 3), (8, 8, 1), (1, 1, 8, 8, 1)])
@pytest.mark.parametrize("name", SMALL)
def test_images_of_invalid_shape_are_refused(name, shape):
    with pytest.raises(InputError, match=", ".join(map(str, shape))):
        shapes(models.create(name, 3), shape)


@pytest.mark.parametrize("name", SMALL)
def test_integer_images_are_refused(name):
    with pytest.raises(TypeError, match=r"uint8, shape \(1, 8, 8, 1\)"):
        models.create(name, 3).init(jax.random.key(0), np.zeros((1, 8, 8, 1), np.uint8), False)


# The forward passes in float64 numpy, from the equations.


def relu(x):
    return np.maximum(x, 0)


def conv(x, layer, stride=1):
    kernel, bias = layer["kernel"], layer.get("bias", 0.0)
    side = kernel.shape[0]
    x = np.pad(x, [(0, 0), (side // 2,) * 2, (side // 2,) * 2, (0, 0)])
    rows, columns = ((n - side) // stride + 1 for n in x.shape[1:3])
    out = np.empty((len(x), rows, columns, kernel.shape[3]))
    for i in range(rows):
        for j in range(columns):
            top, left = i * stride, j * stride
            patch = x[:, top : top + side, left : left + side]
            out[:, i, j] = np.tensordot(patch, kernel, 3)
    return out + bias


def norm(x, layer, stats, train):
    mean = x.mean((0, 1, 2)) if train else stats["mean"]
    variance = x.var((0, 1, 2)) if train else stats["var"]
    return (x - mean) / np.sqrt(variance + 1e-5) * layer["scale"] + layer["bias"]


def conv_norm(x, params, stats, stride, train):
    x = conv(x, params["Conv_0"], stride)
    return norm(x, params["BatchNorm_0"], stats["BatchNorm_0"], train)


def residual_block(x, params, stats, strides, train):
    out = x
    for i, stride in enumerate(strides):
        name = f"ConvNorm_{i}"
        out = conv_norm(relu(out) if i else out, params[name], stats[name], stride, train)
    if x.shape != out.shape:
        x = conv_norm(x, params["shortcut"], stats["shortcut"], max(strides), train)
    return relu(out + x)


def max_pool(x):
    rows, columns = ((n + 1) // 2 for n in x.shape[1:3])
    cells = [
        [x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max((1, 2)) for j in range(columns)]
        for i in range(rows)
    ]
    return np.moveaxis(np.array(cells), 2, 0)


def linear(x, layer):
    return x.mean((1, 2)) @ layer["kernel"] + layer["bias"]


def check(module, images, reference, train=False):
    """Compares the module in float32 with `reference(images, variables)`, both [b, ...]."""
    single = random_variables(module, images)
    double = jax.tree.map(np.float64, single)
    actual, updated = jitted(module)(single, images, train, mutable=("batch_stats",))
    expected = reference(images.astype(np.float64), double)
    assert actual.shape == expected.shape
    assert np.ptp(expected, axis=0).max() > 0.1
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    return updated, double


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(
    "block, channels, strides",
    [
        (resnet.basic, 2, (1, 1)),
        (resnet.basic, 3, (1, 1)),
        (resnet.basic, 2, (2, 1)),
        (resnet.bottleneck, 8, (1, 1, 1)),
        (resnet.bottleneck, 8, (1, 2, 1)),
    ],
)
def test_block_follows_its_equation(block, channels, strides, train):
    def reference(x, variables):
        return residual_block(x, variables["params"], variables["batch_stats"], strides, train)

    module = resnet.Block(block(2, max(strides)), np.float32)
    check(module, images_of(3, 5, 6, channels), reference, train)


@pytest.mark.slow
@pytest.mark.parametrize("train", [False, True])
def test_resnet8_follows_its_equation(train):
    def reference(x, variables):
        params, stats = variables["params"], variables["batch_stats"]
        x = relu(conv_norm(x, params["stem"], stats["stem"], 1, train))
        for stage, stride in enumerate((1, 2, 2)):
            name = f"stage{stage}_block0"
            x = residual_block(x, params[name], stats[name], (stride, 1), train)
        return linear(x, params["head"]["Dense_0"])

    images = images_of(3, 8, 8, 1)
    updated, double = check(models.create("resnet8", 3, width=2), images, reference, train)
    before = double["batch_stats"]["stem"]["BatchNorm_0"]
    after = updated["batch_stats"]["stem"]["BatchNorm_0"]
    stem = conv(images.astype(np.float64), double["params"]["stem"]["Conv_0"])
    assert models.NORM_MOMENTUM == 0.9
    kept = 0.9 if train else 1.0
    for name, value in (("mean", stem.mean((0, 1, 2))), ("var", stem.var((0, 1, 2)))):
        expected = kept * before[name] + (1 - kept) * value
        np.testing.assert_allclose(after[name], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [(8, 8), (32, 32), (21, 40)])
def test_alexnet_follows_its_equation(size):
    def reference(x, variables):
        params = variables["params"]
        for index, (stride, pool) in enumerate([(4, 1), (1, 1), (1, 0), (1, 0), (1, 1)]):
            x = relu(conv(x, params[f"Conv_{index}"], stride))
            x = max_pool(x) if pool else x
        # The published size is 32x32, for which one pixel remains and the mean only flattens.
        assert size != (32, 32) or x.shape[1:3] == (1, 1)
        return linear(x, params["head"]["Dense_0"])

    check(models.create("alexnet", 3, width=2), images_of(3, *size, 3), reference)


@pytest.mark.parametrize("train", [False, True])
def test_alexnet_small_follows_its_equation(train):
    def reference(x, variables):
        params, stats = variables["params"], variables["batch_stats"]
        for index in range(5):
            name = f"BatchNorm_{index}"
            x = relu(norm(conv(x, params[f"Conv_{index}"]), params[name], stats[name], train))
            x = max_pool(x) if index in (0, 1, 4) else x
        return linear(x, params["head"]["Dense_0"])

    check(models.create("alexnet_small", 3, width=2), images_of(3, 9, 13, 1), reference, train)


def test_max_pool_equals_numpy_for_negative_features_and_odd_sizes():
    features = images_of(2, 5, 4, 3) - 3
    np.testing.assert_array_equal(common.max_pool(features), max_pool(features))


@pytest.mark.slow
def test_gradient_of_max_pool_goes_to_the_maximum_and_is_divided_among_ties():
    features = np.array([[4.0, 1, 2, 2, -1], [3, 0, 2, -5, -1]])[None, :, :, None]
    gradient = jax.vjp(common.max_pool, features)[1](np.array([[[[8.0], [8.0], [8.0]]]]))[0]
    assert gradient[0, 0, 0] == 8 and np.abs(gradient[0, :, :2]).sum() == 8
    # Three features are equal, and each gets a part.
    assert gradient[0, :, 2:4].sum() == 8 and np.count_nonzero(gradient[0, :, 2:4]) == 3
    np.testing.assert_array_equal(gradient[0, :, 4, 0], [4, 4])


def test_head_averages_bfloat16_features_in_float32():
    features = jnp.asarray(images_of(3, 8, 8, 16), jnp.bfloat16)
    layer = {"kernel": images_of(16, 3), "bias": np.ones(3, np.float32)}
    actual = common.Head(3).apply({"params": {"Dense_0": layer}}, features)
    expected = linear(np.asarray(features, np.float64), layer)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("size, width", [(8, 4), (32, 16)])
def test_bfloat16_network_is_close_to_float32(size, width):
    images = images_of(8, size, size, 3)
    networks = [models.create("resnet8", 10, width=width, dtype=name) for name in models.DTYPES]
    variables = random_variables(networks[0], images)
    exact, rounded = (jitted(model)(variables, images, False) for model in networks)
    np.testing.assert_allclose(rounded, exact, rtol=0, atol=0.03 * np.abs(exact).max())


# Stems


@pytest.mark.slow
def test_auto_stem_is_the_small_one_below_64_pixels_and_the_large_one_from_there_on():
    for name in ("resnet8", "alexnet_small"):
        for size, stem in (((63, 70), "small"), ((70, 63), "small"), ((64, 64), "large")):
            auto, chosen = (
                shapes(models.create(name, 3, width=2, stem=value), (1, *size, 3))[1]
                for value in ("auto", stem)
            )
            assert jax.tree.map(jnp.shape, auto) == jax.tree.map(jnp.shape, chosen)


@pytest.mark.slow
def test_auto_stem_has_the_bits_of_the_small_one_for_small_images():
    images = images_of(2, 12, 12, 3)
    auto, small = (models.create("resnet8", 3, width=2, stem=stem) for stem in ("auto", "small"))
    variables = random_variables(auto, images)
    programs = (
        jax.jit(model.apply, static_argnums=2).lower(variables, images, False).as_text()
        for model in (auto, small)
    )
    assert len(set(programs)) == 1


def overlapping_max_pool(x):
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=-np.inf)
    rows, columns = ((n + 1) // 2 for n in x.shape[1:3])
    cells = [
        [padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((1, 2)) for j in range(columns)]
        for i in range(rows)
    ]
    return np.moveaxis(np.array(cells), 2, 0)


@pytest.mark.parametrize("size", [(4, 4), (5, 4), (7, 9), (1, 2)])
def test_overlapping_max_pool_equals_numpy(size):
    features = images_of(2, *size, 3) - 3
    pooled = common.overlapping_max_pool(features)
    np.testing.assert_array_equal(pooled, overlapping_max_pool(features))


def test_large_stem_of_residual_networks_follows_the_paper():
    def reference(x, variables):
        params, stats = variables["params"], variables["batch_stats"]
        x = relu(conv_norm(x, params["stem"], stats["stem"], 2, False))
        x = overlapping_max_pool(x)
        for stage, stride in enumerate((1, 2, 2)):
            name = f"stage{stage}_block0"
            x = residual_block(x, params[name], stats[name], (stride, 1), False)
        return linear(x, params["head"]["Dense_0"])

    check(models.create("resnet8", 3, width=2, stem="large"), images_of(2, 17, 20, 3), reference)


def test_large_stem_of_alexnet_small_is_a_7x7_convolution_with_stride_4():
    def reference(x, variables):
        params, stats = variables["params"], variables["batch_stats"]
        for index in range(5):
            name, stride = f"BatchNorm_{index}", 1 if index else 4
            x = conv(x, params[f"Conv_{index}"], stride)
            x = relu(norm(x, params[name], stats[name], False))
            x = max_pool(x) if index in (0, 1, 4) else x
        return linear(x, params["head"]["Dense_0"])

    model = models.create("alexnet_small", 3, width=2, stem="large")
    check(model, images_of(2, 33, 40, 3), reference)


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (96, 80)])
def test_alexnet_has_one_stem(size):
    expected = intermediate_shapes(models.create("alexnet", 3, width=2), (1, *size, 3))
    for stem in ("small", "large"):
        model = models.create("alexnet", 3, width=2, stem=stem)
        assert jax.tree.map(jnp.shape, intermediate_shapes(model, (1, *size, 3))) == jax.tree.map(
            jnp.shape, expected
        )


def test_hash_of_the_weights_changes_with_any_number_and_no_other_variable():
    variables = {"params": {"a": jnp.arange(3.0)}, "batch_stats": {"b": jnp.ones(2)}}
    expected = apply.weights_hash(variables)
    assert apply.weights_hash({**variables, "folds": {"c": jnp.zeros(4)}}) == expected
    assert apply.variables_hash(variables) == expected
    wrapped = {name: {"network": values} for name, values in variables.items()}
    assert apply.weights_hash(wrapped) == expected
    for changed in ({"params": {"a": jnp.ones(3)}}, {"batch_stats": {"b": jnp.zeros(2)}}):
        assert apply.weights_hash(variables | changed) != expected
