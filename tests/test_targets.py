"""The distributions from which a student learns abstention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import entr, logsumexp, softmax

from kdjax.errors import InputError
from kdjax.objectives import METHODS
from kdjax.targets import Hyperparameters, reservation_targets, update_running_target

CLASSES = 4
RNG = np.random.default_rng(0)
TEACHER = np.float32(RNG.normal(size=(24, CLASSES)) * 3)
LABELS = np.arange(24) % CLASSES
ROWS = np.arange(24)


def swapped(p, y):
    p, top = p.copy(), p.argmax()
    p[[y, top]] = p[[top, y]]
    return p


def expected_targets(t, y):
    """B = (p_y A(p, y), 1 - p_y) with probability shift, for one example in float64."""
    p = softmax(np.float64(t))
    return np.append(p[y] * swapped(p, y), np.delete(p, y).sum())


def targets(teacher, labels, **hyper):
    return jax.jit(lambda t: reservation_targets(t, labels, Hyperparameters(**hyper)))(teacher)


def test_reservation_targets_give_abstention_the_probability_of_an_error():
    actual = np.asarray(targets(TEACHER, LABELS))
    expected = [expected_targets(*row) for row in zip(TEACHER, LABELS, strict=True)]
    assert np.any(TEACHER.argmax(axis=1) != LABELS)
    assert_allclose(actual, expected, rtol=2e-6, atol=1e-7)
    assert_allclose(actual.sum(axis=1), 1, rtol=1e-6)
    # Whatever the teacher predicts, the label is the most probable class.
    assert np.all(actual[:, :-1].argmax(axis=1) == LABELS)


def test_reservation_targets_ignore_temperature_and_standardization():
    changed = targets(TEACHER, LABELS, temperature=9.0, logit_standardization=True)
    assert_allclose(changed, targets(TEACHER, LABELS), rtol=1e-6)


def test_reservation_targets_of_a_confident_teacher_do_not_round_to_0():
    teacher = np.float32([[40.0, 0.0, 1.0], [0.0, 30.0, -5.0]])
    actual = targets(teacher, np.array([0, 1]))
    exact = softmax(np.float64(teacher), axis=1)
    errors = [exact[0, 1:].sum(), exact[1, [0, 2]].sum()]
    assert_allclose(np.asarray(actual)[:, -1], errors, rtol=1e-5)


def test_gradient_descent_on_reservation_distillation_reaches_its_targets():
    hyper, teacher = Hyperparameters(), TEACHER[:8] / 3
    expected = [expected_targets(*row) for row in zip(teacher, LABELS[:8], strict=True)]

    def total(z):
        return METHODS["reservation_distillation"](z, teacher, LABELS[:8], hyper=hyper)[0].sum()

    def descend(z):
        return jax.lax.fori_loop(0, 3000, lambda _, z: z - 2 * jax.grad(total)(z), z)

    logits = jax.jit(descend)(jnp.zeros((8, CLASSES + 1)))
    assert_allclose(softmax(np.float64(logits), axis=1), expected, atol=1e-5)
    assert_allclose(jax.jit(total)(logits), np.sum(entr(expected)), rtol=1e-5)


def test_reservation_distillation_is_convex_in_the_logits():
    one, other = np.float32(RNG.normal(size=(2, 24, CLASSES + 1)) * 6)
    loss = jax.jit(
        lambda z: METHODS["reservation_distillation"](z, TEACHER, LABELS, hyper=Hyperparameters())[
            0
        ]
    )
    for share in (0.1, 0.5, 0.8):
        between = loss(share * one + (1 - share) * other)
        assert np.all(between <= share * loss(one) + (1 - share) * loss(other) + 1e-5)


def test_running_target_is_a_moving_average_of_the_probability_of_the_label():
    logits = RNG.normal(size=(3, 24, CLASSES + 1)) * 3
    momentum = np.linspace(0, 0.9, 24, dtype="f4")
    update, running, expected = jax.jit(update_running_target), np.ones(24, "f4"), np.ones(24)
    for batch in logits:
        running = update(running, np.float32(batch), LABELS, momentum)
        probs = softmax(batch[:, :-1], axis=1)[ROWS, LABELS]
        expected = momentum * expected + (1 - momentum) * probs
    assert_allclose(running, expected, rtol=1e-5, atol=1e-7)


def test_self_adaptive_loss_uses_the_updated_target_without_its_gradient():
    logits, running = np.float32(RNG.normal(size=(24, CLASSES + 1))), np.linspace(0, 1, 24)
    hyper = Hyperparameters(target_momentum=0.6)

    def loss(z):
        return METHODS["self_adaptive"](z, None, LABELS, hyper=hyper, running=np.float32(running))[
            0
        ]

    z = np.float64(logits)
    s = 0.6 * running + 0.4 * softmax(z[:, :-1], axis=1)[ROWS, LABELS]
    log_q = z - logsumexp(z, axis=1, keepdims=True)
    expected = -s * log_q[ROWS, LABELS] - (1 - s) * log_q[:, -1]
    values, gradient = jax.jit(lambda z: (loss(z), jax.grad(lambda z: loss(z).sum())(z)))(logits)
    assert_allclose(values, expected, rtol=1e-5)
    target = np.zeros_like(z)
    target[ROWS, LABELS], target[:, -1] = s, 1 - s
    assert_allclose(gradient, softmax(z, axis=1) - target, atol=1e-6)


@pytest.mark.parametrize("momentum", [-0.1, 1.0, np.nan])
def test_target_momentum_out_of_range_raises_with_its_value(momentum):
    with pytest.raises(InputError, match=rf"target_momentum {momentum} .*\[0, 1\)"):
        update_running_target(np.ones(24), np.zeros((24, 5), "f4"), LABELS, momentum)


@pytest.mark.parametrize(
    ("running", "message"),
    [
        (np.ones((24, 1)), r"targets of shape \(24, 1\)"),
        (np.ones(2), r"targets of shape \(2,\)"),
        (np.full(24, 7.0), "target 7 is out of range"),
    ],
)
def test_running_targets_of_another_shape_or_range_are_refused(running, message):
    with pytest.raises(InputError, match=message):
        update_running_target(running, np.zeros((24, 5), "f4"), LABELS, 0.9)
