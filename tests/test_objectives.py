import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import entr, log_softmax, softmax

from kdjax.errors import InputError
from kdjax.objectives import METHODS, WITH_ABSTENTION, WITH_TEACHER, Hyper

BATCH, CLASSES = 16, 4
HYPER = Hyper(payoff=1.7, weight=0.3, temperature=2.5, epsilon=0.2)
ABSTENTION = ["gambler", "kd_gambler", "ka_gambler_sum", "ka_gambler_soft"]
TEACHER = ["kd", "ka", "kd_gambler", "ka_gambler_sum", "ka_gambler_soft"]
ADJUSTED = ["ka", "ka_gambler_sum", "ka_gambler_soft"]

RNG = np.random.default_rng(0)
STUDENT = jnp.asarray(RNG.normal(size=(BATCH, CLASSES + 1)) * 3, "float32")
TEACHING = jnp.asarray(RNG.normal(size=(BATCH, CLASSES)) * 3, "float32")
LABELS = jnp.arange(BATCH) % CLASSES

each_method = pytest.mark.parametrize("name", METHODS)


# The equations, for one example in float64: z and t are logits, y the label, p a distribution.


def corrected(p, y, adjustment):
    wrong = p.argmax()
    if wrong == y or adjustment == "none":
        return p
    if adjustment == "label_smooth_regularization":
        return np.where(np.arange(CLASSES) == y, 1 - HYPER.epsilon, HYPER.epsilon / (CLASSES - 1))
    p = p.copy()
    p[[y, wrong]] = p[[wrong, y]]
    return p


def cross_entropy_of(z, y):
    return -log_softmax(z[:-1])[y]


def distillation_of(z, p):
    scale = HYPER.temperature
    return scale**2 * np.sum(-entr(p) - p * log_softmax(z[:-1] / scale))


def log_bets(z):
    q = softmax(z)
    return np.log(q[:-1] + q[-1] / HYPER.payoff)


def parts_of(name, z, t, y, adjustment):
    p = softmax(t / HYPER.temperature)
    a = corrected(p, y, adjustment)
    return {
        "ce": lambda: {"cross_entropy": cross_entropy_of(z, y)},
        "kd": lambda: {
            "cross_entropy": cross_entropy_of(z, y),
            "distillation": HYPER.weight * distillation_of(z, p),
        },
        "ka": lambda: {"distillation": distillation_of(z, a)},
        "gambler": lambda: {"gambler": -log_bets(z)[y]},
        "kd_gambler": lambda: {
            "gambler": -log_bets(z)[y],
            "distillation": HYPER.weight * distillation_of(z, p),
        },
        "ka_gambler_sum": lambda: {
            "gambler": -log_bets(z)[y],
            "distillation": HYPER.weight * distillation_of(z, a),
        },
        "ka_gambler_soft": lambda: {"soft_gambler": -a @ log_bets(z)},
    }[name]()


def test_the_methods_are_those_of_the_contract():
    assert set(METHODS) == {"ce", *TEACHER, *ABSTENTION}
    assert set(TEACHER) == WITH_TEACHER
    assert set(ABSTENTION) == WITH_ABSTENTION


@pytest.mark.parametrize(
    ("name", "adjustment"),
    [
        *[(name, "probability_shift") for name in METHODS],
        *[(name, "label_smooth_regularization") for name in ADJUSTED],
        *[(name, "none") for name in ADJUSTED],
    ],
)
def test_methods_follow_their_equations_part_by_part(name, adjustment):
    hyper = HYPER.replace(adjustment=adjustment)
    method = jax.jit(lambda z, t, y: METHODS[name](z, t, y, hyper=hyper))
    loss, parts = method(STUDENT, TEACHING, LABELS)
    exact = zip(np.asarray(STUDENT, "f8"), np.asarray(TEACHING, "f8"), LABELS.tolist(), strict=True)
    expected = [parts_of(name, *row, adjustment) for row in exact]
    assert parts.keys() == expected[0].keys()
    for part, found in parts.items():
        assert_allclose(found, [row[part] for row in expected], rtol=1e-5, atol=1e-6)
    assert loss.shape == (BATCH,) and loss.dtype == jnp.float32
    assert_allclose(loss, [sum(row.values()) for row in expected], rtol=1e-5, atol=1e-6)


@each_method
def test_jit_with_traced_hyper_parameters_changes_nothing(name):
    plain, _ = METHODS[name](STUDENT, TEACHING, LABELS, hyper=HYPER)
    method = jax.jit(lambda z, t, y, h: METHODS[name](z, t, y, hyper=h)[0])
    assert_allclose(method(STUDENT, TEACHING, LABELS, HYPER), plain, rtol=1e-6, atol=1e-6)


@each_method
def test_only_the_abstaining_methods_see_the_last_column(name):
    def loss(z, y):
        return METHODS[name](z, TEACHING, y, hyper=HYPER)[0].sum()

    last = jax.jit(jax.grad(loss))(STUDENT, LABELS)[:, -1]
    assert np.all(last != 0) if name in ABSTENTION else np.all(last == 0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_extreme_logits_give_finite_losses_and_gradients(dtype):
    signs = np.indices([3] * (CLASSES + 1)).reshape(CLASSES + 1, -1).T - 1
    student, labels = jnp.asarray(1e4 * signs, dtype), jnp.arange(len(signs)) % CLASSES

    def loss(z, y, name):
        values = METHODS[name](z, -student[:, :-1], y, hyper=HYPER)[0]
        return values.sum(dtype="float32"), values

    def all_losses(z, y):  # in one program, which compiles faster than seven
        return {name: jax.grad(loss, has_aux=True)(z, y, name) for name in METHODS}

    found = jax.jit(all_losses)(student, labels)
    finite = jax.tree.map(lambda value: bool(np.all(np.isfinite(value))), found)
    assert finite == dict.fromkeys(METHODS, (True, True))


@each_method
def test_a_method_without_its_teacher_is_refused_and_others_need_none(name):
    if name in TEACHER:
        with pytest.raises(InputError, match="needs teacher logits"):
            METHODS[name](STUDENT, None, LABELS, hyper=HYPER)
    else:
        alone, _ = METHODS[name](STUDENT, None, LABELS, hyper=HYPER)
        assert_array_equal(alone, METHODS[name](STUDENT, TEACHING, LABELS, hyper=HYPER)[0])


@pytest.mark.parametrize("name", ADJUSTED)
def test_an_unknown_adjustment_is_refused_with_the_nearest(name):
    hyper = HYPER.replace(adjustment="probability_swift")
    with pytest.raises(InputError, match=r"'probability_swift'.*mean 'probability_shift'.*none"):
        METHODS[name](STUDENT, TEACHING, LABELS, hyper=hyper)


@pytest.mark.parametrize("name", TEACHER)
@pytest.mark.parametrize("temperature", [0, -1.0])
def test_a_temperature_of_at_most_0_is_refused_with_its_value(name, temperature):
    with pytest.raises(InputError, match=f"temperature {temperature} .*greater than 0"):
        METHODS[name](STUDENT, TEACHING, LABELS, hyper=HYPER.replace(temperature=temperature))


@pytest.mark.parametrize("name", TEACHER)
def test_a_teacher_of_other_classes_is_refused_with_the_shapes(name):
    with pytest.raises(InputError, match=r"targets of shape \(16, 5\).*need \(16, 4\)"):
        METHODS[name](STUDENT, STUDENT, LABELS, hyper=HYPER)
