"""Loss functions of logits: pure, computed in log space, one value per example.

Each function reduces the class axis only, computes in float32 (in float64 for float64 input) and
can be jitted, vmapped and differentiated. The last column of `m+1` logits is abstention. A payoff
or temperature is a scalar, or an array `[...]` with one value per example.
"""

import math

import jax
import jax.numpy as jnp
import optax
from jax.scipy.special import logsumexp
from jax.typing import ArrayLike

from kdjax import checks

__all__ = ["cross_entropy", "distillation", "gambler", "soft_gambler"]


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the cross-entropy of the true class.

    L = -log r_y = logsumexp(v) - v_y, r = softmax(v).

    Args:
        logits: v, class logits, `[..., m]`, any float dtype.
        labels: y, `[...]`, integers in [0, m).

    Returns:
        The loss in nats, `[...]`.

    Raises:
        ValueError: for a label out of range (checked only outside jit), or a wrong shape.
        TypeError: for logits that are not floats or labels that are not integers.

    Source: `optax.softmax_cross_entropy_with_integer_labels`, which checks no range and computes in
    the dtype of the logits.
    """
    logits = checks.logits(logits, least=2)
    labels = checks.labels(labels, shape=logits.shape[:-1], classes=logits.shape[-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def _shifted(logits: jax.Array) -> jax.Array:
    """Shifts the largest logit to 0, so that differences of logsumexps do not cancel."""
    return logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))


def _log_with_abstention(
    class_logits: jax.Array, logits: jax.Array, payoff: ArrayLike
) -> jax.Array:
    """Returns log(q_i + q_a / o) + logsumexp(z) for a subset of the classes.

    Args:
        class_logits: z_i of the k classes, `[..., k]`.
        logits: z, `[..., m+1]`.
        payoff: o.

    Returns:
        `[..., k]`.
    """
    payoff = checks.per_example("payoff", payoff, logits)
    abstention = logits[..., -1:] - jnp.log(payoff)
    return jnp.logaddexp(class_logits, abstention)


def gambler(logits: jax.Array, labels: jax.Array, *, payoff: ArrayLike) -> jax.Array:
    """Returns the deep gambler loss of the true class.

    L = -log(q_y + q_a / o) = logsumexp(z) - logaddexp(z_y, z_a - log o), q = softmax(z).
    For o -> infinity it approaches the cross-entropy over the m+1 outputs.

    Args:
        logits: z, `[..., m+1]`, any float dtype; the last column is abstention.
        labels: y, `[...]`, integers in [0, m).
        payoff: o > 1, a scalar or `[...]`; for o >= m the optimum never abstains.

    Returns:
        The loss in nats, `[...]`.

    Raises:
        ValueError: for a payoff or label out of range (checked only outside jit), or a wrong shape.
        TypeError: for logits that are not floats or labels that are not integers.

    Example:
        >>> import jax.numpy as jnp
        >>> print(gambler(jnp.zeros((1, 3)), jnp.array([1]), payoff=2.0).round(4))  # -log(1/2)
        [0.6931]

    Source: Ziyin et al., "Deep Gamblers", NeurIPS 2019, arXiv 1907.00208.
    """
    logits = checks.logits(logits, least=3)
    labels = checks.labels(labels, shape=logits.shape[:-1], classes=logits.shape[-1] - 1)
    checks.above("payoff", payoff, 1)
    logits = _shifted(logits)
    true_class = jnp.take_along_axis(logits[..., :-1], labels[..., None], axis=-1)
    return logsumexp(logits, axis=-1) - _log_with_abstention(true_class, logits, payoff)[..., 0]


def soft_gambler(logits: jax.Array, targets: jax.Array, *, payoff: ArrayLike) -> jax.Array:
    """Returns the deep gambler loss in expectation over a target distribution.

    L = -sum_i A_i log(q_i + q_a / o) = sum_i A_i (logsumexp(z) - logaddexp(z_i, z_a - log o)).
    Where max A <= 1 / o, the minimum is at q_a = 1: the network abstains.

    Args:
        logits: z, `[..., m+1]`, any float dtype; the last column is abstention.
        targets: A, such as the adjusted teacher's probabilities, `[..., m]`; may contain zeros.
        payoff: o > 1, a scalar or `[...]`.

    Returns:
        The loss in nats, `[...]`.

    Raises:
        ValueError: for a payoff out of range (checked only outside jit), or a wrong shape.
        TypeError: for logits or targets that are not floats.

    Source: the expectation from which Ziyin et al., arXiv 1907.00208, derive their loss.
    """
    logits = checks.logits(logits, least=3)
    targets = checks.targets(targets, shape=(*logits.shape[:-1], logits.shape[-1] - 1))
    checks.above("payoff", payoff, 1)
    logits = _shifted(logits)
    classes = logits[..., :-1]
    # A class with neither target nor probability contributes nothing, instead of 0 * -inf.
    excluded = (targets == 0) & jnp.isneginf(classes)
    unnormalized = _log_with_abstention(jnp.where(excluded, 0, classes), logits, payoff)
    log_probs = unnormalized - logsumexp(logits, axis=-1, keepdims=True)
    return -jnp.sum(targets * log_probs, axis=-1)


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
    shifted = _shifted(logits) / temperature
    loss = jnp.sum(_divergence_terms(targets, shifted), axis=-1, keepdims=True)
    return (temperature**2 * loss)[..., 0]


def _divergence_terms(targets: jax.Array, logits: jax.Array) -> jax.Array:
    """Returns A log(A / B) - A + B by class, B = softmax(v), for logits v <= 0."""
    count = logits.shape[-1]
    # log(m B) and log(m A) are near 0 for flat distributions, where log B and log A would round.
    log_student = logits - _log_mean_exp(logits)
    student = jnp.exp(log_student) / count
    positive = targets != 0  # NaN must not pass for 0
    # The inner where avoids log(0): its gradient is not finite, even in the branch not taken.
    log_ratio = jnp.log(jnp.where(positive, count * targets, 1)) - jnp.where(
        positive, log_student, 0
    )
    # A log(A / B) - A + B = A (d + exp(-d) - 1), d = log(A / B): without cancellation near 0.
    near = jnp.abs(log_ratio) < 0.5
    small = jnp.where(near, log_ratio, 0)
    terms = jnp.where(
        near, targets * (small + jnp.expm1(-small)), targets * log_ratio - targets + student
    )
    return jnp.where(positive, terms, student)


def _log_mean_exp(logits: jax.Array) -> jax.Array:
    """Returns log((1/m) sum_i exp(v_i)), `[..., 1]`, for logits with maximum 0."""
    mean = jnp.mean(jnp.expm1(logits), axis=-1, keepdims=True)
    flat = mean > -0.5
    near = jnp.log1p(jnp.where(flat, mean, 0))
    far = logsumexp(logits, axis=-1, keepdims=True) - math.log(logits.shape[-1])
    return jnp.where(flat, near, far)
