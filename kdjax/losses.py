"""Loss functions of logits: pure, computed in log space, one value per example.

Each function reduces the class axis only, computes in float32 (in float64 for float64 input) and
can be jitted, vmapped and differentiated. The last column of `m+1` logits is abstention.
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jax.typing import ArrayLike
from optax import softmax_cross_entropy_with_integer_labels as cross_entropy

from kdjax import checks

__all__ = ["cross_entropy", "distillation", "gambler", "soft_gambler"]


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
    abstention = logits[..., -1:] - jnp.log(jnp.asarray(payoff, logits.dtype))
    return jnp.logaddexp(class_logits, abstention)


def gambler(logits: jax.Array, labels: jax.Array, *, payoff: ArrayLike) -> jax.Array:
    """Returns the deep gambler loss of the true class.

    L = -log(q_y + q_a / o) = logsumexp(z) - logaddexp(z_y, z_a - log o), q = softmax(z).
    For o -> infinity it approaches the cross-entropy over the m+1 outputs.

    Args:
        logits: z, `[..., m+1]`, any float dtype; the last column is abstention.
        labels: y, `[...]`, integers in [0, m).
        payoff: o > 1; for o >= m the optimum never abstains.

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
    true_class = jnp.take_along_axis(logits[..., :-1], labels[..., None], axis=-1)
    return logsumexp(logits, axis=-1) - _log_with_abstention(true_class, logits, payoff)[..., 0]


def soft_gambler(logits: jax.Array, targets: jax.Array, *, payoff: ArrayLike) -> jax.Array:
    """Returns the deep gambler loss in expectation over a target distribution.

    L = -sum_i A_i log(q_i + q_a / o) = sum_i A_i (logsumexp(z) - logaddexp(z_i, z_a - log o)).
    Where max A <= 1 / o, the minimum is at q_a = 1: the network abstains.

    Args:
        logits: z, `[..., m+1]`, any float dtype; the last column is abstention.
        targets: A, such as the adjusted teacher's probabilities, `[..., m]`; may contain zeros.
        payoff: o > 1.

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
    unnormalized = _log_with_abstention(logits[..., :-1], logits, payoff)
    log_probs = unnormalized - logsumexp(logits, axis=-1, keepdims=True)
    return -jnp.sum(targets * log_probs, axis=-1)


def distillation(
    logits: jax.Array, targets: jax.Array, *, temperature: ArrayLike = 1.0
) -> jax.Array:
    """Returns the divergence between the teacher's and the student's distribution.

    L = T^2 KL(A || softmax(v / T)). The factor T^2 keeps the scale of the gradient independent
    of T.

    Args:
        logits: v, the student's class logits (without abstention), `[..., m]`, any float dtype.
        targets: A, the teacher's probabilities at temperature T, `[..., m]`; may contain zeros.
        temperature: T > 0.

    Returns:
        The loss in nats, `[...]`.

    Raises:
        ValueError: for a temperature out of range (checked only outside jit), or a wrong shape.
        TypeError: for logits or targets that are not floats.

    Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531.
    """
    logits = checks.logits(logits, least=2)
    targets = checks.targets(targets, shape=logits.shape)
    checks.above("temperature", temperature, 0)
    temperature = jnp.asarray(temperature, logits.dtype)
    positive = targets > 0
    # The inner where avoids log(0): its gradient is not finite, even in the branch not taken.
    log_targets = jnp.where(positive, jnp.log(jnp.where(positive, targets, 1)), 0)
    log_student = jax.nn.log_softmax(logits / temperature, axis=-1)
    return temperature**2 * jnp.sum(targets * (log_targets - log_student), axis=-1)
