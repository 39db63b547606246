"""The methods that are compared: each a short composition of losses, chosen by name.

A method maps `(student_logits [B, m+1], teacher_logits [B, m] or None, labels [B], hyper=...)` to
`(loss [B], parts)`, where `parts` holds the terms `[B]` that add up to the loss.
"""

from collections.abc import Callable, Mapping

import flax.struct
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdjax import adjustment, checks, losses
from kdjax.errors import InputError, unknown

Parts = dict[str, jax.Array]
Loss = tuple[jax.Array, Parts]
Method = Callable[..., Loss]


class Hyper(flax.struct.PyTreeNode):
    """Hyper-parameters of the methods; the numbers may be traced.

    Attributes:
        payoff: o > 1 of the gambler losses.
        weight: lambda >= 0, the weight of the distillation term where there is another term.
        temperature: T > 0 of the teacher, and of the student in the distillation term.
        adjustment: a name of `ADJUSTMENTS`.
        epsilon: of `label_smooth_regularization`.
    """

    payoff: ArrayLike = 2.2
    weight: ArrayLike = 1.0
    temperature: ArrayLike = 4.0
    adjustment: str = flax.struct.field(pytree_node=False, default="probability_shift")
    epsilon: ArrayLike = 0.1


def _shift(probs: jax.Array, labels: jax.Array, hyper: Hyper) -> jax.Array:
    return adjustment.probability_shift(probs, labels)


def _smooth(probs: jax.Array, labels: jax.Array, hyper: Hyper) -> jax.Array:
    return adjustment.label_smooth_regularization(probs, labels, epsilon=hyper.epsilon)


def _keep(probs: jax.Array, labels: jax.Array, hyper: Hyper) -> jax.Array:
    return probs


ADJUSTMENTS: Mapping[str, Callable[[jax.Array, jax.Array, Hyper], jax.Array]] = {
    "probability_shift": _shift,
    "label_smooth_regularization": _smooth,
    "none": _keep,
}


def teacher_targets(teacher_logits: jax.Array | None, hyper: Hyper) -> jax.Array:
    """Returns the teacher's distribution softmax(t / T), `[B, m]`.

    Raises:
        ValueError: if there is no teacher, or a temperature out of range (seen only outside jit).
        TypeError: for logits that are not floats.
    """
    if teacher_logits is None:
        raise InputError("this method needs teacher logits, and there are none")
    checks.above("temperature", hyper.temperature, 0)
    return jax.nn.softmax(checks.logits(teacher_logits, least=2) / hyper.temperature, axis=-1)


def adjusted_targets(
    teacher_logits: jax.Array | None, labels: jax.Array, hyper: Hyper
) -> jax.Array:
    """Returns the corrected distribution A(softmax(t / T), y), `[B, m]`.

    Raises:
        ValueError: if there is no teacher, or the adjustment is unknown (with the nearest name).
    """
    if hyper.adjustment not in ADJUSTMENTS:
        raise unknown("adjustment", hyper.adjustment, ADJUSTMENTS)
    return ADJUSTMENTS[hyper.adjustment](teacher_targets(teacher_logits, hyper), labels, hyper)


def _total(**parts: jax.Array) -> Loss:
    return sum(parts.values()), parts  # type: ignore[return-value]


def _distil(student_logits: jax.Array, targets: jax.Array, hyper: Hyper) -> jax.Array:
    return losses.distillation(student_logits[..., :-1], targets, temperature=hyper.temperature)


def ce(
    student_logits: jax.Array, teacher_logits: jax.Array | None, labels: jax.Array, *, hyper: Hyper
) -> Loss:
    """Cross-entropy on the m class logits: CE(z[:m], y); also the pre-training of every method."""
    return _total(cross_entropy=losses.cross_entropy(student_logits[..., :-1], labels))


def kd(
    student_logits: jax.Array, teacher_logits: jax.Array | None, labels: jax.Array, *, hyper: Hyper
) -> Loss:
    """Plain distillation: CE(z[:m], y) + lambda T^2 KL(softmax(t/T) || softmax(z[:m]/T)).

    Source: arXiv 1503.02531.
    """
    targets = teacher_targets(teacher_logits, hyper)
    return _total(
        cross_entropy=losses.cross_entropy(student_logits[..., :-1], labels),
        distillation=jnp.asarray(hyper.weight) * _distil(student_logits, targets, hyper),
    )


def ka(
    student_logits: jax.Array, teacher_logits: jax.Array | None, labels: jax.Array, *, hyper: Hyper
) -> Loss:
    """Knowledge adjustment alone: T^2 KL(A(softmax(t/T), y) || softmax(z[:m]/T)).

    Source: arXiv 1911.07471.
    """
    targets = adjusted_targets(teacher_logits, labels, hyper)
    return _total(distillation=_distil(student_logits, targets, hyper))


def gambler(
    student_logits: jax.Array, teacher_logits: jax.Array | None, labels: jax.Array, *, hyper: Hyper
) -> Loss:
    """Deep gambler loss alone: -log(q_y + q_a / o). Source: arXiv 1907.00208."""
    return _total(gambler=losses.gambler(student_logits, labels, payoff=hyper.payoff))


def kd_gambler(
    student_logits: jax.Array, teacher_logits: jax.Array | None, labels: jax.Array, *, hyper: Hyper
) -> Loss:
    """Gambler loss and plain distillation: gambler + lambda T^2 KL(softmax(t/T) || ...)."""
    targets = teacher_targets(teacher_logits, hyper)
    return _gambler_sum(student_logits, targets, labels, hyper)


def ka_gambler_sum(
    student_logits: jax.Array, teacher_logits: jax.Array | None, labels: jax.Array, *, hyper: Hyper
) -> Loss:
    """Gambler loss and adjusted distillation: gambler + lambda T^2 KL(A(softmax(t/T), y) || ...).

    The union of the two parts of Xu, Pu, Zhao, ICPR 2020, as a sum.
    """
    targets = adjusted_targets(teacher_logits, labels, hyper)
    return _gambler_sum(student_logits, targets, labels, hyper)


def ka_gambler_soft(
    student_logits: jax.Array, teacher_logits: jax.Array | None, labels: jax.Array, *, hyper: Hyper
) -> Loss:
    """Gambler loss with the adjusted teacher as the odds: -sum_i A_i log(q_i + q_a / o).

    It abstains wherever max A <= 1/o, so it needs temperature 1, or a payoff near m.
    """
    targets = adjusted_targets(teacher_logits, labels, hyper)
    return _total(soft_gambler=losses.soft_gambler(student_logits, targets, payoff=hyper.payoff))


def _gambler_sum(
    student_logits: jax.Array, targets: jax.Array, labels: jax.Array, hyper: Hyper
) -> Loss:
    return _total(
        gambler=losses.gambler(student_logits, labels, payoff=hyper.payoff),
        distillation=jnp.asarray(hyper.weight) * _distil(student_logits, targets, hyper),
    )


METHODS: Mapping[str, Method] = {
    "ce": ce,
    "kd": kd,
    "ka": ka,
    "gambler": gambler,
    "kd_gambler": kd_gambler,
    "ka_gambler_sum": ka_gambler_sum,
    "ka_gambler_soft": ka_gambler_soft,
}
WITH_TEACHER = frozenset(METHODS) - {"ce", "gambler"}
WITH_ABSTENTION = frozenset(METHODS) - {"ce", "kd", "ka"}
