"""Confidence scores of one network: logits `[..., m+1]` in, `[...]` out, higher = more confident.

The last column is abstention; it may be -inf, as for a classifier that cannot abstain. Class
logits are finite. Every score computes in float32 (float64 when given float64) and can be jitted,
vmapped and differentiated. q = softmax(z), q_a its last entry, r = softmax(z[:m]).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jax.typing import ArrayLike

from kdjax import checks


def predict(logits: ArrayLike) -> jax.Array:
    """Returns the most probable class, which is never abstention.

    argmax_i z_i over i < m.

    Args:
        logits: z, `[..., m+1]`, any float dtype; the last column is abstention.

    Returns:
        Integers in [0, m), `[...]`; of tied classes the first.

    Raises:
        ValueError: for fewer than 3 columns.
        TypeError: for logits that are not floats.
    """
    return jnp.argmax(checks.logits(logits, least=3)[..., :-1], axis=-1)


def reservation(logits: ArrayLike) -> jax.Array:
    """Probability of not abstaining.

    1 - q_a = sigmoid(logsumexp(z[:m]) - z_a): no cancellation near 0. Near 1 it saturates: below
    q_a = 6e-8 float32 gives exactly 1, and such examples are ties.

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
    """Probability of the predicted class, given that the network does not abstain.

    max_i r_i.

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
    """Probability of the predicted class, abstention competing with it.

    max_i q_i over the m classes = (1 - q_a) max_i r_i.

    Args:
        logits: z, `[..., m+1]`, any float dtype; the last column is abstention.

    Returns:
        max q in [0, 1], `[...]`.

    Raises:
        ValueError: for fewer than 3 columns.
        TypeError: for logits that are not floats.

    Source: the maximum softmax probability of Hendrycks, Gimpel, ICLR 2017, arXiv 1610.02136,
    here over m+1 outputs.
    """
    return jnp.max(jax.nn.softmax(_centred(logits), axis=-1)[..., :-1], axis=-1)


def negative_entropy(logits: ArrayLike) -> jax.Array:
    """Negative entropy of the class-only distribution.

    sum_i r_i log r_i, with 0 log 0 = 0.

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
    # r may underflow to 0, but finite logits keep log r finite: the product is 0, not NaN.
    log_r = jax.nn.log_softmax(_centred(logits)[..., :-1], axis=-1)
    return jnp.sum(jnp.exp(log_r) * log_r, axis=-1)


def margin(logits: ArrayLike) -> jax.Array:
    """Lead of the predicted class over the runner-up.

    r_(1) - r_(2), the two largest class-only probabilities.

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
    """Largest class logit after centring and normalizing by the p-norm.

    max_i (z_i - mean z) / ||z - mean z||_p over the m class logits. Where they are all equal the
    quotient is 0 / 0: the score is 0 there, its least value.

    Args:
        logits: z, `[..., m+1]`, any float dtype; the last column is abstention and is not used.
        p: p > 0, one number, chosen on the development split; infinity is the largest modulus.

    Returns:
        The score in [0, 1], `[...]`; shifting and scaling the logits do not change it.

    Raises:
        ValueError: for fewer than 3 columns, or p <= 0 (seen only outside jit).
        TypeError: for logits that are not floats.

    Source: Cattelan, Silva, "How to Fix a Broken Confidence Estimator", arXiv 2305.15508.
    """
    checks.above("p", p, 0)
    classes = _centred(logits)[..., :-1]
    centred = classes - jnp.mean(classes, axis=-1, keepdims=True)
    largest = jnp.max(jnp.abs(centred), axis=-1, keepdims=True)
    # In units of the largest modulus no power overflows, and the sum is at least 1 but for 0 / 0.
    unit = centred / jnp.where(largest > 0, largest, 1)
    total = jnp.sum(jnp.abs(unit) ** p, axis=-1)
    return jnp.max(unit, axis=-1) / jnp.where(total > 0, total, 1) ** (1 / p)


SCORES: dict[str, Callable[[ArrayLike], jax.Array]] = {
    "reservation": reservation,
    "softmax_response": softmax_response,
    "max_probability": max_probability,
    "negative_entropy": negative_entropy,
    "margin": margin,
    "max_logit_pnorm": max_logit_pnorm,
}


def _centred(logits: ArrayLike) -> jax.Array:
    """Moves the largest class logit to 0: no score changes, and differences keep their digits."""
    logits = checks.logits(logits, least=3)
    return logits - jax.lax.stop_gradient(jnp.max(logits[..., :-1], axis=-1, keepdims=True))


def _class_probabilities(logits: ArrayLike) -> jax.Array:
    return jax.nn.softmax(_centred(logits)[..., :-1], axis=-1)
