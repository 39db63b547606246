import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import entr, log_softmax, softmax
from support import loss_equations

from kdjax.errors import InputError
from kdjax.objectives import METHODS, Hyperparameters

BATCH, CLASSES = 16, 4
HYPER = Hyperparameters(
    payoff=1.7,
    distill_weight=0.3,
    temperature=2.5,
    epsilon=0.2,
    target_weight=0.7,
    non_target_weight=3.0,
    inter_class_weight=0.6,
    intra_class_weight=1.5,
    target_momentum=0.8,
)
ABSTENTION = [
    *("gambler", "kd_gambler", "ka_gambler_sum", "ka_gambler_soft"),
    *("reservation_distillation", "self_adaptive"),
]
TEACHER = [
    *("kd", "ka", "dkd", "dist", "rld", "kd_gambler", "ka_gambler_sum", "ka_gambler_soft"),
    "reservation_distillation",
]
ADJUSTED = ["ka", "ka_gambler_sum", "ka_gambler_soft", "reservation_distillation"]
RUNNING = ["self_adaptive"]
# Methods whose distillation term can be computed from standardized logits.
STANDARDIZED = ["kd", "ka", "dkd", "dist", "rld", "kd_gambler", "ka_gambler_sum"]

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
    if adjustment == "refined":
        scaled = p * (1 - p[wrong]) / (1 - p[y])
        return np.where(np.arange(CLASSES) == y, p[wrong], scaled)
    if adjustment == "label_smooth_regularization":
        return np.where(np.arange(CLASSES) == y, 1 - HYPER.epsilon, HYPER.epsilon / (CLASSES - 1))
    p = p.copy()
    p[[y, wrong]] = p[[wrong, y]]
    return p


def cross_entropy(z, y):
    return -log_softmax(z[:-1])[y]


def distillation(v, p):
    scale = HYPER.temperature
    return scale**2 * np.sum(-entr(p) - p * log_softmax(v / scale))


def decoupled(equation, v, t, y):
    weights = {"target_weight": 0.7, "non_target_weight": 3.0}
    return equation(v, t, y, temperature=HYPER.temperature, **weights)


def over_all_outputs(z, target):
    """Cross-entropy with a distribution over classes and abstention."""
    return -target @ log_softmax(z)


def running_target(z, y):
    s = HYPER.target_momentum + (1 - HYPER.target_momentum) * softmax(z[:-1])[y]
    return s * np.eye(CLASSES + 1)[y] + (1 - s) * np.eye(CLASSES + 1)[-1]


def log_with_abstention(z):
    """log(q_i + q_a / o) of every class."""
    q = softmax(z)
    return np.log(q[:-1] + q[-1] / HYPER.payoff)


def expected_parts(name, z, t, y, adjustment, standardize=False):
    v = z[:-1]
    if standardize:
        v, t = map(loss_equations.standardized, (v, t))
    p = softmax(t / HYPER.temperature)
    a = adjusted(p, y, adjustment)
    return {
        "ce": lambda: {"cross_entropy": cross_entropy(z, y)},
        "kd": lambda: {
            "cross_entropy": cross_entropy(z, y),
            "distillation": HYPER.distill_weight * distillation(v, p),
        },
        "ka": lambda: {"distillation": distillation(v, a)},
        "dkd": lambda: {
            "cross_entropy": cross_entropy(z, y),
            "distillation": HYPER.distill_weight * decoupled(loss_equations.dkd, v, t, y),
        },
        "rld": lambda: {
            "cross_entropy": cross_entropy(z, y),
            "distillation": HYPER.distill_weight * decoupled(loss_equations.rld, v, t, y),
        },
        "reservation_distillation": lambda: {
            "reservation": over_all_outputs(
                z,
                np.append(softmax(t)[y] * adjusted(softmax(t), y, adjustment), 1 - softmax(t)[y]),
            )
        },
        "self_adaptive": lambda: {"self_adaptive": over_all_outputs(z, running_target(z, y))},
        "gambler": lambda: {"gambler": -log_with_abstention(z)[y]},
        "kd_gambler": lambda: {
            "gambler": -log_with_abstention(z)[y],
            "distillation": HYPER.distill_weight * distillation(v, p),
        },
        "ka_gambler_sum": lambda: {
            "gambler": -log_with_abstention(z)[y],
            "distillation": HYPER.distill_weight * distillation(v, a),
        },
        "ka_gambler_soft": lambda: {"soft_gambler": -a @ log_with_abstention(z)},
    }[name]()


def expected_batch(name, adjustment, standardize=False):
    """The parts of a method for the examples of this module."""
    z, t = np.asarray(STUDENT, "f8"), np.asarray(TEACHER_LOGITS, "f8")
    if name != "dist":
        rows = zip(z, t, LABELS.tolist(), strict=True)
        parts = [expected_parts(name, *row, adjustment, standardize) for row in rows]
        return {part: np.array([row[part] for row in parts]) for part in parts[0]}
    rows = (
        np.apply_along_axis(loss_equations.standardized, 1, each) if standardize else each
        for each in (z[:, :-1], t)
    )
    weights = {"inter_class_weight": 0.6, "intra_class_weight": 1.5}
    correlations = loss_equations.dist(*rows, temperature=HYPER.temperature, **weights)
    return {
        "cross_entropy": np.array([cross_entropy(*row) for row in zip(z, LABELS, strict=True)]),
        "distillation": HYPER.distill_weight * correlations,
    }


def test_methods_and_their_flags_are_as_documented():
    assert set(METHODS) == {"ce", *TEACHER, *ABSTENTION}
    assert [name for name, method in METHODS.items() if method.needs_teacher] == TEACHER
    assert [name for name, method in METHODS.items() if method.abstains] == ABSTENTION
    assert [name for name, method in METHODS.items() if method.adjusts] == ADJUSTED
    assert [name for name, method in METHODS.items() if method.running_targets] == RUNNING


def jit_losses(name, teacher, hypers):
    """The losses of a method for each of the hyperparameters, computed by one program."""
    return jax.jit(
        lambda z: [METHODS[name](z, teacher, LABELS, hyper=hyper)[0] for hyper in hypers]
    )(STUDENT)


def measured_flags(method):
    """The flags of a method according to what its function does."""

    def loss(student, teacher=TEACHER_LOGITS, adjustment="probability_shift"):
        return method(student, teacher, LABELS, hyper=HYPER.replace(adjustment=adjustment))[0]

    try:
        jax.eval_shape(lambda: loss(STUDENT, teacher=None))
        needs_teacher = False
    except InputError:
        needs_teacher = True

    @jax.jit
    def run(student):
        gradient = jax.grad(lambda student: loss(student).sum())(student)
        return gradient, loss(student), loss(student, adjustment="none")

    gradient, adjusted_loss, plain_loss = run(STUDENT)
    assert np.any(TEACHER_LOGITS.argmax(axis=1) != LABELS)
    adjusts = np.any(adjusted_loss != plain_loss)
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


# The config fields of a method and the hyperparameters that they set.
CHANGES = {
    "payoff": {"payoff": 2.5},
    "distill_weight": {"distill_weight": 0.9},
    "temperature": {"temperature": 1.5},
    "logit_standardization": {"logit_standardization": True},
    "adjustment": {"adjustment": "none"},
    "epsilon": {"epsilon": 0.4},
    "target_weight": {"target_weight": 2.0},
    "non_target_weight": {"non_target_weight": 1.0},
    "inter_class_weight": {"inter_class_weight": 2.0},
    "intra_class_weight": {"intra_class_weight": 1.0},
    "target_momentum": {"target_momentum": 0.5},
}


@pytest.mark.slow
@each_method
def test_stated_fields_of_a_method_are_those_that_change_its_loss(name):
    hyper = HYPER.replace(adjustment="label_smooth_regularization")
    fields = {field.name for field in dataclasses.fields(Hyperparameters)}
    assert fields == {key for change in CHANGES.values() for key in change}

    @jax.jit
    def loss(hyper):
        return METHODS[name](STUDENT, TEACHER_LOGITS, LABELS, hyper=hyper)[0]

    plain, changed = loss(hyper), {f: loss(hyper.replace(**c)) for f, c in CHANGES.items()}
    measured = [field for field, values in changed.items() if np.any(values != plain)]
    if "distill_weight" in measured:
        measured.append("distill_warmup_epochs")
    assert sorted(METHODS[name].fields) == sorted(measured)


@pytest.mark.parametrize(
    ("adjustment", "standardize", "names"),
    [
        ("probability_shift", False, list(METHODS)),
        ("label_smooth_regularization", False, ADJUSTED),
        ("refined", False, ADJUSTED),
        ("none", False, ADJUSTED),
        pytest.param("probability_shift", True, STANDARDIZED, marks=pytest.mark.slow),
        pytest.param("refined", True, ["ka", "ka_gambler_sum"], marks=pytest.mark.slow),
    ],
)
def test_methods_match_their_equations_part_by_part(adjustment, standardize, names):
    hyper = HYPER.replace(adjustment=adjustment, logit_standardization=standardize)

    @jax.jit  # one program compiles faster than one for each method
    def run(z, t, y):
        return {name: METHODS[name](z, t, y, hyper=hyper) for name in names}

    for name, (loss, parts) in run(STUDENT, TEACHER_LOGITS, LABELS).items():
        expected = expected_batch(name, adjustment, standardize)
        assert parts.keys() == expected.keys()
        for part, values in parts.items():
            assert_allclose(values, expected[part], rtol=1e-5, atol=2e-6, err_msg=name)
        assert loss.shape == (BATCH,) and loss.dtype == jnp.float32
        assert_allclose(loss, sum(expected.values()), rtol=1e-5, atol=2e-6, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ka_gambler_soft", "reservation_distillation"])
def test_standardization_has_no_effect_on_targets_over_all_outputs(name):
    plain, changed = jit_losses(
        name, TEACHER_LOGITS, [HYPER, HYPER.replace(logit_standardization=True)]
    )
    assert_array_equal(plain, changed)


@pytest.mark.slow
def test_jit_with_traced_hyperparameters_does_not_change_the_loss():
    def losses(hyper):
        run = {name: METHODS[name] for name in METHODS}
        return {n: m(STUDENT, TEACHER_LOGITS, LABELS, hyper=hyper)[0] for n, m in run.items()}

    traced, plain = jax.jit(losses)(HYPER), jax.jit(lambda: losses(HYPER))()
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-6, atol=1e-6), traced, plain)


@pytest.mark.slow
def test_only_abstaining_methods_have_a_gradient_in_the_last_column():
    def loss(z, name):
        return METHODS[name](z, TEACHER_LOGITS, LABELS, hyper=HYPER)[0].sum()

    gradients = jax.jit(lambda z: {name: jax.grad(loss)(z, name) for name in METHODS})(STUDENT)
    for name, gradient in gradients.items():
        last = gradient[:, -1]
        assert np.all(last != 0) if name in ABSTENTION else np.all(last == 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "standardize"),
    [(jnp.float32, False), (jnp.bfloat16, False), (jnp.float16, False), (jnp.float16, True)],
)
def test_extreme_logits_give_finite_losses_and_gradients(dtype, standardize):
    signs = np.indices([3] * (CLASSES + 1)).reshape(CLASSES + 1, -1).T - 1
    student, labels = jnp.asarray(1e4 * signs, dtype), jnp.arange(len(signs)) % CLASSES

    hyper = HYPER.replace(logit_standardization=standardize)
    names = ["kd", "dkd", "dist", "rld"] if standardize else list(METHODS)

    def loss(z, y, name):
        values = METHODS[name](z, -student[:, :-1], y, hyper=hyper)[0]
        return values.sum(dtype="float32"), values

    def all_losses(z, y):  # one program compiles faster than one for each
        return {name: jax.grad(loss, has_aux=True)(z, y, name) for name in names}

    gradients_and_losses = jax.jit(all_losses)(student, labels)
    finite = jax.tree.map(lambda value: bool(np.all(np.isfinite(value))), gradients_and_losses)
    assert finite == dict.fromkeys(names, (True, True))


@each_method
def test_methods_without_teacher_logits_raise_unless_they_need_none(name):
    if name in TEACHER:
        with pytest.raises(InputError, match="needs teacher logits"):
            METHODS[name](STUDENT, None, LABELS, hyper=HYPER)
    else:
        without, with_teacher = (
            jit_losses(name, teacher, [HYPER]) for teacher in (None, TEACHER_LOGITS)
        )
        assert_array_equal(without, with_teacher)


@pytest.mark.parametrize("name", ADJUSTED)
def test_unknown_adjustment_raises_with_the_nearest_name(name):
    hyper = HYPER.replace(adjustment="probability_swift")
    with pytest.raises(InputError, match=r"'probability_swift'.*mean 'probability_shift'.*none"):
        METHODS[name](STUDENT, TEACHER_LOGITS, LABELS, hyper=hyper)


@pytest.mark.parametrize("name", [name for name in TEACHER if "reservation" not in name])
@pytest.mark.parametrize("temperature", [0, -1.0, np.inf, 1e-40])
def test_temperature_out_of_range_raises_with_its_value(name, temperature):
    with pytest.raises(InputError, match=f"temperature {temperature} .*must lie in"):
        METHODS[name](STUDENT, TEACHER_LOGITS, LABELS, hyper=HYPER.replace(temperature=temperature))


@pytest.mark.slow
@pytest.mark.parametrize("name", TEACHER)
def test_teacher_with_another_number_of_classes_raises_with_the_shapes(name):
    shapes = {"reservation_distillation": (r"\(16, 6\)", r"\(16, 5\)")}
    given, needed = shapes.get(name, (r"\(16, 5\)", r"\(16, 4\)"))
    message = rf"(targets|teacher logits) of shape {given}.*need {needed}"
    with pytest.raises(InputError, match=message):
        METHODS[name](STUDENT, STUDENT, LABELS, hyper=HYPER)


PER_EXAMPLE = {
    "payoff": np.linspace(1.2, 4, BATCH, dtype="f4"),
    "distill_weight": np.linspace(0, 2, BATCH, dtype="f4"),
    "temperature": np.linspace(0.5, 9, BATCH, dtype="f4"),
    "epsilon": np.linspace(0, 0.7, BATCH, dtype="f4"),
    "target_weight": np.linspace(0, 3, BATCH, dtype="f4"),
    "non_target_weight": np.linspace(9, 1, BATCH, dtype="f4"),
    "target_momentum": np.linspace(0, 0.9, BATCH, dtype="f4"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in METHODS if name != "dist"])
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
    decoupled = ("target_weight", "non_target_weight")
    names = {"target_momentum": "self_adaptive", **dict.fromkeys(decoupled, "dkd")}
    method = METHODS[names.get(field, "ka_gambler_sum")]
    with pytest.raises(InputError, match=rf"{field} of shape .*one value per example, \(16,\)"):
        jax.eval_shape(lambda z: method(z, TEACHER_LOGITS, LABELS, hyper=hyper), STUDENT)
