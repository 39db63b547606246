"""Losses whose target is a teacher's output."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdjax import checks
from kdjax.errors import InputError
from kdjax.losses.fused import softmax_divergence
from kdjax.losses.numerics import (
    divergence,
    log_odds,
    log_softmax_within,
    shifted,
)
from kdjax.standardization import is_constant

__all__ = ["dist", "distillation", "dkd", "rld"]

# Of the authors' code of `dist`: keeps correlations of constant rows finite.
_CORRELATION_EPSILON = 1e-8


def distillation(
    logits: jax.Array, targets: jax.Array, *, temperature: ArrayLike = 1.0
) -> jax.Array:
    """Returns the divergence between the teacher's and the student's distribution.

    L = T^2 sum_i (A_i log(A_i / B_i) - A_i + B_i), B = softmax(v / T). It is T^2 KL(A || B) if A
    sums to 1, and it is not negative, also if A sums to 1 only up to rounding. The factor T^2 keeps
    the scale of the gradient independent of T.

    Args:
        logits: v, the student's class logits (without abstention), `[..., m]`, any float dtype; may
            be -inf where the target is 0.
        targets: A, the teacher's probabilities at temperature T, `[..., m]`; may contain zeros.
        temperature: T in [1e-18, 1e18], where T^2 and v / T are finite; a scalar or `[...]`. At
            high T, A differs from 1/m by t / (m T) only: the rounding of float32 targets limits the
            accuracy from about T = 1e4 on.

    Returns:
        The loss in nats, `[...]`.

    Raises:
        ValueError: for a temperature out of range (checked only outside jit), or a wrong shape.
        TypeError: for logits or targets that are not floats.

    Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531.
    """
    logits = checks.logits(logits, least=2)
    targets = checks.targets(targets, shape=logits.shape)
    checks.temperature(temperature)
    temperature = checks.per_example("temperature", temperature, logits)
    loss = softmax_divergence(shifted(logits) / temperature, targets)
    return (temperature**2 * loss[..., None])[..., 0]


def dkd(
    logits: jax.Array,
    teacher_logits: jax.Array,
    labels: jax.Array,
    *,
    temperature: ArrayLike = 4.0,
    target_weight: ArrayLike = 1.0,
    non_target_weight: ArrayLike = 8.0,
) -> jax.Array:
    """Returns the decoupled distillation loss: confidence in the label, and the other classes.

    L = T^2 (a KL([p_y, 1 - p_y] || [r_y, 1 - r_y]) + b KL(p' || r')), p = softmax(t / T),
    r = softmax(v / T); p' and r' are p and r without the label, divided by their sum. With a = 1
    and b = 1 - p_y it is `distillation`.

    Args:
        logits: v, the student's class logits (without abstention), `[..., m]`, m > 2; see
            `rld` for -inf.
        teacher_logits: t, `[..., m]`.
        labels: y, `[...]`, integers in [0, m).
        temperature: T in [1e-18, 1e18], a scalar or `[...]`.
        target_weight: a >= 0, a scalar or `[...]`.
        non_target_weight: b >= 0, a scalar or `[...]`.

    Returns:
        The loss in nats, `[...]`.

    Raises:
        ValueError: for two classes, of which one is left without the label; for a wrong shape; for
            a temperature, weight or label out of range (checked only outside jit).
        TypeError: for logits that are not floats or labels that are not integers.

    Source: Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022, arXiv 2203.08679.
    """
    student, teacher, scale, is_label = _checked(logits, teacher_logits, labels, temperature)
    if student.shape[-1] == 2:
        raise InputError(
            "dkd is not defined for 2 classes: without the label there is one class left; use "
            "distillation"
        )
    confidence = _binary_divergence(
        log_odds(teacher, is_label, scale), log_odds(student, is_label, scale)
    )
    others = divergence(
        log_softmax_within(teacher, ~is_label, scale), log_softmax_within(student, ~is_label, scale)
    )
    parts = {"target_weight": (target_weight, confidence)}
    return _scaled_sum(scale, parts | {"non_target_weight": (non_target_weight, others)})


def rld(
    logits: jax.Array,
    teacher_logits: jax.Array,
    labels: jax.Array,
    *,
    temperature: ArrayLike = 4.0,
    target_weight: ArrayLike = 1.0,
    non_target_weight: ArrayLike = 8.0,
) -> jax.Array:
    """Returns the refined distillation loss: the teacher's errors are left out.

    L = T^2 (a KL([max p, 1 - max p] || [r_y, 1 - r_y]) + b KL(p' || r')), p = softmax(t / T),
    r = softmax(v / T); p' and r' are p and r over the classes with t_i < t_y, divided by their sum.
    The teacher's largest probability is the target of the student's probability of the label;
    classes that the teacher ranks at or above the label are left out of the second term. That term
    is 0 if no class below the label has a positive teacher probability.

    Args:
        logits: v, the student's class logits (without abstention), `[..., m]`; may be -inf, which
            is a probability of 0: the loss is then infinite where the teacher's is not 0.
        teacher_logits: t, `[..., m]`; may be -inf.
        labels: y, `[...]`, integers in [0, m).
        temperature: T in [1e-18, 1e18], a scalar or `[...]`.
        target_weight: a >= 0, a scalar or `[...]`.
        non_target_weight: b >= 0, a scalar or `[...]`.

    Returns:
        The loss in nats, `[...]`.

    Raises:
        ValueError: for a wrong shape, or a temperature, weight or label out of range (checked only
            outside jit).
        TypeError: for logits that are not floats or labels that are not integers.

    Source: Sun et al., "Knowledge Distillation with Refined Logits", arXiv 2408.07703. The authors'
    code has another temperature, 1, for the first term.
    """
    student, teacher, scale, is_label = _checked(logits, teacher_logits, labels, temperature)
    is_top = jax.nn.one_hot(jnp.argmax(teacher, axis=-1), teacher.shape[-1], dtype=bool)
    confidence = _binary_divergence(
        log_odds(teacher, is_top, scale), log_odds(student, is_label, scale)
    )
    label_logit = jnp.sum(jnp.where(is_label, teacher, 0), axis=-1, keepdims=True)
    below = teacher < label_logit
    any_below = jnp.any(below & ~jnp.isneginf(teacher), axis=-1)
    classes = below | ~any_below[..., None]  # all, so that the unused values are finite
    others = divergence(
        log_softmax_within(teacher, classes, scale), log_softmax_within(student, classes, scale)
    )
    parts = {"target_weight": (target_weight, confidence)}
    return _scaled_sum(
        scale, parts | {"non_target_weight": (non_target_weight, jnp.where(any_below, others, 0))}
    )


def dist(
    logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    temperature: ArrayLike = 4.0,
    inter_class_weight: ArrayLike = 2.0,
    intra_class_weight: ArrayLike = 2.0,
) -> jax.Array:
    """Returns the loss of correlations between the student's and the teacher's probabilities.

    L_n = T^2 (b (1 - rho(r_n, p_n)) + c mean_i (1 - rho(r^i, p^i))), p = softmax(t / T),
    r = softmax(v / T). r_n has the probabilities of example n by class; r^i has those of class i by
    example. rho(x, y) = <x', y'> / (|x'| |y'| + 1e-8) is Pearson's correlation, x' = x - mean x.

    This is the only loss that compares examples: the second term is the same for all examples of
    the batch. The mean of the returned values is the loss of the source.

    Args:
        logits: v, the student's class logits (without abstention), `[..., B, m]`; B is the
            batch, over which the second term is computed. Under jit with a batch that is sharded
            over devices, it is the whole batch. May be -inf, which is a probability of 0.
        teacher_logits: t, `[..., B, m]`; may be -inf.
        temperature: T in [1e-18, 1e18], a scalar or `[..., B]`.
        inter_class_weight: b >= 0, a scalar or `[..., B]`.
        intra_class_weight: c >= 0, a scalar or `[..., B]`.

    Returns:
        The loss, `[..., B]`. Where a student's or teacher's probabilities are all equal, up to
        rounding, rho is 0 and has no gradient.

    Raises:
        ValueError: for a wrong shape, or a temperature or weight out of range (checked only outside
            jit).
        TypeError: for logits that are not floats.

    Source: Huang et al., "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022, arXiv
    2205.10536; the factor T^2 is that of the authors' code.
    """
    student, teacher, scale = _checked_pair(logits, teacher_logits, temperature)
    if student.ndim < 2:
        raise InputError(
            f"logits of shape {student.shape}: dist compares the examples of a batch, [..., B, m]"
        )
    if not student.size:  # an empty batch has no variance
        return jnp.zeros(student.shape[:-1], student.dtype)
    student_probs = jax.nn.softmax(shifted(student) / scale, axis=-1)
    teacher_probs = jax.nn.softmax(shifted(teacher) / scale, axis=-1)
    inter = 1 - _correlation(student_probs, teacher_probs, axis=-1)
    by_class = 1 - _correlation(student_probs, teacher_probs, axis=-2)
    intra = jnp.broadcast_to(jnp.mean(by_class, axis=-1, keepdims=True), inter.shape)
    parts = {"inter_class_weight": (inter_class_weight, inter)}
    return _scaled_sum(scale, parts | {"intra_class_weight": (intra_class_weight, intra)})


def _checked_pair(
    logits: jax.Array, teacher_logits: jax.Array, temperature: ArrayLike
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the checked logits of both networks, and the temperature as it broadcasts to them."""
    logits = checks.logits(logits, least=2)
    teacher = checks.teacher_logits(teacher_logits, shape=logits.shape).astype(logits.dtype)
    checks.temperature(temperature)
    scale = checks.per_example("temperature", temperature, logits)
    return _without_infinity(logits), _without_infinity(teacher), scale


def _without_infinity(logits: jax.Array) -> jax.Array:
    """Replaces +inf by NaN: a softmax has no value there, and neither has a loss."""
    return jnp.where(jnp.isposinf(logits), jnp.nan, logits)


def _checked(
    logits: jax.Array, teacher_logits: jax.Array, labels: jax.Array, temperature: ArrayLike
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Returns what `_checked_pair` does, and the labels as bool `[..., m]`."""
    student, teacher, scale = _checked_pair(logits, teacher_logits, temperature)
    labels = checks.labels(labels, shape=student.shape[:-1], classes=student.shape[-1])
    return student, teacher, scale, jax.nn.one_hot(labels, student.shape[-1], dtype=bool)


def _scaled_sum(temperature: jax.Array, terms: dict[str, tuple[ArrayLike, jax.Array]]) -> jax.Array:
    """Returns T^2 times the sum of the terms `[...]`, each times its weight, given by its name."""
    for name, (weight, _) in terms.items():
        checks.at_least(name, weight, 0)
    weighted = [
        checks.per_example(name, weight, term[..., None]) * term[..., None]
        for name, (weight, term) in terms.items()
    ]
    return (temperature**2 * sum(weighted))[..., 0]


def _binary_divergence(target_odds: jax.Array, odds: jax.Array) -> jax.Array:
    """Returns KL([p, 1 - p] || [q, 1 - q]) for the log odds of p and of q."""
    log_targets = jax.nn.log_sigmoid(jnp.stack([target_odds, -target_odds], axis=-1))
    return divergence(log_targets, jax.nn.log_sigmoid(jnp.stack([odds, -odds], axis=-1)))


def _correlation(first: jax.Array, second: jax.Array, axis: int) -> jax.Array:
    """Returns Pearson's correlation along an axis; 0, without gradient, if one is constant."""
    first, first_norm = _centred(first, axis)
    second, second_norm = _centred(second, axis)
    norms = first_norm * second_norm
    cosine = jnp.sum(first * second, axis=axis) / (norms + _CORRELATION_EPSILON)
    return jnp.where(norms == 0, 0, cosine)  # NaN stays


def _centred(values: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """Returns values minus their mean, and their norm; 0, without gradient, if constant."""
    centred = values - jnp.mean(values, axis=axis, keepdims=True)
    variance = jnp.mean(centred**2, axis=axis, keepdims=True)
    constant = is_constant(values, variance, axis)
    norm = jnp.sqrt(values.shape[axis] * jnp.where(constant, 1, variance))
    return centred, jnp.where(constant, 0, norm).squeeze(axis)
