"""Training methods by name: each is a composition of losses.

A method maps `(student_logits [B, m+1], teacher_logits [B, m] or None, labels [B], hyper=...)` to
`(loss [B], parts)`, where `parts` holds the terms `[B]` whose sum is the loss.

Notation: z are the student's logits, t the teacher's, y the label, T the temperature, o the payoff,
q = softmax(z), A the adjustment.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
from jax.typing import ArrayLike

from kdjax import adjustment, checks, losses
from kdjax.errors import InputError, unknown_name_error

Parts = dict[str, jax.Array]
Loss = tuple[jax.Array, Parts]


class Hyperparameters(flax.struct.PyTreeNode):
    """Hyperparameters of the methods; the numbers may be traced.

    A number is a scalar, or an array `[B]` with one value per example.

    Attributes:
        payoff: o > 1, payoff of the gambler losses.
        weight: lambda >= 0, weight of the distillation term in methods with a second term.
        temperature: T in [1e-18, 1e18] of the teacher, and of the student in the distillation
            term.
        adjustment: a key of `ADJUSTMENTS`.
        epsilon: smoothing of `label_smooth_regularization`.
    """

    payoff: ArrayLike = 2.2
    weight: ArrayLike = 1.0
    temperature: ArrayLike = 4.0
    adjustment: str = flax.struct.field(pytree_node=False, default="probability_shift")
    epsilon: ArrayLike = 0.1


def _shift(probs: jax.Array, labels: jax.Array, hyper: Hyperparameters) -> jax.Array:
    return adjustment.probability_shift(probs, labels)


def _smooth(probs: jax.Array, labels: jax.Array, hyper: Hyperparameters) -> jax.Array:
    return adjustment.label_smooth_regularization(probs, labels, epsilon=hyper.epsilon)


def _keep(probs: jax.Array, labels: jax.Array, hyper: Hyperparameters) -> jax.Array:
    return probs


ADJUSTMENTS: Mapping[str, Callable[[jax.Array, jax.Array, Hyperparameters], jax.Array]] = {
    "probability_shift": _shift,
    "label_smooth_regularization": _smooth,
    "none": _keep,
}


def teacher_targets(teacher_logits: jax.Array | None, hyper: Hyperparameters) -> jax.Array:
    """Returns the teacher's distribution softmax(t / T), `[B, m]`.

    Raises:
        ValueError: without teacher logits, or for a temperature out of range (checked only outside
            jit).
        TypeError: for logits that are not floats.
    """
    if teacher_logits is None:
        raise InputError("this method needs teacher logits, got None")
    checks.temperature(hyper.temperature)
    logits = checks.logits(teacher_logits, least=2)
    temperature = checks.per_example("temperature", hyper.temperature, logits)
    return jax.nn.softmax(logits / temperature, axis=-1)


def adjusted_targets(
    teacher_logits: jax.Array | None, labels: jax.Array, hyper: Hyperparameters
) -> jax.Array:
    """Returns the adjusted distribution of the teacher, A(softmax(t / T), y), `[B, m]`.

    Raises:
        ValueError: without teacher logits, or for an unknown adjustment (with the nearest name).
    """
    if hyper.adjustment not in ADJUSTMENTS:
        raise unknown_name_error("adjustment", hyper.adjustment, ADJUSTMENTS)
    return ADJUSTMENTS[hyper.adjustment](teacher_targets(teacher_logits, hyper), labels, hyper)


def _total(**parts: jax.Array) -> Loss:
    """Returns the sum of the parts, and the parts."""
    return sum(parts.values()), parts  # type: ignore[return-value]


def _distil(student_logits: jax.Array, targets: jax.Array, hyper: Hyperparameters) -> jax.Array:
    return losses.distillation(student_logits[..., :-1], targets, temperature=hyper.temperature)


def _weighted(student_logits: jax.Array, targets: jax.Array, hyper: Hyperparameters) -> jax.Array:
    """Returns the distillation term times its weight."""
    loss = _distil(student_logits, targets, hyper)
    weight = checks.per_example("weight", hyper.weight, loss[..., None])
    return weight[..., 0] * loss if weight.ndim else weight * loss


def ce(
    student_logits: jax.Array,
    teacher_logits: jax.Array | None,
    labels: jax.Array,
    *,
    hyper: Hyperparameters,
) -> Loss:
    """Cross-entropy of the class logits: CE(z[:m], y); also used to pre-train every method."""
    return _total(cross_entropy=losses.cross_entropy(student_logits[..., :-1], labels))


def kd(
    student_logits: jax.Array,
    teacher_logits: jax.Array | None,
    labels: jax.Array,
    *,
    hyper: Hyperparameters,
) -> Loss:
    """Distillation: CE(z[:m], y) + lambda T^2 KL(softmax(t/T) || softmax(z[:m]/T)).

    Source: arXiv 1503.02531.
    """
    targets = teacher_targets(teacher_logits, hyper)
    return _total(
        cross_entropy=losses.cross_entropy(student_logits[..., :-1], labels),
        distillation=_weighted(student_logits, targets, hyper),
    )


def ka(
    student_logits: jax.Array,
    teacher_logits: jax.Array | None,
    labels: jax.Array,
    *,
    hyper: Hyperparameters,
) -> Loss:
    """Distillation from the adjusted teacher: T^2 KL(A(softmax(t/T), y) || softmax(z[:m]/T)).

    Source: arXiv 1911.07471.
    """
    targets = adjusted_targets(teacher_logits, labels, hyper)
    return _total(distillation=_distil(student_logits, targets, hyper))


def gambler(
    student_logits: jax.Array,
    teacher_logits: jax.Array | None,
    labels: jax.Array,
    *,
    hyper: Hyperparameters,
) -> Loss:
    """Deep gambler loss: -log(q_y + q_a / o). Source: arXiv 1907.00208."""
    return _total(gambler=losses.gambler(student_logits, labels, payoff=hyper.payoff))


def kd_gambler(
    student_logits: jax.Array,
    teacher_logits: jax.Array | None,
    labels: jax.Array,
    *,
    hyper: Hyperparameters,
) -> Loss:
    """Gambler loss plus distillation: gambler + lambda T^2 KL(softmax(t/T) || softmax(z[:m]/T))."""
    targets = teacher_targets(teacher_logits, hyper)
    return _gambler_sum(student_logits, targets, labels, hyper)


def ka_gambler_sum(
    student_logits: jax.Array,
    teacher_logits: jax.Array | None,
    labels: jax.Array,
    *,
    hyper: Hyperparameters,
) -> Loss:
    """Gambler loss plus distillation from the adjusted teacher.

    gambler + lambda T^2 KL(A(softmax(t/T), y) || softmax(z[:m]/T)): our combination of the two
    parts of Xu, Pu, Zhao, ICPR 2020, as a sum.
    """
    targets = adjusted_targets(teacher_logits, labels, hyper)
    return _gambler_sum(student_logits, targets, labels, hyper)


def ka_gambler_soft(
    student_logits: jax.Array,
    teacher_logits: jax.Array | None,
    labels: jax.Array,
    *,
    hyper: Hyperparameters,
) -> Loss:
    """Gambler loss in expectation over the adjusted teacher: -sum_i A_i log(q_i + q_a / o).

    The optimum abstains wherever max A <= 1/o, so it needs temperature 1, or a payoff near m.
    """
    targets = adjusted_targets(teacher_logits, labels, hyper)
    return _total(soft_gambler=losses.soft_gambler(student_logits, targets, payoff=hyper.payoff))


def _gambler_sum(
    student_logits: jax.Array, targets: jax.Array, labels: jax.Array, hyper: Hyperparameters
) -> Loss:
    return _total(
        gambler=losses.gambler(student_logits, labels, payoff=hyper.payoff),
        distillation=_weighted(student_logits, targets, hyper),
    )


@dataclasses.dataclass(frozen=True)
class Method:
    """A training method; calling it calls its function.

    Attributes:
        fn: `(student_logits, teacher_logits, labels, *, hyper) -> (loss, parts)`.
        needs_teacher: whether it uses the teacher's logits.
        abstains: whether it trains the abstention output.
        adjusts: whether the label corrects the teacher's distribution.
    """

    fn: Callable[..., Loss]
    needs_teacher: bool
    abstains: bool
    adjusts: bool

    def __call__(self, *args: Any, **kwargs: Any) -> Loss:
        """Returns the loss `[B]` and its parts; see the module's docstring."""
        return self.fn(*args, **kwargs)


METHODS: dict[str, Method] = {
    "ce": Method(ce, needs_teacher=False, abstains=False, adjusts=False),
    "kd": Method(kd, needs_teacher=True, abstains=False, adjusts=False),
    "ka": Method(ka, needs_teacher=True, abstains=False, adjusts=True),
    "gambler": Method(gambler, needs_teacher=False, abstains=True, adjusts=False),
    "kd_gambler": Method(kd_gambler, needs_teacher=True, abstains=True, adjusts=False),
    "ka_gambler_sum": Method(ka_gambler_sum, needs_teacher=True, abstains=True, adjusts=True),
    "ka_gambler_soft": Method(ka_gambler_soft, needs_teacher=True, abstains=True, adjusts=True),
}
