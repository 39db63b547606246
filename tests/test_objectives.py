import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import entr, log_softmax, softmax

from kdjax.errors import InputError
from kdjax.objectives import METHODS, Hyperparameters

BATCH, CLASSES = 16, 4
HYPER = Hyperparameters(payoff=1.7, weight=0.3, temperature=2.5, epsilon=0.2)
ABSTENTION = ["gambler", "kd_gambler", "ka_gambler_sum", "ka_gambler_soft"]
TEACHER = ["kd", "ka", "kd_gambler", "ka_gambler_sum", "ka_gambler_soft"]
ADJUSTED = ["ka", "ka_gambler_sum", "ka_gambler_soft"]

RNG = np.random.default_rng(0)
STUDENT = jnp.asarray(RNG.normal(size=(BATCH, CLASSES + 1)) * 3, "float32")
TEACHER_LOGITS = jnp.asarray(RNG.normal(size=(BATCH, CLASSES)) * 3, "float32")
LABELS = jnp.arange(BATCH) % CLASSES

each_method = pytest.mark.parametrize("name", METHODS)


# The equations, for one example in float64: z and t are logits, y the label, p a distribution.


def adjusted(p, y, adjustment):
    wrong = p.argmax()
    if wrong == y or adjustment == "none":
        return p
    if adjustment == "label_smooth_regularization":
        return np.where(np.arange(CLASSES) == y, 1 - HYPER.epsilon, HYPER.epsilon / (CLASSES - 1))
    p = p.copy()
    p[[y, wrong]] = p[[wrong, y]]
    return p


def cross_entropy(z, y):
    return -log_softmax(z[:-1])[y]


def distillation(z, p):
    scale = HYPER.temperature
    return scale**2 * np.sum(-entr(p) - p * log_softmax(z[:-1] / scale))


def log_with_abstention(z):
    """log(q_i + q_a / o) of every class."""
    q = softmax(z)
    return np.log(q[:-1] + q[-1] / HYPER.payoff)


def expected_parts(name, z, t, y, adjustment):
    p = softmax(t / HYPER.temperature)
    a = adjusted(p, y, adjustment)
    return {
        "ce": lambda: {"cross_entropy": cross_entropy(z, y)},
        "kd": lambda: {
            "cross_entropy": cross_entropy(z, y),
            "distillation": HYPER.weight * distillation(z, p),
        },
        "ka": lambda: {"distillation": distillation(z, a)},
        "gambler": lambda: {"gambler": -log_with_abstention(z)[y]},
        "kd_gambler": lambda: {
            "gambler": -log_with_abstention(z)[y],
            "distillation": HYPER.weight * distillation(z, p),
        },
        "ka_gambler_sum": lambda: {
            "gambler": -log_with_abstention(z)[y],
            "distillation": HYPER.weight * distillation(z, a),
        },
        "ka_gambler_soft": lambda: {"soft_gambler": -a @ log_with_abstention(z)},
    }[name]()


def test_methods_and_their_flags_are_as_documented():
    assert set(METHODS) == {"ce", *TEACHER, *ABSTENTION}
    assert [name for name, method in METHODS.items() if method.needs_teacher] == TEACHER
    assert [name for name, method in METHODS.items() if method.abstains] == ABSTENTION
    assert [name for name, method in METHODS.items() if method.adjusts] == ADJUSTED


def measured_flags(method):
    """The flags of a method according to what its function does."""

    def loss(student, teacher=TEACHER_LOGITS, adjustment="probability_shift"):
        return method(student, teacher, LABELS, hyper=HYPER.replace(adjustment=adjustment))[0]

    try:
        loss(STUDENT, teacher=None)
        needs_teacher = False
    except InputError:
        needs_teacher = True
    gradient = jax.jit(jax.grad(lambda student: loss(student).sum()))(STUDENT)
    assert np.any(TEACHER_LOGITS.argmax(axis=1) != LABELS)
    adjusts = np.any(loss(STUDENT) != loss(STUDENT, adjustment="none"))
    return {
        "needs_teacher": needs_teacher,
        "abstains": bool(np.any(gradient[:, -1] != 0)),
        "adjusts": bool(adjusts),
    }


def stated_flags(method):
    return {name: getattr(method, name) for name in ("needs_teacher", "abstains", "adjusts")}


@pytest.mark.slow
@each_method
def test_flags_of_a_method_match_its_function(name):
    assert measured_flags(METHODS[name]) == stated_flags(METHODS[name])


@pytest.mark.parametrize("flag", ["needs_teacher", "abstains", "adjusts"])
@pytest.mark.parametrize("name", ["ce", "ka_gambler_sum"])
def test_a_wrong_flag_of_a_method_is_detected(name, flag):
    wrong = dataclasses.replace(METHODS[name], **{flag: not getattr(METHODS[name], flag)})
    assert measured_flags(wrong) != stated_flags(wrong)


@pytest.mark.parametrize(
    ("name", "adjustment"),
    [
        *[(name, "probability_shift") for name in METHODS],
        *[(name, "label_smooth_regularization") for name in ADJUSTED],
        *[(name, "none") for name in ADJUSTED],
    ],
)
def test_methods_match_their_equations_part_by_part(name, adjustment):
    hyper = HYPER.replace(adjustment=adjustment)
    method = jax.jit(lambda z, t, y: METHODS[name](z, t, y, hyper=hyper))
    loss, parts = method(STUDENT, TEACHER_LOGITS, LABELS)
    rows = zip(
        np.asarray(STUDENT, "f8"), np.asarray(TEACHER_LOGITS, "f8"), LABELS.tolist(), strict=True
    )
    expected = [expected_parts(name, *row, adjustment) for row in rows]
    assert parts.keys() == expected[0].keys()
    for part, values in parts.items():
        assert_allclose(values, [row[part] for row in expected], rtol=1e-5, atol=1e-6)
    assert loss.shape == (BATCH,) and loss.dtype == jnp.float32
    assert_allclose(loss, [sum(row.values()) for row in expected], rtol=1e-5, atol=1e-6)


@each_method
def test_jit_with_traced_hyperparameters_does_not_change_the_loss(name):
    plain, _ = METHODS[name](STUDENT, TEACHER_LOGITS, LABELS, hyper=HYPER)
    method = jax.jit(lambda z, t, y, h: METHODS[name](z, t, y, hyper=h)[0])
    assert_allclose(method(STUDENT, TEACHER_LOGITS, LABELS, HYPER), plain, rtol=1e-6, atol=1e-6)


@each_method
def test_only_abstaining_methods_have_a_gradient_in_the_last_column(name):
    def loss(z, y):
        return METHODS[name](z, TEACHER_LOGITS, y, hyper=HYPER)[0].sum()

    last = jax.jit(jax.grad(loss))(STUDENT, LABELS)[:, -1]
    assert np.all(last != 0) if name in ABSTENTION else np.all(last == 0)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_extreme_logits_give_finite_losses_and_gradients(dtype):
    signs = np.indices([3] * (CLASSES + 1)).reshape(CLASSES + 1, -1).T - 1
    student, labels = jnp.asarray(1e4 * signs, dtype), jnp.arange(len(signs)) % CLASSES

    def loss(z, y, name):
        values = METHODS[name](z, -student[:, :-1], y, hyper=HYPER)[0]
        return values.sum(dtype="float32"), values

    def all_losses(z, y):  # one program compiles faster than seven
        return {name: jax.grad(loss, has_aux=True)(z, y, name) for name in METHODS}

    gradients_and_losses = jax.jit(all_losses)(student, labels)
    finite = jax.tree.map(lambda value: bool(np.all(np.isfinite(value))), gradients_and_losses)
    assert finite == dict.fromkeys(METHODS, (True, True))


@each_method
def test_methods_without_teacher_logits_raise_unless_they_need_none(name):
    if name in TEACHER:
        with pytest.raises(InputError, match="needs teacher logits"):
            METHODS[name](STUDENT, None, LABELS, hyper=HYPER)
    else:
        without_teacher, _ = METHODS[name](STUDENT, None, LABELS, hyper=HYPER)
        assert_array_equal(
            without_teacher, METHODS[name](STUDENT, TEACHER_LOGITS, LABELS, hyper=HYPER)[0]
        )


@pytest.mark.parametrize("name", ADJUSTED)
def test_unknown_adjustment_raises_with_the_nearest_name(name):
    hyper = HYPER.replace(adjustment="probability_swift")
    with pytest.raises(InputError, match=r"'probability_swift'.*mean 'probability_shift'.*none"):
        METHODS[name](STUDENT, TEACHER_LOGITS, LABELS, hyper=hyper)


@pytest.mark.parametrize("name", TEACHER)
@pytest.mark.parametrize("temperature", [0, -1.0, np.inf, 1e-40])
def test_temperature_out_of_range_raises_with_its_value(name, temperature):
    with pytest.raises(InputError, match=f"temperature {temperature} .*must lie in"):
        METHODS[name](STUDENT, TEACHER_LOGITS, LABELS, hyper=HYPER.replace(temperature=temperature))


@pytest.mark.parametrize("name", TEACHER)
def test_teacher_with_another_number_of_classes_raises_with_the_shapes(name):
    with pytest.raises(InputError, match=r"targets of shape \(16, 5\).*need \(16, 4\)"):
        METHODS[name](STUDENT, STUDENT, LABELS, hyper=HYPER)


PER_EXAMPLE = {
    "payoff": np.linspace(1.2, 4, BATCH, dtype="f4"),
    "weight": np.linspace(0, 2, BATCH, dtype="f4"),
    "temperature": np.linspace(0.5, 9, BATCH, dtype="f4"),
    "epsilon": np.linspace(0, 0.7, BATCH, dtype="f4"),
}


@each_method
def test_hyperparameters_of_each_example_give_the_loss_of_that_example(name):
    hyper = HYPER.replace(adjustment="label_smooth_regularization")
    method = jax.jit(lambda z, t, y, h: METHODS[name](z, t, y, hyper=h)[0])
    actual = method(STUDENT, TEACHER_LOGITS, LABELS, hyper.replace(**PER_EXAMPLE))
    expected = []
    for i in range(BATCH):
        scalars = {field: jnp.float32(values[i]) for field, values in PER_EXAMPLE.items()}
        rows = (each[i : i + 1] for each in (STUDENT, TEACHER_LOGITS, LABELS))
        expected.append(method(*rows, hyper.replace(**scalars))[0])
    assert actual.shape == (BATCH,)
    assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("field", PER_EXAMPLE)
@pytest.mark.parametrize("shape", [(BATCH, 1), (1, 1), (CLASSES,)])
def test_hyperparameter_of_another_shape_raises_with_the_shapes(field, shape):
    hyper = HYPER.replace(
        adjustment="label_smooth_regularization", **{field: np.full(shape, PER_EXAMPLE[field][4])}
    )
    with pytest.raises(InputError, match=rf"{field} of shape .*one value per example, \(16,\)"):
        METHODS["ka_gambler_sum"](STUDENT, TEACHER_LOGITS, LABELS, hyper=hyper)
