import doctest

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose
from scipy.special import entr, log_softmax, logsumexp, softmax

from kdjax import losses
from kdjax.errors import InputError

CLASSES, PAYOFF, TEMPERATURE = 4, 2.2, 2.5
DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]

# Every loss of logits [..., m+1] and of what teaches it: labels [...] or targets [..., m].
LOSSES = {
    "gambler": lambda z, y: losses.gambler(z, y, payoff=PAYOFF),
    "soft_gambler": lambda z, a: losses.soft_gambler(z, a, payoff=PAYOFF),
    "distillation": lambda z, a: losses.distillation(z[..., :-1], a, temperature=TEMPERATURE),
}


# The equations, for one row of float64 logits; log(q_i + q_a / o) is a weighted logsumexp.


def log_bet(z, i, payoff):
    weights = np.eye(len(z))[int(i)]
    weights[-1] = 1 / payoff
    return logsumexp(z, b=weights) - logsumexp(z)


def soft_gambler_of(z, a, payoff=PAYOFF):
    return -sum(a[i] * log_bet(z, i, payoff) for i in range(len(a)))


EQUATIONS = {
    "gambler": lambda z, y: -log_bet(z, y, PAYOFF),
    "soft_gambler": soft_gambler_of,
    "distillation": lambda z, a: (
        TEMPERATURE**2 * (-entr(a).sum() - a @ log_softmax(z[:-1] / TEMPERATURE))
    ),
}

# Classes and abstention at both ends, alone and all together.
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
# Every row holds a zero, and every other row is one-hot.
TARGETS = np.random.default_rng(1).dirichlet(np.ones(CLASSES), size=12)
TARGETS[np.arange(12), LABELS] = 0
TARGETS /= TARGETS.sum(axis=1, keepdims=True)
TARGETS[::2] = np.eye(CLASSES)[LABELS[::2]]

each_loss = pytest.mark.parametrize("name", LOSSES)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


def teaching(name, dtype=jnp.float32):
    return jnp.asarray(LABELS) if name == "gambler" else jnp.asarray(TARGETS, dtype)


def expected_of(name, logits, taught):
    pairs = zip(np.asarray(logits, np.float64), np.asarray(taught, np.float64), strict=True)
    return np.array([EQUATIONS[name](*pair) for pair in pairs])


@each_loss
@each_dtype
def test_losses_follow_their_equations_with_finite_gradients(name, dtype):
    logits, taught = jnp.asarray(LOGITS, dtype), teaching(name, dtype)
    values, pull_back = jax.vjp(lambda z: jax.jit(LOSSES[name])(z, taught), logits)
    expected = expected_of(name, logits, taught)
    # Logits of size s are added in float32, so a loss near 0 is known to some spacings at s.
    spacing = np.spacing(np.abs(np.asarray(logits, np.float32)).max(axis=1))
    assert values.dtype == jnp.float32
    assert np.all(np.abs(values - expected) <= 2e-6 * expected + 8 * spacing)
    assert np.all(np.isfinite(pull_back(jnp.ones_like(values))[0]))


@each_dtype
def test_cross_entropy_is_that_of_optax_and_finite(dtype):
    assert losses.cross_entropy is optax.softmax_cross_entropy_with_integer_labels
    one = jax.value_and_grad(lambda z, y: losses.cross_entropy(z, y))
    found = jax.jit(jax.vmap(one))(jnp.asarray(EXTREME, dtype), LABELS[:6])
    assert all(np.all(np.isfinite(value)) for value in found)


@each_loss
def test_gradients_follow_finite_differences_of_the_equation(name):
    taught, step = teaching(name)[:6], 1e-6
    ends = [expected_of(name, NORMAL + d, taught) for d in (*step * np.eye(5), *-step * np.eye(5))]
    slopes = (np.array(ends[:5]) - ends[5:]).T / (2 * step)
    gradient = jax.jit(jax.grad(lambda z, t: LOSSES[name](z, t).sum()))
    found = gradient(jnp.asarray(NORMAL, "float32"), taught)
    assert_allclose(found, slopes, rtol=1e-4, atol=1e-5)


@each_loss
def test_jit_and_vmap_change_nothing(name):
    logits, taught = jnp.asarray(NORMAL, "float32"), teaching(name)[:6]
    plain = LOSSES[name](logits, taught)
    grid = jax.jit(LOSSES[name])(logits.reshape(2, 3, -1), taught.reshape(2, 3, *taught.shape[1:]))
    assert_allclose(grid, plain.reshape(2, 3), rtol=1e-6, atol=1e-6)
    mapped = jax.jit(jax.vmap(LOSSES[name]))(logits, taught)
    assert_allclose(mapped, plain, rtol=1e-6, atol=1e-6)


@each_loss
def test_float64_is_kept_with_its_digits(name):
    with jax.enable_x64(True):
        logits, taught = jnp.asarray(NORMAL), teaching(name, jnp.float64)[:6]
        found = jax.jit(LOSSES[name])(logits, taught)
        assert found.dtype == jnp.float64
        assert_allclose(found, expected_of(name, NORMAL, taught), rtol=1e-13)


@pytest.mark.parametrize("name", ["soft_gambler", "distillation"])
def test_gradients_by_targets_are_finite_at_zero_targets(name):
    gradient = jax.jit(jax.grad(lambda a: LOSSES[name](jnp.asarray(LOGITS, "float32"), a).sum()))
    assert np.all(np.isfinite(gradient(teaching(name))))


@pytest.mark.parametrize("name", ["gambler", "soft_gambler"])
def test_an_infinite_payoff_is_cross_entropy_over_all_columns(name):
    logits, one_hot = jnp.asarray(NORMAL, "float32"), jnp.eye(CLASSES)[LABELS[:6]]
    taught = {"gambler": LABELS[:6], "soft_gambler": one_hot}[name]

    def loss(z, t):
        return getattr(losses, name)(z, t, payoff=np.inf).sum()

    def cross_entropy(z):
        return optax.softmax_cross_entropy_with_integer_labels(z, LABELS[:6]).sum()

    value, gradient = jax.jit(jax.value_and_grad(loss))(logits, taught)
    expected, expected_gradient = jax.jit(jax.value_and_grad(cross_entropy))(logits)
    assert_allclose(value, expected, rtol=1e-6)
    assert_allclose(gradient, expected_gradient, atol=1e-6)


@pytest.mark.parametrize("temperature", [1e2, 1e4])
def test_an_infinite_temperature_matches_centred_logits(temperature):
    teacher, student = NORMAL[:, :-1], NORMAL[::-1, :-1]
    gap = (student - student.mean(1, keepdims=True)) - (teacher - teacher.mean(1, keepdims=True))
    with jax.enable_x64(True):  # T^2 is multiplied with a divergence of 1 / T^2
        targets = jax.nn.softmax(jnp.asarray(teacher) / temperature, axis=-1)
        found = losses.distillation(jnp.asarray(student), targets, temperature=temperature)
    assert_allclose(found, np.sum(gap**2, axis=1) / (2 * CLASSES), rtol=10 / temperature)


def test_distillation_of_one_hot_targets_at_temperature_1_is_cross_entropy():
    logits = jnp.asarray(NORMAL, "float32")
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, LABELS[:6])
    assert_allclose(losses.distillation(logits, jnp.eye(5)[LABELS[:6]]), expected, rtol=1e-6)


def optimum(p, payoff):
    """The minimum of soft_gambler over q, in closed form."""
    order = np.argsort(-p)
    ranked, q = p[order], np.zeros(len(p) + 1)
    if ranked[0] <= 1 / payoff:
        q[-1] = 1
        return q
    for k in range(1, len(p) + 1):
        if k < payoff:
            share = (1 - ranked[:k].sum()) / (payoff - k)
            below = ranked[k] if k < len(p) else 0
            if ranked[k - 1] > share >= below - 1e-12:
                q[:] = 0
                q[order[:k]] = ranked[:k] - share
                q[-1] = payoff * share
    return q


@pytest.mark.parametrize(
    ("targets", "payoff", "bets"),
    [
        ([0.6, 0.25, 0.1, 0.05], 2.2, 1),
        ([0.05, 0.55, 0.05, 0.35], 2.5, 2),
        ([0.15, 0.5, 0.05, 0.3], 3.5, 3),
        ([0.15, 0.5, 0.05, 0.3], 5.0, 4),  # above m: abstaining never pays
        ([0.4, 0.3, 0.2, 0.1], 2.0, 0),  # max p <= 1 / o: abstaining alone pays
    ],
)
def test_gradient_descent_reaches_the_closed_form_of_soft_gambler(targets, payoff, bets):
    gradient = jax.grad(lambda z: losses.soft_gambler(z, jnp.array(targets), payoff=payoff))
    descend = jax.jit(lambda z: jax.lax.fori_loop(0, 20_000, lambda _, z: z - 2 * gradient(z), z))
    logits = np.asarray(descend(jnp.zeros(CLASSES + 1)), np.float64)
    expected = optimum(np.array(targets), payoff)
    assert np.count_nonzero(expected[:-1]) == bets
    assert_allclose(softmax(logits), expected, atol=5e-4)


rows = arrays(np.float32, (3, CLASSES + 1), elements=st.floats(-50, 50, width=32))
some_labels = arrays(np.int32, 3, elements=st.integers(0, CLASSES - 1))


@settings(deadline=None, max_examples=50)
@given(logits=rows, labels=some_labels, payoff=st.floats(1.01, 100))
def test_one_hot_odds_are_the_hard_gambler_loss(logits, labels, payoff):
    soft = jax.jit(losses.soft_gambler)(logits, np.eye(CLASSES)[labels], payoff=payoff)
    hard = jax.jit(losses.gambler)(logits, labels, payoff=payoff)
    assert_allclose(soft, hard, rtol=1e-6, atol=1e-5)


@settings(deadline=None, max_examples=50)
@given(logits=rows, teacher=rows, temperature=st.floats(0.5, 20))
def test_distillation_is_least_at_the_teacher_itself(logits, teacher, temperature):
    targets = softmax(teacher.astype(np.float64) / temperature, axis=-1)
    distil = jax.jit(losses.distillation)
    at_teacher = distil(teacher, targets, temperature=temperature)
    elsewhere = distil(logits, targets, temperature=temperature)
    rounding = 1e-6 * temperature**2 * (1 + 50 / temperature)
    assert_allclose(at_teacher, 0, atol=rounding)
    assert np.all(elsewhere >= at_teacher - 2 * rounding)


@pytest.mark.parametrize("payoff", [1, 0.5, -3.0, np.nan])
@pytest.mark.parametrize("name", ["gambler", "soft_gambler"])
def test_a_payoff_of_at_most_1_is_refused_with_its_value(name, payoff):
    with pytest.raises(InputError, match=rf"payoff {payoff} .*greater than 1"):
        getattr(losses, name)(jnp.zeros((12, 5)), teaching(name), payoff=payoff)


@pytest.mark.parametrize("temperature", [0, -1.0, np.nan])
def test_a_temperature_of_at_most_0_is_refused_with_its_value(temperature):
    with pytest.raises(InputError, match=rf"temperature {temperature} .*greater than 0"):
        losses.distillation(jnp.zeros((1, 3)), jnp.ones((1, 3)), temperature=temperature)


@each_loss
def test_logits_of_the_wrong_kind_are_refused(name):
    taught = teaching(name)
    with pytest.raises(TypeError, match="logits of dtype int32"):
        LOSSES[name](jnp.zeros((12, 5), int), taught)
    with pytest.raises(InputError, match=r"logits of shape .*need \[\.\.\., k\] with k >= "):
        LOSSES[name](jnp.zeros((12, 2)), taught)
    with pytest.raises(InputError, match=r"of shape \(12,.*these logits need \(11,"):
        LOSSES[name](jnp.zeros((11, 5)), taught)


@pytest.mark.parametrize("name", ["soft_gambler", "distillation"])
def test_targets_of_the_wrong_kind_are_refused(name):
    with pytest.raises(InputError, match=r"targets of shape \(12, 4\).*need \(12, 5\)"):
        LOSSES[name](jnp.zeros((12, 6)), teaching(name))
    with pytest.raises(TypeError, match="targets of dtype int32"):
        LOSSES[name](jnp.zeros((12, 5)), jnp.ones((12, 4), int))


def test_labels_may_be_constants_of_a_jitted_function():
    logits, labels = jnp.asarray(NORMAL, "float32"), jnp.asarray(LABELS[:6])
    found = jax.jit(lambda z: losses.gambler(z, labels, payoff=PAYOFF))(logits)
    assert_allclose(found, expected_of("gambler", NORMAL, labels), rtol=1e-5)
    too_high = labels + 1
    with pytest.raises(InputError, match="label 4 is out of range"):
        jax.jit(lambda z: losses.gambler(z, too_high, payoff=PAYOFF))(logits)


def test_the_examples_in_the_docstrings_are_true():
    result = doctest.testmod(losses)
    assert result.attempted > 0 and result.failed == 0
