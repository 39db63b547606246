"""What a student learns from: the teacher's adjusted distribution, or the student's own past.

Notation: t are the teacher's logits, z the student's, y the label, T the temperature, A the
adjustment.
"""

from collections.abc import Callable, Mapping

import flax.struct
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdjax import adjustment, checks
from kdjax.errors import InputError, unknown_name_error
from kdjax.standardization import standardize


class Hyperparameters(flax.struct.PyTreeNode):
    """Hyperparameters of the methods; the numbers may be traced.

    A number is a scalar, or an array `[B]` with one value per example.

    Attributes:
        payoff: o > 1, payoff of the gambler losses.
        distill_weight: lambda >= 0, weight of the distillation term in methods with a second term.
        temperature: T in [1e-18, 1e18] of the teacher, and of the student in the distillation
            term.
        adjustment: a key of `ADJUSTMENTS`.
        epsilon: smoothing of `label_smooth_regularization`.
        logit_standardization: whether the distillation terms see standardized logits of both
            networks, see `kdjax.standardization.standardize`.
        target_weight: a >= 0 of `dkd` and `rld`, weight of the confidence in the label.
        non_target_weight: b >= 0 of `dkd` and `rld`, weight of the other classes.
        inter_class_weight: b >= 0 of `dist`, weight of the correlation over the classes.
        intra_class_weight: c >= 0 of `dist`, weight of the correlation over the examples.
        target_momentum: in [0, 1), of the running targets of `self_adaptive`.
    """

    payoff: ArrayLike = 2.2
    distill_weight: ArrayLike = 1.0
    temperature: ArrayLike = 4.0
    adjustment: str = flax.struct.field(pytree_node=False, default="probability_shift")
    epsilon: ArrayLike = 0.1
    logit_standardization: bool = flax.struct.field(pytree_node=False, default=False)
    target_weight: ArrayLike = 1.0
    non_target_weight: ArrayLike = 8.0
    inter_class_weight: ArrayLike = 2.0
    intra_class_weight: ArrayLike = 2.0
    target_momentum: ArrayLike = 0.99


def _shift(probs: jax.Array, labels: jax.Array, hyper: Hyperparameters) -> jax.Array:
    return adjustment.probability_shift(probs, labels)


def _smooth(probs: jax.Array, labels: jax.Array, hyper: Hyperparameters) -> jax.Array:
    return adjustment.label_smooth_regularization(probs, labels, epsilon=hyper.epsilon)


def _refine(probs: jax.Array, labels: jax.Array, hyper: Hyperparameters) -> jax.Array:
    return adjustment.refined(probs, labels)


def _keep(probs: jax.Array, labels: jax.Array, hyper: Hyperparameters) -> jax.Array:
    return probs


ADJUSTMENTS: Mapping[str, Callable[[jax.Array, jax.Array, Hyperparameters], jax.Array]] = {
    "probability_shift": _shift,
    "label_smooth_regularization": _smooth,
    "refined": _refine,
    "none": _keep,
}


def distillation_logits(logits: jax.Array | None, hyper: Hyperparameters) -> jax.Array:
    """Returns a network's class logits as the distillation terms see them, `[B, m]`.

    Raises:
        ValueError: without logits, which only a teacher can lack.
        TypeError: for logits that are not floats.
    """
    if logits is None:
        raise InputError("this method needs teacher logits, got None")
    return standardize(logits) if hyper.logit_standardization else checks.logits(logits, least=2)


def teacher_targets(teacher_logits: jax.Array | None, hyper: Hyperparameters) -> jax.Array:
    """Returns the teacher's distribution softmax(t / T), `[B, m]`.

    With `hyper.logit_standardization`, t is standardized first.

    Raises:
        ValueError: without teacher logits, or for a temperature out of range (checked only outside
            jit).
        TypeError: for logits that are not floats.
    """
    logits = distillation_logits(teacher_logits, hyper)
    checks.temperature(hyper.temperature)
    temperature = checks.per_example("temperature", hyper.temperature, logits)
    return jax.nn.softmax(logits / temperature, axis=-1)


def adjusted_targets(
    teacher_logits: jax.Array | None, labels: jax.Array, hyper: Hyperparameters
) -> jax.Array:
    """Returns the adjusted distribution of the teacher, A(softmax(t / T), y), `[B, m]`.

    Standardization does not change the order of t, and so not which examples are adjusted.

    Raises:
        ValueError: without teacher logits, or for an unknown adjustment (with the nearest name).
    """
    if hyper.adjustment not in ADJUSTMENTS:
        raise unknown_name_error("adjustment", hyper.adjustment, ADJUSTMENTS)
    return ADJUSTMENTS[hyper.adjustment](teacher_targets(teacher_logits, hyper), labels, hyper)


def reservation_targets(
    teacher_logits: jax.Array | None, labels: jax.Array, hyper: Hyperparameters
) -> jax.Array:
    """Returns the distribution over classes and abstention that a teacher's error suggests.

    B = (p_y A(p, y), 1 - p_y), p = softmax(t): 1 - p_y is the probability that the teacher
    gives to the wrong classes, and the abstention output gets it. The temperature is 1, because at
    any other one 1 - p_y is not the teacher's own probability; `hyper.temperature` and
    `hyper.logit_standardization` have no effect.

    Returns:
        `[B, m + 1]`.

    Raises:
        ValueError: without teacher logits, or for an unknown adjustment (with the nearest name).
    """
    plain = hyper.replace(temperature=1.0, logit_standardization=False)
    probs = teacher_targets(teacher_logits, plain)
    adjusted = adjusted_targets(teacher_logits, labels, plain)
    labels = checks.labels(labels, shape=probs.shape[:-1], classes=probs.shape[-1])
    is_label = jax.nn.one_hot(labels, probs.shape[-1], dtype=bool)
    label_prob = jnp.sum(jnp.where(is_label, probs, 0), axis=-1, keepdims=True)
    # The sum of the others, because 1 - p_y would round where the teacher is confident.
    error = jnp.sum(jnp.where(is_label, 0, probs), axis=-1, keepdims=True)
    return jnp.concatenate([label_prob * adjusted, error], axis=-1)


def update_running_target(
    running: jax.Array, student_logits: jax.Array, labels: jax.Array, momentum: ArrayLike
) -> jax.Array:
    """Returns the running targets of a batch after the network has seen it once more.

    s_y <- mu s_y + (1 - mu) r_y, r = softmax(z[:m]) without gradient, s_y = 1 at the start. The
    source keeps s for all classes, of which its loss uses s_y only.

    Args:
        running: s_y in [0, 1], `[B]`.
        student_logits: z, `[B, m + 1]`.
        labels: y, `[B]`.
        momentum: mu in [0, 1), a scalar or `[B]`.

    Returns:
        The new s_y, `[B]`.

    Raises:
        ValueError: for a wrong shape, or a running target, momentum or label out of range (checked
            only outside jit).
        TypeError: for logits or running targets that are not floats, or labels that are not
            integers.

    Source: Huang, Zhang, Zhang, "Self-Adaptive Training", NeurIPS 2020, arXiv 2002.10319.
    """
    logits = jax.lax.stop_gradient(checks.logits(student_logits, least=3))[..., :-1]
    labels = checks.labels(labels, shape=logits.shape[:-1], classes=logits.shape[-1])
    running = checks.targets(running, shape=logits.shape[:-1])
    checks.within("target_momentum", momentum, 0, 1)
    probs = jnp.take_along_axis(jax.nn.softmax(logits, axis=-1), labels[..., None], axis=-1)
    momentum = checks.per_example("target_momentum", momentum, logits)
    updated = momentum * jnp.asarray(running, logits.dtype)[..., None] + (1 - momentum) * probs
    return updated[..., 0]
