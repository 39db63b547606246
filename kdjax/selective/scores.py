"""Confidence scores of a network: logits `[..., m+1]` in, `[...]` out, higher = more confident.

The last column is abstention; it may be -inf, for a classifier without an abstention output. Class
logits are finite. Every score computes in float32 (float64 for float64 input) and can be jitted,
vmapped and differentiated. q = softmax(z), q_a is its last entry, r = softmax(z[:m]).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jax.typing import ArrayLike

from kdjax import checks


def predict(logits: ArrayLike) -> jax.Array:
    """Predicted class: argmax_i z_i over the m classes, without abstention.

    Args:
        logits: z, `[..., m+1]`, any float dtype; the last column is abstention.

    Returns:
        Integers in [0, m), `[...]`; the first of tied classes.

    Raises:
        ValueError: for fewer than 3 columns.
        TypeError: for logits that are not floats.
    """
    return jnp.argmax(checks.logits(logits, least=3)[..., :-1], axis=-1)


def reservation(logits: ArrayLike) -> jax.Array:
    """Probability of not abstaining, 1 - q_a. Also named `non_abstention`.

    1 - q_a = sigmoid(logsumexp(z[:m]) - z_a), which has no cancellation near 0. It saturates near
    1: for q_a < 6e-8 the float32 result is exactly 1, and such examples are ties.

    Args:
        logits: z, `[..., m+1]`, any float dtype; the last column is abstention.

    Returns:
        1 - q_a in [0, 1], `[...]`.

    Raises:
        ValueError: for fewer than 3 columns.
        TypeError: for logits that are not floats.

    Source: Ziyin et al., "Deep Gamblers", NeurIPS 2019, arXiv 1907.00208.
    """
    logits = _centred(logits)
    return jax.nn.sigmoid(logsumexp(logits[..., :-1], axis=-1) - logits[..., -1])


def softmax_response(logits: ArrayLike) -> jax.Array:
    """Largest class probability without abstention: max_i r_i.

    Args:
        logits: z, `[..., m+1]`, any float dtype; the last column is abstention.

    Returns:
        max r in [1/m, 1], `[...]`.

    Raises:
        ValueError: for fewer than 3 columns.
        TypeError: for logits that are not floats.

    Source: Geifman, El-Yaniv, "Selective Classification for Deep Neural Networks", NIPS 2017,
    arXiv 1705.08500.
    """
    return jnp.max(_class_probabilities(logits), axis=-1)


def max_probability(logits: ArrayLike) -> jax.Array:
    """Largest class probability in the softmax over classes and abstention.

    max_i q_i over the m classes = (1 - q_a) max_i r_i.

    Args:
        logits: z, `[..., m+1]`, any float dtype; the last column is abstention.

    Returns:
        max q in [0, 1], `[...]`.

    Raises:
        ValueError: for fewer than 3 columns.
        TypeError: for logits that are not floats.

    Source: Hendrycks, Gimpel, ICLR 2017, arXiv 1610.02136 (maximum softmax probability), here over
    m+1 outputs.
    """
    return jnp.max(jax.nn.softmax(_centred(logits), axis=-1)[..., :-1], axis=-1)


def negative_entropy(logits: ArrayLike) -> jax.Array:
    """Negative entropy of the class probabilities: sum_i r_i log r_i, with 0 log 0 = 0.

    Args:
        logits: z, `[..., m+1]`, any float dtype; the last column is abstention.

    Returns:
        Nats in [-log m, 0], `[...]`.

    Raises:
        ValueError: for fewer than 3 columns.
        TypeError: for logits that are not floats.

    Source: compared by Feng et al., "Towards Better Selective Classification", ICLR 2023,
    arXiv 2206.09034.
    """
    # r may underflow to 0, but log r is finite for finite logits: the product is 0, not NaN.
    log_r = jax.nn.log_softmax(_centred(logits)[..., :-1], axis=-1)
    return jnp.sum(jnp.exp(log_r) * log_r, axis=-1)


def margin(logits: ArrayLike) -> jax.Array:
    """Margin: difference of the two largest class probabilities, r_(1) - r_(2).

    Args:
        logits: z, `[..., m+1]`, any float dtype; the last column is abstention.

    Returns:
        The difference in [0, 1], `[...]`.

    Raises:
        ValueError: for fewer than 3 columns.
        TypeError: for logits that are not floats.

    Source: Scheffer, Decomain, Wrobel, "Active Hidden Markov Models for Information Extraction",
    IDA 2001.
    """
    top, _ = jax.lax.top_k(_class_probabilities(logits), 2)
    return top[..., 0] - top[..., 1]


def max_logit_pnorm(logits: ArrayLike, *, p: ArrayLike = 2.0) -> jax.Array:
    """MaxLogit-pNorm: largest class logit after centring and division by the p-norm.

    max_i (z_i - mean z) / ||z - mean z||_p over the m class logits. If they are all equal, the
    quotient is 0 / 0 and the score is 0, its smallest value.

    Args:
        logits: z, `[..., m+1]`, any float dtype; the last column is abstention and is not used.
        p: p > 0, a scalar, chosen on the development split; infinity gives the maximum norm.

    Returns:
        The score in [0, 1], `[...]`; invariant to shifting and scaling of the logits.

    Raises:
        ValueError: for fewer than 3 columns, or p <= 0 (checked outside jit only).
        TypeError: for logits that are not floats.

    Source: Cattelan, Silva, "How to Fix a Broken Confidence Estimator", arXiv 2305.15508.
    """
    checks.above("p", p, 0)
    classes = _centred(logits)[..., :-1]
    centred = classes - jnp.mean(classes, axis=-1, keepdims=True)
    largest = jnp.max(jnp.abs(centred), axis=-1, keepdims=True)
    # Division by the largest modulus prevents overflow of the powers; the sum is then at least 1,
    # unless all logits are equal.
    unit = centred / jnp.where(largest > 0, largest, 1)
    total = jnp.sum(jnp.abs(unit) ** p, axis=-1)
    return jnp.max(unit, axis=-1) / jnp.where(total > 0, total, 1) ** (1 / p)


non_abstention = reservation

SCORES: dict[str, Callable[[ArrayLike], jax.Array]] = {
    "reservation": reservation,
    "softmax_response": softmax_response,
    "max_probability": max_probability,
    "negative_entropy": negative_entropy,
    "margin": margin,
    "max_logit_pnorm": max_logit_pnorm,
}


def _centred(logits: ArrayLike) -> jax.Array:
    """Shifts the largest class logit to 0, which changes no score and avoids cancellation."""
    logits = checks.logits(logits, least=3)
    return logits - jax.lax.stop_gradient(jnp.max(logits[..., :-1], axis=-1, keepdims=True))


def _class_probabilities(logits: ArrayLike) -> jax.Array:
    return jax.nn.softmax(_centred(logits)[..., :-1], axis=-1)
