"""Losses whose target is a teacher's output: `dkd`, `rld` and `dist`."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import softmax
from support import loss_equations

from kdjax import losses
from kdjax.errors import InputError
from kdjax.runtime import sharding

CLASSES, TEMPERATURE = 4, 2.5
WEIGHTS = {"target_weight": 0.7, "non_target_weight": 3.0}
CORRELATION_WEIGHTS = {"inter_class_weight": 0.7, "intra_class_weight": 3.0}
RNG = np.random.default_rng(0)
NORMAL = RNG.normal(size=(2, 24, CLASSES)) * 3  # the student's and the teacher's logits
# Large logits of either sign, and ties: every row of the student with every row of the teacher.
ROWS = 1e4 * np.array([[1, -1, 0, 0], [-1, 1, 1, 1], [-1, 0, 1, -1], [0, 0, 0, 0], [1, 1, -1, -1]])
EXTREME = np.array(list(itertools.product(ROWS, ROWS, range(CLASSES))), object)
STUDENT, TEACHER = (
    np.concatenate([normal, np.stack(EXTREME[:, column])]) for column, normal in enumerate(NORMAL)
)
LABELS = np.concatenate([np.arange(24) % CLASSES, EXTREME[:, 2].astype(int)])


def by_label(name, temperature=TEMPERATURE):
    """`dkd` or `rld`, and its equation for a batch."""
    options = {"temperature": temperature, **WEIGHTS}

    def equation(student, teacher, labels):
        rows = zip(student, teacher, labels, strict=True)
        return np.array([getattr(loss_equations, name)(*row, **options) for row in rows])

    return functools.partial(getattr(losses, name), **options), equation


def by_correlation(temperature=TEMPERATURE):
    options = {"temperature": temperature, **CORRELATION_WEIGHTS}
    return functools.partial(losses.dist, **options), functools.partial(
        loss_equations.dist, **options
    )


LOSSES = {"dkd": by_label("dkd"), "rld": by_label("rld"), "dist": by_correlation()}


def float64(*arrays):
    return (np.asarray(array, np.float64) for array in arrays)


labelled = pytest.mark.parametrize("name", ["dkd", "rld"])
each_dtype = pytest.mark.parametrize(
    "dtype",
    [jnp.float32, *(pytest.param(t, marks=pytest.mark.slow) for t in (jnp.bfloat16, jnp.float16))],
)


def with_gradients(student, teacher, labels):
    """The values of all losses and the gradients of their sums; one program compiles faster."""

    def total(v, name):
        arguments = (teacher,) if name == "dist" else (teacher, labels)
        values = LOSSES[name][0](v, *arguments)
        return values.sum(), values

    return {name: jax.grad(total, has_aux=True)(student, name) for name in LOSSES}


@pytest.mark.slow
@each_dtype
def test_losses_match_their_equations_and_have_finite_gradients(dtype):
    student, teacher = jnp.asarray(STUDENT, dtype), jnp.asarray(TEACHER, dtype)
    results = jax.jit(with_gradients)(student, teacher, LABELS)
    for name, (gradient, values) in results.items():
        labels = () if name == "dist" else (LABELS,)
        expected = LOSSES[name][1](*float64(student, teacher), *labels)
        assert values.dtype == jnp.float32
        assert_allclose(values, expected, rtol=1e-5, atol=2e-6, err_msg=name)
        assert gradient.dtype == dtype and np.all(np.isfinite(gradient))


@pytest.mark.slow
def test_gradients_match_finite_differences_of_the_equations():
    student, teacher, labels = *NORMAL[:, :6], LABELS[:6]
    results = jax.jit(with_gradients)(np.float32(student), np.float32(teacher), labels)
    for name, (gradient, _) in results.items():
        _, equation = LOSSES[name]
        arguments = (teacher,) if name == "dist" else (teacher, labels)
        shifts = 1e-5 * np.eye(student.size).reshape(-1, *student.shape)
        differences = [
            np.sum(equation(student + s, *arguments) - equation(student - s, *arguments))
            for s in shifts
        ]
        assert_allclose(gradient.ravel(), np.array(differences) / 2e-5, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@labelled
def test_jit_and_vmap_do_not_change_the_values(name):
    loss, equation = by_label(name)
    arguments = (*map(np.float32, NORMAL), LABELS[:24])
    mapped = jax.jit(jax.vmap(loss))(*arguments)
    assert_allclose(mapped, equation(*float64(*arguments[:2]), LABELS[:24]), rtol=1e-5)
    grid = jax.jit(loss)(*(array.reshape(4, 6, *array.shape[1:]) for array in arguments))
    assert_allclose(grid, mapped.reshape(4, 6), rtol=1e-6)


def test_dist_compares_the_examples_of_each_batch_apart():
    loss, equation = by_correlation()
    student, teacher = np.float32(NORMAL).reshape(2, 3, 8, CLASSES)
    batches = jax.jit(loss)(student, teacher)
    assert batches.shape == (3, 8)
    expected = [equation(*float64(*pair)) for pair in zip(student, teacher, strict=True)]
    assert_allclose(batches, expected, rtol=1e-5)
    assert_allclose(jax.jit(jax.vmap(loss))(student, teacher), expected, rtol=1e-5)


def test_dist_of_an_empty_batch_is_empty():
    assert losses.dist(jnp.zeros((2, 0, 3)), jnp.zeros((2, 0, 3))).shape == (2, 0)


def test_dist_of_a_batch_that_is_sharded_over_devices_is_that_of_the_whole_batch():
    loss, equation = by_correlation()
    arrays = [jax.device_put(np.float32(array), sharding.batch_sharding()) for array in NORMAL]
    assert len(arrays[0].sharding.device_set) == 4
    assert_allclose(jax.jit(loss)(*arrays), equation(*NORMAL), rtol=1e-5)


def test_dist_does_not_see_an_affine_change_of_the_probabilities():
    # With two classes of equal probability and one other, r_i -> a r_i + c, by example and class.
    p = np.stack([np.full(5, 0.0), *np.full((2, 5), np.linspace(0.1, 0.3, 5))]).T
    p[:, 0] = 1 - p.sum(axis=1)
    r = 0.5 * p + 0.5 / 3
    dist = jax.jit(functools.partial(losses.dist, temperature=1.0))
    assert_allclose(dist(np.log(r), np.log(p)), 0, atol=1e-5)
    assert np.all(dist(np.log(r[::-1]), np.log(p)) > 1)


@pytest.mark.parametrize("examples", [2, 7, 13, 100, 128])
@pytest.mark.parametrize("classes", [2, 3, 7, 10, 100])
def test_dist_of_constant_probabilities_has_correlation_0_without_gradient(classes, examples):
    rng = np.random.default_rng(classes)
    teacher = np.float32(rng.normal(size=(examples, classes)) * 5)
    alike = np.broadcast_to(np.float32(rng.normal(size=classes) * 3), teacher.shape)
    zero = np.zeros_like(teacher)
    weights = {"inter_class_weight": 2.0, "intra_class_weight": 2.0}
    # Alike examples are constant for each class; equal logits within each example, too.
    for logits, off in ((alike, "inter_class_weight"), (zero, "none")):
        options = {**weights, **({off: 0.0} if off in weights else {})}
        loss = functools.partial(losses.dist, temperature=4.0, **options)
        values, pull_back = jax.vjp(jax.jit(loss), logits, teacher)
        assert_allclose(values, 16 * sum(options.values()), rtol=1e-6)
        assert_array_equal(pull_back(jnp.ones_like(values))[0], 0)


@pytest.mark.slow
def test_float64_input_is_computed_in_float64():
    with jax.enable_x64(True):
        results = jax.jit(with_gradients)(*NORMAL, LABELS[:24])
    for name, (_, values) in results.items():
        labels = () if name == "dist" else (LABELS[:24],)
        assert values.dtype == jnp.float64
        assert_allclose(values, LOSSES[name][1](*NORMAL, *labels), rtol=1e-12)


@pytest.mark.slow
def test_dkd_with_the_weights_of_the_decomposition_is_distillation():
    student, teacher = np.float32(NORMAL)
    p = softmax(teacher / 4, axis=1)
    label_prob = p[np.arange(24), LABELS[:24]]
    actual = jax.jit(losses.dkd)(student, teacher, LABELS[:24], non_target_weight=1 - label_prob)
    expected = jax.jit(losses.distillation)(student, p, temperature=4.0)
    assert_allclose(actual, expected, rtol=2e-5)


@pytest.mark.slow
def test_rld_is_dkd_where_the_teacher_is_right():
    student, teacher = np.float32(NORMAL)
    labels = teacher.argmax(axis=1)
    rld, dkd = (jax.jit(loss)(student, teacher, labels) for loss in (losses.rld, losses.dkd))
    assert_allclose(rld, dkd, rtol=1e-6)


def test_rld_does_not_depend_on_what_the_teacher_prefers_to_the_label():
    teacher, labels = np.float32([[5.0, 4.0, 2.0, 1.0, 0.0]]), np.array([2])
    student = np.float32([[0.0, 3.0, 1.0, 2.0, -1.0]])
    others = jax.jit(functools.partial(losses.rld, labels=labels, target_weight=0.0))
    changed = student + np.float32([[7.0, -5.0, 2.0, 0.0, 0.0]])
    assert others(student, teacher) == others(changed, teacher) > 0
    assert others(student + np.float32([0, 0, 0, 1, 0]), teacher) != others(student, teacher)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [20.0, 1e3])
def test_dkd_and_rld_in_float32_are_accurate_at_high_temperature(temperature):
    student, teacher = np.float32(NORMAL)
    for name in ("dkd", "rld"):
        loss, equation = by_label(name, temperature)
        expected = equation(*float64(student, teacher), LABELS[:24])
        actual = jax.jit(loss)(student, teacher, LABELS[:24])
        assert_allclose(actual, expected, rtol=3e-6 + 3e-7 * temperature, atol=3e-6 * temperature)


def test_dkd_of_two_classes_raises_and_rld_has_its_first_term():
    student, teacher, labels = np.float32([[1, 2]]), np.float32([[0, 3]]), np.array([1])
    with pytest.raises(InputError, match=r"dkd is not defined for 2 classes: .*use distillation"):
        losses.dkd(student, teacher, labels)
    _, equation = by_label("rld", 4.0)
    actual = jax.jit(functools.partial(losses.rld, **WEIGHTS))(student, teacher, labels)
    assert_allclose(actual, equation(*float64(student, teacher), labels), rtol=1e-5)


def test_wrong_arguments_raise_with_their_values():
    logits, labels = np.zeros((3, 4), "f4"), np.array([0, 1, 2])
    for loss in (losses.dkd, losses.rld, lambda v, t, _, **k: losses.dist(v, t, **k)):
        with pytest.raises(InputError, match=r"teacher logits of shape \(3, 5\): .*need \(3, 4\)"):
            loss(logits, np.zeros((3, 5), "f4"), labels)
        with pytest.raises(TypeError, match="teacher logits of dtype int32"):
            loss(logits, np.zeros((3, 4), "i4"), labels)
        with pytest.raises(InputError, match=r"temperature 0 .*must lie in"):
            loss(logits, logits, labels, temperature=0)
    for name in ("inter_class_weight", "intra_class_weight"):
        with pytest.raises(InputError, match=f"{name} -1 is out of range: it must be at least 0"):
            losses.dist(logits, logits, **{name: -1})
    for loss in (losses.dkd, losses.rld):
        for name in ("target_weight", "non_target_weight"):
            with pytest.raises(InputError, match=f"{name} -0.5 is out of range"):
                loss(logits, logits, labels, **{name: -0.5})
        with pytest.raises(InputError, match="label 4 is out of range"):
            loss(logits, logits, labels + 2)
        with pytest.raises(InputError, match=r"target_weight of shape \(4,\): .*one value per ex"):
            jax.eval_shape(lambda v, f=loss: f(v, v, labels, target_weight=np.ones(4)), logits)
    with pytest.raises(InputError, match=r"logits of shape \(4,\): dist compares the examples"):
        losses.dist(logits[0], logits[0])


MASKED = {"teacher": (False, True), "both": (True, True)}


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("masks", MASKED.values(), ids=MASKED)
def test_class_that_the_teacher_excludes_has_probability_zero(name, masks):
    """The equation has a probability of 0 where a logit is very low."""
    student, teacher = (
        np.where(masked & (np.arange(CLASSES) == 2), -np.inf, logits)
        for masked, logits in zip(masks, NORMAL, strict=True)
    )
    labels = () if name == "dist" else (np.arange(24) % 2,)  # not the excluded class
    loss, equation = LOSSES[name]

    def total(v):
        values = loss(v, jnp.asarray(teacher, "float32"), *labels)
        return values.sum(), values

    gradient, values = jax.jit(jax.grad(total, has_aux=True))(jnp.asarray(student, "float32"))
    low = (np.maximum(logits, -1e4) for logits in (student, teacher))
    assert_allclose(values, equation(*low, *labels), rtol=2e-5)
    assert np.isfinite(gradient).all()


@labelled
def test_class_that_only_the_student_excludes_costs_infinitely_much(name):
    student = NORMAL[0].astype(np.float32)
    student[0, 2] = -np.inf
    teacher = np.zeros_like(student)
    teacher[:, 0] = 1.0  # with the label 0, all other classes are below it
    values = jax.jit(LOSSES[name][0])(student, teacher, np.zeros(24, int))
    assert np.isposinf(values[0]) and np.isfinite(values[1:]).all()


def test_rld_has_no_second_term_where_the_teacher_excludes_all_classes_below_the_label():
    teacher = np.array([[2.0, 1.0, -np.inf, -np.inf]], np.float32)
    student = np.array([[0.5, 0.0, 1.0, 2.0]], np.float32)
    loss = jax.value_and_grad(
        lambda v: losses.rld(v, teacher, np.array([1]), temperature=1.0).sum()
    )
    value, gradient = jax.jit(loss)(student)
    p, r = softmax(teacher[0]).max(), softmax(student[0])[1]
    assert_allclose(value, p * np.log(p / r) + (1 - p) * np.log((1 - p) / (1 - r)), rtol=1e-5)
    assert np.isfinite(gradient).all()


@labelled
def test_certain_teacher_and_student_differ_by_nothing(name):
    certain = np.array([[1.0, -np.inf, -np.inf]], np.float32)
    loss = jax.value_and_grad(lambda v: getattr(losses, name)(v, certain, np.array([0])).sum())
    value, gradient = jax.jit(loss)(certain)
    assert value == 0 and np.isfinite(gradient).all()


@pytest.mark.parametrize("name", LOSSES)
def test_loss_of_logits_without_a_softmax_is_nan(name):
    labels = () if name == "dist" else (np.zeros(24, int),)
    loss = jax.jit(LOSSES[name][0])
    for network, value in itertools.product((0, 1), (np.nan, np.inf)):  # student and teacher
        logits = NORMAL.astype(np.float32)
        logits[network, 0, 3] = value
        assert np.isnan(loss(*logits, *labels)[0]), (network, value)
