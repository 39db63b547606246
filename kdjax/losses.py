"""Losses: pure, per example, from logits, in log space.

Each one reduces the class axis only, computes in float32 (float64 when given float64) and can be
jitted, vmapped and differentiated. The last column of `m+1` logits is abstention.
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jax.typing import ArrayLike
from optax import softmax_cross_entropy_with_integer_labels as cross_entropy

from kdjax import checks

__all__ = ["cross_entropy", "distillation", "gambler", "soft_gambler"]


def _log_odds(horses: jax.Array, logits: jax.Array, payoff: ArrayLike) -> jax.Array:
    """log(q_i + q_a / o) + logsumexp(z) for some of the classes: z_i `[..., k] -> [..., k]`."""
    stake = logits[..., -1:] - jnp.log(jnp.asarray(payoff, logits.dtype))
    return jnp.logaddexp(horses, stake)


def gambler(logits: jax.Array, labels: jax.Array, *, payoff: ArrayLike) -> jax.Array:
    """Deep gambler loss with the true class as the winning horse.

    L = -log(q_y + q_a / o) = logsumexp(z) - logaddexp(z_y, z_a - log o), q = softmax(z).
    For o -> infinity it becomes cross-entropy over the m+1 classes.

    Args:
        logits: z, `[..., m+1]`, any float dtype; the last column is abstention.
        labels: y, `[...]`, integers in [0, m).
        payoff: o > 1; at o >= m abstaining never pays.

    Returns:
        The loss in nats, `[...]`.

    Raises:
        ValueError: for a payoff or label out of range (seen only outside jit) or a wrong shape.
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
    horse = jnp.take_along_axis(logits[..., :-1], labels[..., None], axis=-1)
    return logsumexp(logits, axis=-1) - _log_odds(horse, logits, payoff)[..., 0]


def soft_gambler(logits: jax.Array, targets: jax.Array, *, payoff: ArrayLike) -> jax.Array:
    """Deep gambler loss with a distribution, such as the adjusted teacher's, as the odds.

    L = -sum_i A_i log(q_i + q_a / o) = sum_i A_i (logsumexp(z) - logaddexp(z_i, z_a - log o)).
    Its minimum abstains on everything where max A <= 1 / o.

    Args:
        logits: z, `[..., m+1]`, any float dtype; the last column is abstention.
        targets: A, `[..., m]`, probabilities; zeros are fine.
        payoff: o > 1.

    Returns:
        The loss in nats, `[...]`.

    Raises:
        ValueError: for a payoff out of range (seen only outside jit) or a wrong shape.
        TypeError: for logits or targets that are not floats.

    Source: the expectation that Ziyin et al., arXiv 1907.00208, start from.
    """
    logits = checks.logits(logits, least=3)
    targets = checks.targets(targets, shape=(*logits.shape[:-1], logits.shape[-1] - 1))
    checks.above("payoff", payoff, 1)
    log_odds = _log_odds(logits[..., :-1], logits, payoff)
    log_bets = log_odds - logsumexp(logits, axis=-1, keepdims=True)
    return -jnp.sum(targets * log_bets, axis=-1)


def distillation(
    logits: jax.Array, targets: jax.Array, *, temperature: ArrayLike = 1.0
) -> jax.Array:
    """Divergence of the student at temperature T from the teacher's distribution.

    L = T^2 KL(A || softmax(v / T)); T^2 keeps the gradient's size when T changes.

    Args:
        logits: v, the student's class logits (without abstention), `[..., m]`, any float dtype.
        targets: A, `[..., m]`, probabilities already at temperature T; zeros are fine.
        temperature: T > 0.

    Returns:
        The loss in nats, `[...]`.

    Raises:
        ValueError: for a temperature out of range (seen only outside jit) or a wrong shape.
        TypeError: for logits or targets that are not floats.

    Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531.
    """
    logits = checks.logits(logits, least=2)
    targets = checks.targets(targets, shape=logits.shape)
    checks.above("temperature", temperature, 0)
    temperature = jnp.asarray(temperature, logits.dtype)
    positive = targets > 0
    # The inner where keeps log(0), whose gradient is not finite, out of both branches.
    log_targets = jnp.where(positive, jnp.log(jnp.where(positive, targets, 1)), 0)
    log_student = jax.nn.log_softmax(logits / temperature, axis=-1)
    return temperature**2 * jnp.sum(targets * (log_targets - log_student), axis=-1)
