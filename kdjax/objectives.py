"""Training methods by name: each is a composition of losses.

A method maps `(student_logits [B, m+1], teacher_logits [B, m] or None, labels [B], hyper=...)` to
`(loss [B], parts)`, where `parts` holds the terms `[B]` whose sum is the loss.

Notation: z are the student's logits, t the teacher's, y the label, T the temperature, o the payoff,
q = softmax(z), r = softmax(z[:m]), p = softmax(t), A the adjustment, lambda the weight of the
distillation term.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdjax import checks, losses
from kdjax.targets import (
    ADJUSTMENTS,
    Hyperparameters,
    adjusted_targets,
    distillation_logits,
    reservation_targets,
    teacher_targets,
    update_running_target,
)

__all__ = [
    "ADJUSTMENTS",
    "METHODS",
    "Hyperparameters",
    "Method",
    "adjusted_targets",
    "reservation_targets",
    "teacher_targets",
    "update_running_target",
]

Parts = dict[str, jax.Array]
Loss = tuple[jax.Array, Parts]


def _total(**parts: jax.Array) -> Loss:
    """Returns the sum of the parts, and the parts."""
    return sum(parts.values()), parts  # type: ignore[return-value]


def _distil(student_logits: jax.Array, targets: jax.Array, hyper: Hyperparameters) -> jax.Array:
    classes = distillation_logits(student_logits[..., :-1], hyper)
    return losses.distillation(classes, targets, temperature=hyper.temperature)


def _weighted(loss: jax.Array, hyper: Hyperparameters) -> jax.Array:
    """Returns a distillation term times its weight lambda."""
    checks.at_least("distill_weight", hyper.distill_weight, 0)
    weight = checks.per_example("distill_weight", hyper.distill_weight, loss[..., None])
    return weight[..., 0] * loss if weight.ndim else weight * loss


def ce(
    student_logits: jax.Array,
    teacher_logits: jax.Array | None,
    labels: jax.Array,
    *,
    hyper: Hyperparameters,
) -> Loss:
    """Cross-entropy of the class logits: CE(z[:m], y); also used to pre-train every method.

    Source: the usual loss of classifiers.
    """
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
    return _ce_sum(student_logits, labels, _distil(student_logits, targets, hyper), hyper)


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
    """Deep gambler loss: -log(q_y + q_a / o).

    Source: arXiv 1907.00208.
    """
    return _total(gambler=losses.gambler(student_logits, labels, payoff=hyper.payoff))


def kd_gambler(
    student_logits: jax.Array,
    teacher_logits: jax.Array | None,
    labels: jax.Array,
    *,
    hyper: Hyperparameters,
) -> Loss:
    """Gambler loss plus distillation: gambler + lambda T^2 KL(softmax(t/T) || softmax(z[:m]/T)).

    Source: the sum of arXiv 1907.00208 and arXiv 1503.02531.
    """
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

    gambler + lambda T^2 KL(A(softmax(t/T), y) || softmax(z[:m]/T)).

    Source: our combination of the two parts of Xu, Pu, Zhao, ICPR 2020, as a sum.
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
    Logits are not standardized: A is compared with the student's q over all outputs.

    Source: ours, with the adjusted teacher as the odds of arXiv 1907.00208.
    """
    plain = hyper.replace(logit_standardization=False)
    targets = adjusted_targets(teacher_logits, labels, plain)
    return _total(soft_gambler=losses.soft_gambler(student_logits, targets, payoff=hyper.payoff))


def dkd(
    student_logits: jax.Array,
    teacher_logits: jax.Array | None,
    labels: jax.Array,
    *,
    hyper: Hyperparameters,
) -> Loss:
    """Decoupled distillation: separate weights of the label's confidence and the other classes.

    CE(z[:m], y) + lambda T^2 (a KL([p_y, 1-p_y] || [r_y, 1-r_y]) + b KL(p' || r')), p' and r' over
    the classes except y; p and r are at temperature T, a is `target_weight` and b is
    `non_target_weight`. Not defined for two classes.

    Source: arXiv 2203.08679.
    """
    loss = losses.dkd(
        distillation_logits(student_logits[..., :-1], hyper),
        distillation_logits(teacher_logits, hyper),
        labels,
        temperature=hyper.temperature,
        target_weight=hyper.target_weight,
        non_target_weight=hyper.non_target_weight,
    )
    return _ce_sum(student_logits, labels, loss, hyper)


def dist(
    student_logits: jax.Array,
    teacher_logits: jax.Array | None,
    labels: jax.Array,
    *,
    hyper: Hyperparameters,
) -> Loss:
    """Distillation of correlations over the classes and over the examples of the batch.

    CE(z[:m], y) + lambda T^2 (b (1 - rho over classes) + c (1 - rho over examples)), rho Pearson's
    correlation of softmax(t/T) and softmax(z[:m]/T), b is `inter_class_weight` and c is
    `intra_class_weight`. The part over the examples is the same for all examples of the batch.

    Source: arXiv 2205.10536.
    """
    loss = losses.dist(
        distillation_logits(student_logits[..., :-1], hyper),
        distillation_logits(teacher_logits, hyper),
        temperature=hyper.temperature,
        inter_class_weight=hyper.inter_class_weight,
        intra_class_weight=hyper.intra_class_weight,
    )
    return _ce_sum(student_logits, labels, loss, hyper)


def rld(
    student_logits: jax.Array,
    teacher_logits: jax.Array | None,
    labels: jax.Array,
    *,
    hyper: Hyperparameters,
) -> Loss:
    """Refined distillation, which leaves out what the teacher prefers to the label.

    CE(z[:m], y) + lambda T^2 (a KL([max p, 1 - max p] || [r_y, 1-r_y]) + b KL(p' || r')), p' and r'
    over the classes with t_i < t_y; p and r are at temperature T, a is `target_weight` and b is
    `non_target_weight`.

    Source: arXiv 2408.07703.
    """
    loss = losses.rld(
        distillation_logits(student_logits[..., :-1], hyper),
        distillation_logits(teacher_logits, hyper),
        labels,
        temperature=hyper.temperature,
        target_weight=hyper.target_weight,
        non_target_weight=hyper.non_target_weight,
    )
    return _ce_sum(student_logits, labels, loss, hyper)


def reservation_distillation(
    student_logits: jax.Array,
    teacher_logits: jax.Array | None,
    labels: jax.Array,
    *,
    hyper: Hyperparameters,
) -> Loss:
    """Abstention learnt from a teacher's errors: logsumexp(z) - sum_i B_i z_i over m+1 outputs.

    B = (p_y A(p, y), 1 - p_y) for a teacher that has not seen the image. The optimum is q = B, so
    q_a estimates the mean of 1 - p_y. There is no payoff, and abstaining on every image does not
    lower the loss. p is at temperature 1 and of logits that are not standardized, whatever the
    config says.

    Source: ours.
    """
    targets = reservation_targets(teacher_logits, labels, hyper)
    return _total(reservation=losses.soft_cross_entropy(student_logits, targets))


def self_adaptive(
    student_logits: jax.Array,
    teacher_logits: jax.Array | None,
    labels: jax.Array,
    *,
    hyper: Hyperparameters,
    running: ArrayLike = 1.0,
) -> Loss:
    """Self-adaptive training: -s_y log q_y - (1 - s_y) log q_a.

    s_y is a running mean of r_y for each training image: 1 at the start, then
    s_y <- mu s_y + (1 - mu) r_y, without gradient, before the loss of each batch. `running` is s_y
    before the batch, `[B]`; mu is `target_momentum`. In e epochs the label's share of s_y falls to
    mu^e. The targets start with the first epoch after pre-training.

    Source: arXiv 2002.10319.
    """
    before = jnp.broadcast_to(jnp.asarray(running), labels.shape)
    target = update_running_target(before, student_logits, labels, hyper.target_momentum)
    is_label = jax.nn.one_hot(labels, student_logits.shape[-1] - 1, dtype=target.dtype)
    targets = jnp.concatenate([target[..., None] * is_label, 1 - target[..., None]], axis=-1)
    return _total(self_adaptive=losses.soft_cross_entropy(student_logits, targets))


def _ce_sum(
    student_logits: jax.Array, labels: jax.Array, distillation: jax.Array, hyper: Hyperparameters
) -> Loss:
    return _total(
        cross_entropy=losses.cross_entropy(student_logits[..., :-1], labels),
        distillation=_weighted(distillation, hyper),
    )


def _gambler_sum(
    student_logits: jax.Array, targets: jax.Array, labels: jax.Array, hyper: Hyperparameters
) -> Loss:
    return _total(
        gambler=losses.gambler(student_logits, labels, payoff=hyper.payoff),
        distillation=_weighted(_distil(student_logits, targets, hyper), hyper),
    )


# Fields of `config.objective` that several methods read.
_DISTILLATION = ("temperature", "logit_standardization")
_WEIGHTED = ("distill_weight", "distill_warmup_epochs", *_DISTILLATION)
_ADJUSTMENT = ("adjustment", "epsilon")
_DECOUPLED = ("target_weight", "non_target_weight")
_CORRELATIONS = ("inter_class_weight", "intra_class_weight")


@dataclasses.dataclass(frozen=True)
class Method:
    """A training method; calling it calls its function.

    Attributes:
        fn: `(student_logits, teacher_logits, labels, *, hyper) -> (loss, parts)`; with running
            targets also `running`.
        needs_teacher: whether it uses the teacher's logits.
        abstains: whether it trains the abstention output.
        adjusts: whether the label corrects the teacher's distribution.
        running_targets: whether it keeps a target for each training image, see
            `update_running_target`.
        fields: the fields of `config.objective` that it reads, besides `pretrain_epochs`.
    """

    fn: Callable[..., Loss]
    needs_teacher: bool
    abstains: bool
    adjusts: bool
    running_targets: bool = False
    fields: tuple[str, ...] = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Loss:
        """Returns the loss `[B]` and its parts; see the module's docstring."""
        return self.fn(*args, **kwargs)


_no_teacher = functools.partial(Method, needs_teacher=False, adjusts=False)
_teacher = functools.partial(Method, needs_teacher=True, adjusts=False)
_adjusted_teacher = functools.partial(Method, needs_teacher=True, adjusts=True)

METHODS: dict[str, Method] = {
    "ce": _no_teacher(ce, abstains=False),
    "kd": _teacher(kd, abstains=False, fields=_WEIGHTED),
    "ka": _adjusted_teacher(ka, abstains=False, fields=(*_DISTILLATION, *_ADJUSTMENT)),
    "dkd": _teacher(dkd, abstains=False, fields=(*_WEIGHTED, *_DECOUPLED)),
    "dist": _teacher(dist, abstains=False, fields=(*_WEIGHTED, *_CORRELATIONS)),
    "rld": _teacher(rld, abstains=False, fields=(*_WEIGHTED, *_DECOUPLED)),
    "gambler": _no_teacher(gambler, abstains=True, fields=("payoff",)),
    "kd_gambler": _teacher(kd_gambler, abstains=True, fields=("payoff", *_WEIGHTED)),
    "ka_gambler_sum": _adjusted_teacher(
        ka_gambler_sum, abstains=True, fields=("payoff", *_WEIGHTED, *_ADJUSTMENT)
    ),
    "ka_gambler_soft": _adjusted_teacher(
        ka_gambler_soft, abstains=True, fields=("payoff", "temperature", *_ADJUSTMENT)
    ),
    "reservation_distillation": _adjusted_teacher(
        reservation_distillation, abstains=True, fields=_ADJUSTMENT
    ),
    "self_adaptive": _no_teacher(
        self_adaptive, abstains=True, running_targets=True, fields=("target_momentum",)
    ),
}
