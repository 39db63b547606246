import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import softmax

from kdjax import adjustment
from kdjax.errors import InputError

CLASSES = 4
ADJUSTMENTS = {
    "shift": adjustment.probability_shift,
    "smooth": adjustment.label_smooth_regularization,
    "refined": adjustment.refined,
}
SHIFT, SMOOTH, REFINED = map(jax.jit, ADJUSTMENTS.values())
LABELS = np.arange(40) % CLASSES
PROBS = np.random.default_rng(0).dirichlet(np.ones(CLASSES), size=40).astype("f4")

each_adjustment = pytest.mark.parametrize("name", ADJUSTMENTS)
# Half integers, so that the softmax preserves order and ties at every temperature used below.
rows = arrays(np.int8, (3, CLASSES), elements=st.integers(-20, 20)).map(lambda x: x / np.float32(2))
label_rows = arrays(np.int32, 3, elements=st.integers(0, CLASSES - 1))


def shifted(p, y):
    a, predicted = p.copy(), p.argmax()
    a[[y, predicted]] = p[[predicted, y]]
    return a


def smoothed(p, y, epsilon=0.1):
    if p.argmax() == y:
        return p
    return np.where(np.arange(len(p)) == y, 1 - epsilon, epsilon / (len(p) - 1))


def refined(p, y):
    p = np.float64(p)
    if p.argmax() == y:
        return p
    scaled = p * (p.sum() - p.max()) / (p.sum() - p[y])
    return np.where(np.arange(len(p)) == y, p.max(), scaled)


def test_probability_shift_is_the_identity_where_the_teacher_is_right_also_under_ties():
    jacobian = jax.jacobian(adjustment.probability_shift)(jnp.array([0.4, 0.4, 0.2]), jnp.array(0))
    assert_array_equal(jacobian, np.eye(3))


HALF = [pytest.param(dtype, marks=pytest.mark.slow) for dtype in (jnp.bfloat16, jnp.float16)]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, *HALF])
def test_adjustments_match_their_definitions_row_by_row(dtype):
    probs = jnp.asarray(PROBS, dtype)
    pairs = list(zip(np.asarray(probs, np.float32), LABELS, strict=True))
    assert {p.argmax() == y for p, y in pairs} == {True, False}
    actual = adjustment.probability_shift(probs, LABELS)
    assert actual.dtype == jnp.float32
    assert_array_equal(actual, [shifted(p, y) for p, y in pairs])
    actual = adjustment.label_smooth_regularization(probs, LABELS, epsilon=0.2)
    assert actual.dtype == jnp.float32
    assert_allclose(actual, [smoothed(p, y, 0.2) for p, y in pairs], rtol=1e-6)
    actual = adjustment.refined(probs, LABELS)
    assert actual.dtype == jnp.float32
    assert_allclose(actual, [refined(p, y) for p, y in pairs], rtol=1e-6)


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(logits=rows, labels=label_rows)
# Sums of the same numbers in another order round differently.
@example(logits=np.tile(np.float32([10, 10, -6.5, 10]), (3, 1)), labels=np.int32([3, 3, 3]))
def test_refined_puts_the_label_first_and_keeps_the_order_and_ratios_of_the_others(logits, labels):
    probs = softmax(logits, axis=1)
    actual = np.asarray(REFINED(probs, labels))
    assert_allclose(actual.sum(axis=1), 1, rtol=1e-6)
    assert_array_equal(actual[range(3), labels], actual.max(axis=1))
    for row, p, y in zip(actual, probs, labels, strict=True):
        assert row[y] == p.max() or p.argmax() == y
        ratios = np.delete(row, y) / np.delete(p, y)
        assert_allclose(ratios, ratios[0], rtol=1e-5)  # hence the order is kept
        assert np.all(np.diff(np.delete(row, y)[np.argsort(np.delete(p, y))]) >= 0)
        if p.argmax() == y:
            assert_array_equal(row, p)


@pytest.mark.slow
def test_refined_keeps_the_small_probabilities_of_a_confident_wrong_teacher():
    probs = softmax(np.array([[40.0, 2.0, 1.0, 0.0], [0.0, 200.0, 0.0, 0.0]]), axis=1)
    actual = np.asarray(adjustment.refined(probs.astype("f4"), np.array([1, 2])))
    exact = probs[0, 1:].sum() * probs[0] / (1 - probs[0, 1])
    assert_allclose(actual[0, [0, 2, 3]], exact[[0, 2, 3]], rtol=1e-5)
    assert_array_equal(actual[1], [0, 0, 1, 0])


@settings(deadline=None, max_examples=100)
@given(values=rows, labels=label_rows)
def test_probability_shift_permutes_the_values_and_makes_the_label_the_maximum(values, labels):
    actual = np.asarray(SHIFT(values, labels))
    assert_array_equal(np.sort(actual), np.sort(values))
    assert_array_equal(actual[range(3), labels], values.max(axis=1))
    assert np.all((actual != values).sum(axis=1) <= 2)
    right = values.argmax(axis=1) == labels
    assert_array_equal(actual[right], values[right])


@settings(deadline=None, max_examples=50)
@given(values=rows, labels=label_rows)
def test_probability_shift_to_the_old_prediction_undoes_it(values, labels):
    values = (
        values + np.float32(0.25) * np.eye(CLASSES, dtype="f4")[values.argmax(axis=1)]
    )  # no tie
    actual = SHIFT(values, labels)
    assert_array_equal(jnp.argmax(actual, axis=1), labels)
    assert_array_equal(SHIFT(actual, labels), actual)
    assert_array_equal(SHIFT(actual, values.argmax(axis=1)), values)


@settings(deadline=None, max_examples=50)
@given(logits=rows, labels=label_rows, temperature=st.floats(0.5, 20))
def test_probability_shift_commutes_with_the_softmax_at_any_temperature(
    logits, labels, temperature
):
    before = softmax(np.asarray(SHIFT(logits, labels)) / temperature, axis=1)
    after = SHIFT(softmax(logits / temperature, axis=1), labels)
    assert_allclose(after, before, rtol=1e-5)


@pytest.mark.slow
@settings(deadline=None, max_examples=50)
@given(logits=rows, labels=label_rows, epsilon=st.floats(0, 0.74))
def test_label_smooth_regularization_gives_distributions_with_their_maximum_at_the_label(
    logits, labels, epsilon
):
    probs = softmax(logits, axis=1)
    actual = SMOOTH(probs, labels, epsilon=epsilon)
    assert_allclose(np.sum(actual, axis=1), 1, rtol=1e-6)
    assert_array_equal(np.asarray(actual)[range(3), labels], np.max(actual, axis=1))
    right = probs.argmax(axis=1) == labels
    assert_array_equal(actual[right], probs[right])


@pytest.mark.slow
@each_adjustment
def test_jit_and_vmap_do_not_change_the_values(name):
    adjust = ADJUSTMENTS[name]
    probs, labels = PROBS.reshape(5, 8, -1), LABELS.reshape(5, 8)
    plain = adjust(probs, labels)
    assert plain.shape == probs.shape
    assert_array_equal(jax.jit(adjust)(probs, labels), plain)
    assert_array_equal(jax.jit(jax.vmap(jax.vmap(adjust)))(probs, labels), plain)


@each_adjustment
def test_float64_stays_float64(name):
    with jax.enable_x64(True):
        actual = ADJUSTMENTS[name](jnp.asarray(PROBS, jnp.float64), LABELS)
    assert actual.dtype == jnp.float64


@each_adjustment
@pytest.mark.parametrize("bad", [-1, CLASSES])
def test_label_out_of_range_raises_with_the_range(name, bad):
    with pytest.raises(InputError, match=rf"label {bad} is out of range: 4 classes allow 0\.\.3"):
        ADJUSTMENTS[name](PROBS[:3], np.array([0, bad, 1]))


@each_adjustment
def test_arguments_of_wrong_dtype_or_shape_raise(name):
    adjust = ADJUSTMENTS[name]
    with pytest.raises(InputError, match=r"labels of shape \(3,\): these logits need \(2,\)"):
        adjust(PROBS[:2], LABELS[:3])
    with pytest.raises(InputError, match=r"shape \(2, 1\).*k >= 2"):
        adjust(PROBS[:2, :1], LABELS[:2])
    with pytest.raises(TypeError, match="labels of dtype float32"):
        adjust(PROBS[:2], LABELS[:2].astype("f4"))
    with pytest.raises(TypeError, match="int32"):
        adjust(PROBS[:2].astype("i4"), LABELS[:2])


@pytest.mark.parametrize("epsilon", [-0.1, 0.75, 1.0, np.nan])
def test_epsilon_at_which_the_label_is_not_the_maximum_raises(epsilon):
    with pytest.raises(InputError, match=rf"epsilon {epsilon} .*\[0, 0\.75\)"):
        adjustment.label_smooth_regularization(PROBS, LABELS, epsilon=epsilon)


@pytest.mark.slow
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit, jax.vmap])
def test_epsilon_of_each_example_smooths_that_example(transform):
    # As many examples as classes: an array must not broadcast against the classes.
    probs, labels = np.tile(np.float32([0.7, 0.1, 0.1, 0.1]), (4, 1)), np.array([1, 1, 0, 2])
    epsilon = np.float32([0, 0.1, 0.3, 0.5])

    def smooth(p, y, e):
        return adjustment.label_smooth_regularization(p, y, epsilon=e)

    expected = [smoothed(p, y, e) for p, y, e in zip(probs, labels, epsilon, strict=True)]
    actual = transform(smooth)(probs, labels, epsilon)
    assert_allclose(actual, expected, rtol=1e-6)
    assert_allclose(np.sum(actual, axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("shape", [(4, 1), (1, 4), (3,), (1, 1)])
def test_epsilon_of_another_shape_raises_with_the_shapes(shape):
    with pytest.raises(InputError, match=r"epsilon of shape .*one value per example, \(4,\)"):
        adjustment.label_smooth_regularization(PROBS[:4], LABELS[:4], epsilon=np.full(shape, 0.1))


@each_adjustment
def test_labels_are_checked_before_they_are_converted(name):
    with pytest.raises(InputError, match=f"label {2**32} is out of range"):
        ADJUSTMENTS[name](PROBS[:2], np.array([2**32, 0]))
