import doctest
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import entr, log_softmax, logsumexp, softmax
from support import loss_equations

from kdjax import losses
from kdjax.errors import InputError
from kdjax.losses import labels as label_losses

CLASSES, PAYOFF, TEMPERATURE = 4, 2.2, 2.5
HALF = [pytest.param(dtype, marks=pytest.mark.slow) for dtype in (jnp.bfloat16, jnp.float16)]
DTYPES = [jnp.float32, *HALF]

# Every loss as a function of logits [..., m+1] and labels [...] or targets [..., m].
LOSSES = {
    "gambler": lambda z, y: losses.gambler(z, y, payoff=PAYOFF),
    "soft_gambler": lambda z, a: losses.soft_gambler(z, a, payoff=PAYOFF),
    "distillation": lambda z, a: losses.distillation(z[..., :-1], a, temperature=TEMPERATURE),
    "cross_entropy": lambda z, y: losses.cross_entropy(z[..., :-1], y),
    "soft_cross_entropy": lambda z, a: losses.soft_cross_entropy(z[..., :-1], a),
}
LABELLED = ("gambler", "cross_entropy")


# The equations, for one row of float64 logits.


def log_with_abstention(z, i, payoff):
    """log(q_i + q_a / o), as a weighted logsumexp."""
    weights = np.eye(len(z))[int(i)]
    weights[-1] = 1 / payoff
    return logsumexp(z, b=weights) - logsumexp(z)


def soft_gambler_equation(z, a, payoff=PAYOFF):
    return -sum(a[i] * log_with_abstention(z, i, payoff) for i in range(len(a)))


EQUATIONS = {
    "gambler": lambda z, y: -log_with_abstention(z, y, PAYOFF),
    "soft_gambler": soft_gambler_equation,
    # Targets of low precision do not sum to 1; see the docstring of the loss.
    "distillation": lambda z, a: (
        TEMPERATURE**2 * (-entr(a).sum() - a @ log_softmax(z[:-1] / TEMPERATURE) - a.sum() + 1)
    ),
    "cross_entropy": lambda z, y: -log_softmax(z[:-1])[int(y)],
    "soft_cross_entropy": lambda z, a: -a @ log_softmax(z[:-1]),
    **loss_equations.EQUATIONS,  # tested in test_distillation_losses.py
}

# Large logits of either sign, in single columns and in all.
EXTREME = np.array(
    [
        [1e4, -1e4, 0, 0, -1e4],
        [-1e4, 1e4, 1e4, 1e4, -1e4],
        [-1e4, -1e4, -1e4, -1e4, 1e4],
        [1e4, 1e4, 1e4, 1e4, 1e4],
        [-1e4, 0, 1e4, -1e4, 1e4],
        [0, 0, 0, 0, 1e4],
    ]
)
NORMAL = np.random.default_rng(0).normal(size=(6, CLASSES + 1)) * 3
LOGITS = np.concatenate([NORMAL, EXTREME])
LABELS = np.arange(12) % CLASSES
# Every row has a zero, and every second row is one-hot.
TARGETS = np.random.default_rng(1).dirichlet(np.ones(CLASSES), size=12)
TARGETS[np.arange(12), LABELS] = 0
TARGETS /= TARGETS.sum(axis=1, keepdims=True)
TARGETS[::2] = np.eye(CLASSES)[LABELS[::2]]

each_loss = pytest.mark.parametrize("name", LOSSES)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


def supervision_of(name, dtype=jnp.float32):
    return jnp.asarray(LABELS) if name in LABELLED else jnp.asarray(TARGETS, dtype)


def expected_losses(name, logits, supervision):
    pairs = zip(np.asarray(logits, np.float64), np.asarray(supervision, np.float64), strict=True)
    return np.array([EQUATIONS[name](*pair) for pair in pairs])


@each_loss
@each_dtype
def test_losses_match_their_equations_and_have_finite_gradients(name, dtype):
    logits, supervision = jnp.asarray(LOGITS, dtype), supervision_of(name, dtype)
    values, pull_back = jax.vjp(lambda z: jax.jit(LOSSES[name])(z, supervision), logits)
    expected = expected_losses(name, logits, supervision)
    # Sums of logits of size s in float32 have an absolute error of a few spacings at s.
    spacing = np.spacing(np.abs(np.asarray(logits, np.float32)).max(axis=1))
    assert values.dtype == jnp.float32
    assert np.all(np.abs(values - expected) <= 2e-6 * expected + 8 * spacing)
    assert np.all(np.isfinite(pull_back(jnp.ones_like(values))[0]))


@pytest.mark.slow
def test_cross_entropy_of_float32_logits_is_that_of_optax_bit_for_bit():
    logits = jnp.asarray(LOGITS, "float32")
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, LABELS % 5)
    assert_array_equal(losses.cross_entropy(logits, LABELS % 5), expected)


@each_loss
def test_gradients_match_finite_differences_of_the_equations(name):
    supervision, step = supervision_of(name)[:6], 1e-6
    shifts = (*step * np.eye(5), *-step * np.eye(5))
    values = np.array([expected_losses(name, NORMAL + shift, supervision) for shift in shifts])
    slopes = (values[:5] - values[5:]).T / (2 * step)
    gradient = jax.jit(jax.grad(lambda z, t: LOSSES[name](z, t).sum()))
    actual = gradient(jnp.asarray(NORMAL, "float32"), supervision)
    assert_allclose(actual, slopes, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@each_loss
def test_jit_and_vmap_do_not_change_the_values(name):
    logits, supervision = jnp.asarray(NORMAL, "float32"), supervision_of(name)[:6]
    plain = LOSSES[name](logits, supervision)
    grid = jax.jit(LOSSES[name])(
        logits.reshape(2, 3, -1), supervision.reshape(2, 3, *supervision.shape[1:])
    )
    assert_allclose(grid, plain.reshape(2, 3), rtol=1e-6, atol=1e-6)
    mapped = jax.jit(jax.vmap(LOSSES[name]))(logits, supervision)
    assert_allclose(mapped, plain, rtol=1e-6, atol=1e-6)


@each_loss
def test_float64_input_is_computed_in_float64(name):
    with jax.enable_x64(True):
        logits, supervision = jnp.asarray(NORMAL), supervision_of(name, jnp.float64)[:6]
        actual = jax.jit(LOSSES[name])(logits, supervision)
        assert actual.dtype == jnp.float64
        assert_allclose(actual, expected_losses(name, NORMAL, supervision), rtol=1e-13)


@pytest.mark.parametrize("name", ["soft_gambler", "distillation"])
def test_gradients_with_respect_to_targets_are_finite_at_zero(name):
    gradient = jax.jit(jax.grad(lambda a: LOSSES[name](jnp.asarray(LOGITS, "float32"), a).sum()))
    assert np.all(np.isfinite(gradient(supervision_of(name))))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gambler", "soft_gambler"])
def test_infinite_payoff_gives_cross_entropy_over_all_columns(name):
    logits, one_hot = jnp.asarray(NORMAL, "float32"), jnp.eye(CLASSES)[LABELS[:6]]
    supervision = {"gambler": LABELS[:6], "soft_gambler": one_hot}[name]

    def loss(z, t):
        return getattr(losses, name)(z, t, payoff=np.inf).sum()

    def cross_entropy(z):
        return optax.softmax_cross_entropy_with_integer_labels(z, LABELS[:6]).sum()

    value, gradient = jax.jit(jax.value_and_grad(loss))(logits, supervision)
    expected, expected_gradient = jax.jit(jax.value_and_grad(cross_entropy))(logits)
    assert_allclose(value, expected, rtol=1e-6)
    assert_allclose(gradient, expected_gradient, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [1e2, 1e4])
def test_distillation_at_high_temperature_is_the_squared_distance_of_centred_logits(temperature):
    teacher, student = NORMAL[:, :-1], NORMAL[::-1, :-1]
    gap = (student - student.mean(1, keepdims=True)) - (teacher - teacher.mean(1, keepdims=True))
    with jax.enable_x64(True):  # the divergence is of order 1 / T^2
        targets = jax.nn.softmax(jnp.asarray(teacher) / temperature, axis=-1)
        distil = jax.jit(functools.partial(losses.distillation, temperature=temperature))
        actual = distil(jnp.asarray(student), targets)
    assert_allclose(actual, np.sum(gap**2, axis=1) / (2 * CLASSES), rtol=10 / temperature)


def test_soft_cross_entropy_of_float32_logits_is_that_of_optax():
    logits, targets = jnp.asarray(NORMAL[:, :-1], "float32"), supervision_of("soft_cross_entropy")
    expected = optax.softmax_cross_entropy(logits, targets[:6])
    assert_allclose(losses.soft_cross_entropy(logits, targets[:6]), expected, rtol=1e-6)


@pytest.mark.slow
def test_distillation_of_one_hot_targets_at_temperature_1_is_cross_entropy():
    logits = jnp.asarray(NORMAL, "float32")
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, LABELS[:6])
    assert_allclose(losses.distillation(logits, jnp.eye(5)[LABELS[:6]]), expected, rtol=1e-6)


def optimum(p, payoff):
    """The minimizer q of soft_gambler in closed form; `ratio` is q_a / o."""
    order = np.argsort(-p)
    ranked, q = p[order], np.zeros(len(p) + 1)
    if ranked[0] <= 1 / payoff:
        q[-1] = 1
        return q
    for k in range(1, len(p) + 1):
        if k < payoff:
            ratio = (1 - ranked[:k].sum()) / (payoff - k)
            following = ranked[k] if k < len(p) else 0
            if ranked[k - 1] > ratio >= following - 1e-12:
                q[:] = 0
                q[order[:k]] = ranked[:k] - ratio
                q[-1] = payoff * ratio
    return q


@pytest.mark.parametrize(
    ("targets", "payoff", "num_classes_with_mass"),
    [
        ([0.6, 0.25, 0.1, 0.05], 2.2, 1),
        ([0.05, 0.55, 0.05, 0.35], 2.5, 2),
        ([0.15, 0.5, 0.05, 0.3], 3.5, 3),
        ([0.15, 0.5, 0.05, 0.3], 5.0, 4),  # payoff above m: never abstains
        ([0.4, 0.3, 0.2, 0.1], 2.0, 0),  # max p <= 1 / o: only abstention
    ],
)
def test_gradient_descent_on_soft_gambler_reaches_the_closed_form_minimum(
    targets, payoff, num_classes_with_mass
):
    gradient = jax.grad(lambda z: losses.soft_gambler(z, jnp.array(targets), payoff=payoff))
    minimize = jax.jit(lambda z: jax.lax.fori_loop(0, 20_000, lambda _, z: z - 2 * gradient(z), z))
    logits = np.asarray(minimize(jnp.zeros(CLASSES + 1)), np.float64)
    expected = optimum(np.array(targets), payoff)
    assert np.count_nonzero(expected[:-1]) == num_classes_with_mass
    assert_allclose(softmax(logits), expected, atol=5e-4)


rows = arrays(np.float32, (3, CLASSES + 1), elements=st.floats(-50, 50, width=32))
label_rows = arrays(np.int32, 3, elements=st.integers(0, CLASSES - 1))


@pytest.mark.slow
@settings(deadline=None, max_examples=50)
@given(logits=rows, labels=label_rows, payoff=st.floats(1.01, 100))
def test_soft_gambler_of_one_hot_targets_is_gambler(logits, labels, payoff):
    soft = jax.jit(losses.soft_gambler)(logits, np.eye(CLASSES)[labels], payoff=payoff)
    hard = jax.jit(losses.gambler)(logits, labels, payoff=payoff)
    assert_allclose(soft, hard, rtol=1e-6, atol=1e-5)


@pytest.mark.slow
@settings(deadline=None, max_examples=50)
@given(logits=rows, teacher=rows, temperature=st.floats(0.5, 20))
def test_distillation_is_minimal_at_the_teacher(logits, teacher, temperature):
    targets = softmax(teacher.astype(np.float64) / temperature, axis=-1)
    distil = jax.jit(losses.distillation)
    at_teacher = distil(teacher, targets, temperature=temperature)
    elsewhere = distil(logits, targets, temperature=temperature)
    rounding = 1e-6 * temperature**2 * (1 + 50 / temperature)
    assert_allclose(at_teacher, 0, atol=rounding)
    assert np.all(elsewhere >= at_teacher - 2 * rounding)


@pytest.mark.parametrize("payoff", [1, 0.5, -3.0, np.nan])
@pytest.mark.parametrize("name", ["gambler", "soft_gambler"])
def test_payoff_of_at_most_1_raises_with_its_value(name, payoff):
    with pytest.raises(InputError, match=rf"payoff {payoff} .*greater than 1"):
        getattr(losses, name)(jnp.zeros((12, 5)), supervision_of(name), payoff=payoff)


@pytest.mark.parametrize("temperature", [0, -1.0, np.nan, np.inf, 1e-40, 1e30])
def test_temperature_out_of_range_raises_with_its_value(temperature):
    message = rf"temperature {re.escape(str(temperature))} .*must lie in \[1e-18, 1e\+18\]"
    with pytest.raises(InputError, match=message):
        losses.distillation(jnp.zeros((1, 3)), jnp.ones((1, 3)), temperature=temperature)


@each_loss
def test_logits_of_wrong_dtype_or_shape_raise(name):
    supervision = supervision_of(name)
    with pytest.raises(TypeError, match="logits of dtype int32"):
        LOSSES[name](jnp.zeros((12, 5), int), supervision)
    with pytest.raises(InputError, match=r"logits of shape .*need \[\.\.\., k\] with k >= "):
        LOSSES[name](jnp.zeros((12, 2)), supervision)
    with pytest.raises(InputError, match=r"of shape \(12,.*these logits need \(11,"):
        LOSSES[name](jnp.zeros((11, 5)), supervision)


@pytest.mark.parametrize("name", ["soft_gambler", "distillation"])
def test_targets_of_wrong_dtype_or_shape_raise(name):
    with pytest.raises(InputError, match=r"targets of shape \(12, 4\).*need \(12, 5\)"):
        LOSSES[name](jnp.zeros((12, 6)), supervision_of(name))
    with pytest.raises(TypeError, match="targets of dtype int32"):
        LOSSES[name](jnp.zeros((12, 5)), jnp.ones((12, 4), int))


@pytest.mark.parametrize("name", ["soft_gambler", "distillation"])
@pytest.mark.parametrize("value", [-0.5, 1.5, 7.0])
def test_targets_that_are_no_probabilities_are_refused_outside_jit(name, value):
    loss, options = getattr(losses, name), {"payoff": 2.0} if name == "soft_gambler" else {}
    logits = jnp.zeros((2, 4 if name == "soft_gambler" else 3))
    targets = jnp.array([[0.2, 0.3, 0.5], [0.5, value, 0.5]])
    with pytest.raises(InputError, match=f"target {value:g} is out of range"):
        loss(logits, targets, **options)
    assert jax.jit(lambda *args: loss(*args, **options))(logits, targets).shape == (2,)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["soft_gambler", "distillation"])
def test_nan_in_a_target_gives_nan(name):
    loss, options = getattr(losses, name), {"payoff": 2.0} if name == "soft_gambler" else {}
    logits = jnp.zeros((2, 4 if name == "soft_gambler" else 3))
    targets = jnp.array([[0.2, 0.3, 0.5], [0.5, np.nan, 0.5]])
    assert np.isnan(loss(logits, targets, **options)).tolist() == [False, True]


def test_labels_that_are_constants_of_a_jitted_function_are_checked():
    logits, labels = jnp.asarray(NORMAL, "float32"), jnp.asarray(LABELS[:6])
    actual = jax.jit(lambda z: losses.gambler(z, labels, payoff=PAYOFF))(logits)
    assert_allclose(actual, expected_losses("gambler", NORMAL, labels), rtol=1e-5)
    too_high = labels + 1
    with pytest.raises(InputError, match="label 4 is out of range"):
        jax.jit(lambda z: losses.gambler(z, too_high, payoff=PAYOFF))(logits)


HYPERPARAMETERS = {
    "gambler": ("payoff", [1.5, 3.0, 50.0]),
    "soft_gambler": ("payoff", [1.5, 3.0, 50.0]),
    "distillation": ("temperature", [0.5, 2.0, 30.0]),
}
each_hyperparameter = pytest.mark.parametrize("name", HYPERPARAMETERS)


def with_hyperparameter(name):
    """The loss as a function of logits, supervision and its hyperparameter."""
    loss, (field, _) = getattr(losses, name), HYPERPARAMETERS[name]
    return lambda z, t, value: loss(z, t, **{field: value})


def three_examples(name):
    """As many examples as classes: an array must not broadcast against the classes."""
    columns = 3 if name == "distillation" else 4
    logits = jnp.asarray(np.random.default_rng(5).normal(size=(3, columns)) * 3, "float32")
    supervision = jnp.arange(3) if name == "gambler" else jnp.asarray(TARGETS[1:4, :3], "float32")
    return logits, supervision


@pytest.mark.slow
@each_hyperparameter
@pytest.mark.parametrize("transform", [lambda f: f, jax.vmap])
def test_hyperparameter_of_each_example_gives_the_loss_of_that_example(name, transform):
    loss, values = with_hyperparameter(name), np.array(HYPERPARAMETERS[name][1], "f4")
    logits, supervision = three_examples(name)
    rows = zip(logits, supervision, values.tolist(), strict=True)
    of_one = jax.jit(loss)
    expected = [of_one(z[None], t[None], value)[0] for z, t, value in rows]
    actual = jax.jit(transform(loss))(logits, supervision, values)
    assert_allclose(actual, expected, rtol=2e-6)


@pytest.mark.slow
@each_hyperparameter
def test_hyperparameter_broadcasts_against_the_leading_dimensions(name):
    loss, values = jax.jit(with_hyperparameter(name)), jnp.array(HYPERPARAMETERS[name][1])
    examples = map(np.asarray, three_examples(name))
    logits, supervision = (np.stack([each, each[::-1]]) for each in examples)
    expected = [loss(z, t, values) for z, t in zip(logits, supervision, strict=True)]
    assert_allclose(loss(logits, supervision, values), expected, rtol=2e-6)
    by_row = jnp.array([[2.0], [5.0]])
    expected = [loss(z, t, v) for z, t, v in zip(logits, supervision, (2.0, 5.0), strict=True)]
    assert_allclose(loss(logits, supervision, by_row), expected, rtol=2e-6)


@each_hyperparameter
@pytest.mark.parametrize("shape", [(3, 1), (1, 1), (2,), (4,), (1, 3)])
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
def test_hyperparameter_of_another_shape_raises_with_the_shapes(name, shape, transform):
    loss, field = with_hyperparameter(name), HYPERPARAMETERS[name][0]
    message = (
        rf"{field} of shape {re.escape(str(shape))}: .*a scalar or one value per example, \(3,\)"
    )
    with pytest.raises(InputError, match=message):
        transform(loss)(*three_examples(name), jnp.full(shape, 2.0))


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [20.0, 1e3, 1e5])
def test_distillation_of_float32_is_accurate_at_high_temperature(temperature):
    student, teacher = np.random.default_rng(0).normal(size=(2, 200, 10)) * 4
    targets = jax.jit(jax.nn.softmax)(np.float32(teacher) / np.float32(temperature))

    @jax.jit
    def distil(z):
        values, pull_back = jax.vjp(
            lambda z: losses.distillation(z, targets, temperature=temperature), z
        )
        return values, pull_back(jnp.ones_like(values))[0]

    actual, gradient = distil(np.float32(student))
    assert np.all(actual >= 0)
    p, q = softmax(teacher / temperature, axis=1), softmax(student / temperature, axis=1)
    expected = temperature**2 * np.sum(p * np.log(p / q), axis=1)
    # A target of 1 / m (1 + t / T) in float32 determines t up to 6e-8 T.
    assert_allclose(actual, expected, rtol=2e-6 + 3e-7 * temperature)
    assert_allclose(gradient, temperature * (q - p), rtol=0, atol=1e-6 + 1e-7 * temperature)


@pytest.mark.slow
def test_distillation_at_the_ends_of_the_temperature_range_is_finite():
    logits, targets = jnp.asarray([[3.0, -2.0, 1e4]]), jnp.asarray([[0.2, 0.8, 0.0]])
    for temperature in (1e-18, 1e18):
        loss = functools.partial(losses.distillation, temperature=temperature)
        value, gradient = jax.jit(jax.value_and_grad(lambda z, f=loss: f(z, targets).sum()))(logits)
        assert np.isfinite(value) and np.all(np.isfinite(gradient))


@pytest.mark.parametrize("scale", [1e2, 1e4, 1e6])
@pytest.mark.parametrize("name", ["gambler", "soft_gambler", "cross_entropy"])
def test_losses_do_not_lose_precision_at_large_logits(name, scale):
    logits = np.asarray(NORMAL * scale, "f4")
    logits[:, -1] = logits[:, :-1].max(axis=1) + np.arange(6, dtype="f4")  # q_a decides
    supervision = supervision_of(name)[:6]
    expected = expected_losses(name, logits, supervision)
    assert_allclose(LOSSES[name](jnp.asarray(logits), supervision), expected, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["soft_gambler", "distillation", "soft_cross_entropy"])
def test_excluded_class_with_target_zero_contributes_nothing(name):
    logits = jnp.asarray([[1.0, 2.0, -jnp.inf, 0.5, -1.0], [1.0, 2.0, -jnp.inf, 0.5, -jnp.inf]])
    targets = jnp.asarray([[0.3, 0.5, 0.0, 0.2]] * 2)
    with_class = jax.jit(jax.value_and_grad(lambda z: LOSSES[name](z, targets).sum()))(logits)
    kept = jnp.array([0, 1, 3, 4])
    loss = jax.jit(jax.value_and_grad(lambda z: LOSSES[name](z, targets[:, kept[:-1]]).sum()))
    without_class = loss(logits[:, kept])
    assert np.isfinite(with_class[0])
    assert_allclose(with_class[0], without_class[0], rtol=1e-6)
    assert_allclose(with_class[1][:, kept], without_class[1], rtol=1e-5, atol=1e-7)
    assert_array_equal(with_class[1][:, 2], 0)


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize(
    ("labels", "bad"),
    [
        (np.array([0, 2**32, 1]), 2**32),
        (np.array([0, 2**63, 1], np.uint64), 2**63),
        ([0, -(2**32), 1], -(2**32)),
        ([0, 2**70, 1], 2**70),
        (np.array([0, 1, 4]), 4),
        (np.array([-1, 1, 2]), -1),
    ],
)
def test_labels_are_checked_before_they_are_converted(name, labels, bad):
    with pytest.raises(InputError, match=f"label {bad} is out of range: 4 classes allow 0..3"):
        LOSSES[name](jnp.asarray(NORMAL[:3], "float32"), labels)


@pytest.mark.slow
@pytest.mark.parametrize("name", LABELLED)
def test_labels_of_every_integer_type_give_the_same_loss(name):
    logits, expected = jnp.asarray(NORMAL[:3], "float32"), None
    for labels in ([0, 3, 1], *(np.array([0, 3, 1], dtype) for dtype in ("u1", "i8", "u8"))):
        actual = LOSSES[name](logits, labels)
        expected = actual if expected is None else expected
        assert_array_equal(actual, expected)


def test_doctests_pass():
    result = doctest.testmod(label_losses)
    assert result.attempted > 0 and result.failed == 0


def test_label_out_of_range_under_jit_gives_nan():
    logits = jnp.zeros((1, 4))
    assert np.isnan(jax.jit(losses.cross_entropy)(logits, jnp.array([4])))
    # 3 is the column of abstention, which is no class.
    assert np.isnan(jax.jit(functools.partial(losses.gambler, payoff=2))(logits, jnp.array([3])))
