"""Confidence scores of a classifier: logits in, `[...]` out, higher = more confident.

The caller says what the last column is: `abstention=True` for logits `[..., m+1]` with an
abstention output, which may be -inf; `abstention=False` for `[..., m]` if all columns are classes,
as in other libraries. There is no default, because the wrong one would silently drop a class. A
class logit of -inf is a masked class, of probability 0. If all classes are masked, or a logit that
the score reads is NaN or +inf, the score is NaN, which metrics and certificates reject. Every score
computes in float32 (in float64 for float64 input if `jax_enable_x64` is set) and can be jitted,
vmapped and differentiated. q = softmax(z), q_a is its last entry, r = softmax(z[:m]).

Probabilities saturate: near 1 many examples have the same float32 value. Evaluations use the forms
in the log domain of `log_odds`, which rank alike without ties.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdjax import checks
from kdjax.selective.columns import (
    centred,
    centred_classes,
    class_logits,
    require_abstention,
)
from kdjax.selective.log_odds import (
    combination,
    doctor,
    energy,
    margin_log,
    max_probability_log_odds,
    reservation_log_odds,
    softmax_response_log_odds,
)


def predict(logits: ArrayLike, *, abstention: bool | None = None) -> jax.Array:
    """Predicted class: argmax_i z_i over the m classes, without abstention.

    Args:
        logits: z, `[..., m+1]` or `[..., m]`, any float dtype.
        abstention: whether the last column is abstention; must be given.

    Returns:
        Integers in [0, m), `[...]`; the first of tied classes.

    Raises:
        ValueError: without `abstention`, or for fewer than 2 classes.
        TypeError: for logits that are not floats.
    """
    return jnp.argmax(class_logits(logits, abstention=abstention), axis=-1)


def reservation(logits: ArrayLike, *, abstention: bool | None = None) -> jax.Array:
    """Probability of not abstaining, 1 - q_a. Also named `non_abstention`.

    1 - q_a = sigmoid(logsumexp(z[:m]) - z_a), which has no cancellation near 0. It saturates near
    1: for q_a < 6e-8 the float32 result is exactly 1, and such examples are ties.

    Args:
        logits: z, `[..., m+1]`, any float dtype; the last column is abstention.
        abstention: must be True: the score reads the abstention column.

    Returns:
        1 - q_a in [0, 1], `[...]`.

    Raises:
        ValueError: unless `abstention=True`, or for fewer than 2 classes.
        TypeError: for logits that are not floats.

    Source: Ziyin et al., "Deep Gamblers", NeurIPS 2019, arXiv 1907.00208.
    """
    require_abstention("reservation", abstention)
    return jax.nn.sigmoid(reservation_log_odds(logits, abstention=abstention))


def softmax_response(logits: ArrayLike, *, abstention: bool | None = None) -> jax.Array:
    """Largest class probability without abstention: max_i r_i.

    Args:
        logits: z, `[..., m+1]` or `[..., m]`, any float dtype.
        abstention: whether the last column is abstention; must be given.

    Returns:
        max r in [1/m, 1], `[...]`.

    Raises:
        ValueError: without `abstention`, or for fewer than 2 classes.
        TypeError: for logits that are not floats.

    Source: Geifman, El-Yaniv, "Selective Classification for Deep Neural Networks", NIPS 2017,
    arXiv 1705.08500.
    """
    return jnp.max(_class_probabilities(logits, abstention), axis=-1)


def max_probability(logits: ArrayLike, *, abstention: bool | None = None) -> jax.Array:
    """Largest class probability in the softmax over classes and abstention.

    max_i q_i over the m classes = (1 - q_a) max_i r_i; without abstention, max_i r_i.

    Args:
        logits: z, `[..., m+1]` or `[..., m]`, any float dtype.
        abstention: whether the last column is abstention; must be given.

    Returns:
        max q in [0, 1], `[...]`.

    Raises:
        ValueError: without `abstention`, or for fewer than 2 classes.
        TypeError: for logits that are not floats.

    Source: Hendrycks, Gimpel, ICLR 2017, arXiv 1610.02136 (maximum softmax probability), here over
    m+1 outputs.
    """
    probabilities = jax.nn.softmax(centred(logits, abstention), axis=-1)
    return jnp.max(probabilities[..., :-1] if abstention else probabilities, axis=-1)


def negative_entropy(logits: ArrayLike, *, abstention: bool | None = None) -> jax.Array:
    """Negative entropy of the class probabilities: sum_i r_i log r_i, with 0 log 0 = 0.

    Args:
        logits: z, `[..., m+1]` or `[..., m]`, any float dtype.
        abstention: whether the last column is abstention; must be given.

    Returns:
        Nats in [-log m, 0], `[...]`.

    Raises:
        ValueError: without `abstention`, or for fewer than 2 classes.
        TypeError: for logits that are not floats.

    Source: compared by Feng et al., "Towards Better Selective Classification", ICLR 2023,
    arXiv 2206.09034.
    """
    log_r = jax.nn.log_softmax(centred_classes(logits, abstention), axis=-1)
    # A masked class has log r = -inf, and 0 * -inf would be NaN.
    return jnp.sum(jnp.exp(log_r) * jnp.where(jnp.isneginf(log_r), 0, log_r), axis=-1)


def margin(logits: ArrayLike, *, abstention: bool | None = None) -> jax.Array:
    """Margin: difference of the two largest class probabilities, r_(1) - r_(2).

    Args:
        logits: z, `[..., m+1]` or `[..., m]`, any float dtype.
        abstention: whether the last column is abstention; must be given.

    Returns:
        The difference in [0, 1], `[...]`.

    Raises:
        ValueError: without `abstention`, or for fewer than 2 classes.
        TypeError: for logits that are not floats.

    Source: Scheffer, Decomain, Wrobel, "Active Hidden Markov Models for Information Extraction",
    IDA 2001.
    """
    top, _ = jax.lax.top_k(_class_probabilities(logits, abstention), 2)
    return top[..., 0] - top[..., 1]


def max_logit_pnorm(
    logits: ArrayLike, *, p: ArrayLike = 2.0, abstention: bool | None = None
) -> jax.Array:
    """MaxLogit-pNorm: largest class logit after centring and division by the p-norm.

    max_i (z_i - mean z) / ||z - mean z||_p over the m class logits, without those that are -inf. If
    they are all equal, the quotient is 0 / 0 and the score is 0, its smallest value.

    Args:
        logits: z, `[..., m+1]` or `[..., m]`, any float dtype; abstention is not used.
        p: p > 0, chosen on the development split; a scalar or `[...]`; infinity gives the maximum
            norm.
        abstention: whether the last column is abstention; must be given.

    Returns:
        The score in [0, 1], `[...]`; invariant to shifting and scaling of the logits.

    Raises:
        ValueError: without `abstention`, for fewer than 2 classes, p <= 0 (checked outside jit
            only), or a p of another shape.
        TypeError: for logits that are not floats.

    Source: Cattelan, Silva, "How to Fix a Broken Confidence Estimator", arXiv 2305.15508.
    """
    checks.above("p", p, 0)
    classes = centred_classes(logits, abstention)
    powers = checks.per_example("p", p, classes)
    # An infinite power has no derivative; the maximum norm is 1 after the division below.
    is_infinite = p == math.inf if isinstance(p, int | float) else jnp.isinf(powers)
    power = p if is_infinite is False else jnp.where(is_infinite, 1, powers)
    masked = jnp.isneginf(classes)
    count = jnp.sum(~masked, axis=-1, keepdims=True).astype(classes.dtype)
    mean = jnp.mean(jnp.where(masked, 0, classes), axis=-1, keepdims=True)
    # Of the remaining classes; without masked ones the mean is multiplied by 1.
    centred = jnp.where(masked, 0, classes - mean * (classes.shape[-1] / count))
    largest = jnp.max(jnp.abs(centred), axis=-1, keepdims=True)
    # Division by the largest modulus prevents overflow of the powers; the sum is then at least 1,
    # unless all logits are equal.
    unit = centred / jnp.where(largest > 0, largest, 1)
    # 0^p has no finite derivative for p < 1.
    moduli = jnp.where(unit == 0, 1, jnp.abs(unit))
    total = jnp.sum(jnp.where(unit == 0, 0, moduli**power), axis=-1, keepdims=True)
    norm = jnp.where(is_infinite | (total == 0), 1, jnp.where(total > 0, total, 1) ** (1 / power))
    return jnp.max(unit, axis=-1) / norm[..., 0]


non_abstention = reservation

# Each is called as `score(logits, abstention=...)`.
SCORES: dict[str, Callable[..., jax.Array]] = {
    "reservation": reservation,
    "softmax_response": softmax_response,
    "max_probability": max_probability,
    "negative_entropy": negative_entropy,
    "margin": margin,
    "max_logit_pnorm": max_logit_pnorm,
    "reservation_log_odds": reservation_log_odds,
    "softmax_response_log_odds": softmax_response_log_odds,
    "max_probability_log_odds": max_probability_log_odds,
    "margin_log": margin_log,
    "doctor": doctor,
    "energy": energy,
    "combination": combination,
}


def _class_probabilities(logits: ArrayLike, abstention: bool | None) -> jax.Array:
    return jax.nn.softmax(centred_classes(logits, abstention), axis=-1)
