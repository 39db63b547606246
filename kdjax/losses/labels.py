"""Losses whose target is a label, or a distribution over the outputs."""

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from kdjax import checks
from kdjax.losses.fused import expected_gambler
from kdjax.losses.numerics import largest_and_total

__all__ = ["cross_entropy", "gambler", "soft_cross_entropy", "soft_gambler"]


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


def soft_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Returns the cross-entropy with a target distribution over all outputs.

    L = -sum_i B_i log q_i = logsumexp(z) - sum_i B_i z_i for targets that sum to 1, q = softmax(z).
    It is convex in z, and its minimum is at q = B.

    Args:
        logits: z, `[..., k]`, with or without an abstention output, any float dtype; may be -inf
            where the target is 0.
        targets: B, `[..., k]`; may contain zeros.

    Returns:
        The loss in nats, `[...]`.

    Raises:
        ValueError: for a wrong shape, or a target outside [0, 1] (checked only outside jit).
        TypeError: for logits or targets that are not floats.

    Source: `optax.softmax_cross_entropy`, which gives NaN for excluded outputs and computes in the
    dtype of the logits.
    """
    logits = checks.logits(logits, least=2)
    targets = checks.targets(targets, shape=logits.shape)
    largest, total = largest_and_total(logits)
    # An output with neither target nor probability contributes nothing, instead of 0 * -inf.
    excluded = (targets == 0) & jnp.isneginf(logits)
    gain = jnp.sum(targets * jnp.where(excluded, 0, logits - largest), axis=-1)
    return jnp.log(total)[..., 0] * jnp.sum(targets, axis=-1) - gain


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
    payoff = checks.per_example("payoff", payoff, logits)
    largest, total = largest_and_total(logits)
    true_class = jnp.take_along_axis(logits[..., :-1], labels[..., None], axis=-1) - largest
    reserved = logits[..., -1:] - largest - jnp.log(payoff)
    return (jnp.log(total) - jnp.logaddexp(true_class, reserved))[..., 0]


def soft_gambler(logits: jax.Array, targets: jax.Array, *, payoff: ArrayLike) -> jax.Array:
    """Returns the deep gambler loss in expectation over a target distribution.

    L = -sum_i A_i log(q_i + q_a / o) = sum_i A_i (logsumexp(z) - logaddexp(z_i, z_a - log o)).
    Where max A <= 1 / o, the minimum is at q_a = 1: the network abstains.

    Args:
        logits: z, `[..., m+1]`, any float dtype; the last column is abstention. May be -inf.
        targets: A, such as the adjusted teacher's probabilities, `[..., m]`; may contain zeros.
        payoff: o > 1, a scalar or `[...]`.

    Returns:
        The loss in nats, `[...]`. Where a class with A_i > 0 and abstention are both -inf, it is
        not infinite, but of the order of 1e37 A_i in float32; NaN where all logits are -inf.

    Raises:
        ValueError: for a payoff out of range (checked only outside jit), or a wrong shape.
        TypeError: for logits or targets that are not floats.

    Source: the expectation from which Ziyin et al., arXiv 1907.00208, derive their loss.
    """
    logits = checks.logits(logits, least=3)
    targets = checks.targets(targets, shape=(*logits.shape[:-1], logits.shape[-1] - 1))
    checks.above("payoff", payoff, 1)
    log_payoff = jnp.log(checks.per_example("payoff", payoff, logits))
    return expected_gambler(logits, targets, log_payoff)
