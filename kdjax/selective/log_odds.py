"""Confidence scores in the log domain, which do not saturate.

A float32 probability above 1 - 6e-8 is exactly 1: the most confident third of the images of a good
network are then ties, and no threshold lies between them. The logarithm of the odds s / (1 - s)
ranks alike and is computed from the logits without forming s. See `scores` for the arguments;
`shown` in `scales` returns s itself, for people.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jax.typing import ArrayLike

from kdjax.errors import InputError
from kdjax.selective.columns import (
    centred,
    centred_classes,
    class_logits,
    require_abstention,
)

# (b, w_s, w_r) of `combination` without a fit: the sum of both log-odds.
EQUAL_WEIGHTS = (0.0, 1.0, 1.0)


def softmax_response_log_odds(logits: ArrayLike, *, abstention: bool | None = None) -> jax.Array:
    """Log-odds of the softmax response: log(s / (1 - s)), s = max_i r_i.

    = z_max - logsumexp_{i != max} z_i over the m class logits: the order of `softmax_response`,
    without ties near 1.

    Args:
        logits: z, `[..., m+1]` or `[..., m]`, any float dtype.
        abstention: whether the last column is abstention; must be given.

    Returns:
        The log-odds, at least -log(m - 1), `[...]`.

    Raises:
        ValueError: without `abstention`, or for fewer than 2 classes.
        TypeError: for logits that are not floats.

    Source: the score of Geifman, El-Yaniv, arXiv 1705.08500, as log-odds; 1 / odds is the
    statistic of D_beta in Granese et al., "DOCTOR", NeurIPS 2021, arXiv 2106.02395.
    """
    classes = centred_classes(logits, abstention)
    return _largest_minus_others(classes, classes.shape[-1])


def reservation_log_odds(logits: ArrayLike, *, abstention: bool | None = None) -> jax.Array:
    """Log-odds of the reservation: log((1 - q_a) / q_a).

    = logsumexp(z[:m]) - z_a: the order of `reservation`, without ties near 1.

    Args:
        logits: z, `[..., m+1]`, any float dtype; the last column is abstention.
        abstention: must be True: the score reads the abstention column.

    Returns:
        The log-odds, `[...]`; infinite for an abstention logit of -inf.

    Raises:
        ValueError: unless `abstention=True`, or for fewer than 2 classes.
        TypeError: for logits that are not floats.

    Source: the score of Ziyin et al., "Deep Gamblers", NeurIPS 2019, arXiv 1907.00208, as log-odds.
    """
    require_abstention("reservation_log_odds", abstention)
    values = centred(logits, abstention)
    return logsumexp(values[..., :-1], axis=-1) - values[..., -1]


def max_probability_log_odds(logits: ArrayLike, *, abstention: bool | None = None) -> jax.Array:
    """Log-odds of the largest class probability over m+1 outputs: log(s / (1 - s)), s = max_i q_i.

    = z_max - logsumexp of all other logits, with abstention: the order of `max_probability`,
    without ties near 1.

    Args:
        logits: z, `[..., m+1]` or `[..., m]`, any float dtype.
        abstention: whether the last column is abstention; must be given.

    Returns:
        The log-odds, `[...]`.

    Raises:
        ValueError: without `abstention`, or for fewer than 2 classes.
        TypeError: for logits that are not floats.

    Source: the score of Hendrycks, Gimpel, ICLR 2017, arXiv 1610.02136, over m+1 outputs, as
    log-odds.
    """
    values = centred(logits, abstention)
    return _largest_minus_others(values, values.shape[-1] - bool(abstention))


def margin_log(logits: ArrayLike, *, abstention: bool | None = None) -> jax.Array:
    """The margin in the log domain: -log(1 - s), s = r_(1) - r_(2).

    1 - s = r_(2) + sum_{i != max} r_i: the order of `margin`, without ties near 1. Not the
    log-odds, which are -infinity where the two largest logits are equal.

    Args:
        logits: z, `[..., m+1]` or `[..., m]`, any float dtype.
        abstention: whether the last column is abstention; must be given.

    Returns:
        At least 0, `[...]`.

    Raises:
        ValueError: without `abstention`, or for fewer than 2 classes.
        TypeError: for logits that are not floats.

    Source: the score of Scheffer, Decomain, Wrobel, IDA 2001.
    """
    classes = centred_classes(logits, abstention)
    others = _without(_largest(classes, classes.shape[-1]), classes)
    twice = jnp.concatenate([others, jnp.max(others, axis=-1, keepdims=True)], axis=-1)
    return logsumexp(classes, axis=-1) - logsumexp(twice, axis=-1)


def doctor(logits: ArrayLike, *, abstention: bool | None = None) -> jax.Array:
    """DOCTOR: log-odds of the sum of squared class probabilities, log(g / (1 - g)).

    g = sum_i r_i^2. D_alpha rejects a prediction where (1 - g) / g is above a threshold; the score
    is the negative logarithm of this statistic, in the log domain:
    log(1 - g) = logsumexp_i(log r_i + log(1 - r_i)).

    Args:
        logits: z, `[..., m+1]` or `[..., m]`, any float dtype.
        abstention: whether the last column is abstention; must be given.

    Returns:
        At least -log(m - 1), `[...]`.

    Raises:
        ValueError: without `abstention`, or for fewer than 2 classes.
        TypeError: for logits that are not floats.

    Source: Granese, Romanelli, Gorla, Palamidessi, Piantanida, "DOCTOR: A Simple Method for
    Detecting Misclassification Errors", NeurIPS 2021, arXiv 2106.02395.
    """
    log_r = jax.nn.log_softmax(centred_classes(logits, abstention), axis=-1)
    largest = _largest(log_r, log_r.shape[-1])
    rest = logsumexp(_without(largest, log_r), axis=-1, keepdims=True)
    # All but the largest are at most 1/2, so that 1 - r has no cancellation.
    log_others = jnp.log1p(-jnp.exp(jnp.where(largest, -jnp.inf, log_r)))
    complement = jnp.where(largest, rest, log_others)
    return logsumexp(2 * log_r, axis=-1) - logsumexp(log_r + complement, axis=-1)


def energy(logits: ArrayLike, *, abstention: bool | None = None) -> jax.Array:
    """Negative free energy of the classes at temperature 1: logsumexp(z[:m]).

    Unlike the other scores it changes if the same number is added to all logits.

    Args:
        logits: z, `[..., m+1]` or `[..., m]`, any float dtype.
        abstention: whether the last column is abstention; must be given.

    Returns:
        In the unit of the logits, `[...]`; NaN for a logit of +inf.

    Raises:
        ValueError: without `abstention`, or for fewer than 2 classes.
        TypeError: for logits that are not floats.

    Source: Liu, Wang, Owens, Li, "Energy-based Out-of-distribution Detection", NeurIPS 2020,
    arXiv 2010.03759.
    """
    free = logsumexp(class_logits(logits, abstention=abstention), axis=-1)
    return jnp.where(jnp.isinf(free), jnp.nan, free)


def combination(
    logits: ArrayLike,
    *,
    coefficients: Sequence[float] | ArrayLike = EQUAL_WEIGHTS,
    abstention: bool | None = None,
) -> jax.Array:
    """Logistic regression of correct on softmax response and reservation: b + w_s s + w_r r.

    s and r are `softmax_response_log_odds` and `reservation_log_odds`; the sigmoid of the score
    estimates the probability that the prediction is correct.

    Args:
        logits: z, `[..., m+1]`, any float dtype; the last column is abstention.
        coefficients: (b, w_s, w_r), of `fit_combination` on a development split.
        abstention: must be True: the score reads the abstention column.

    Returns:
        Log-odds, `[...]`.

    Raises:
        ValueError: unless `abstention=True`, for fewer than 2 classes, or not three coefficients.
        TypeError: for logits that are not floats.

    Source: Platt scaling of two scores (Platt, "Probabilistic Outputs for Support Vector
    Machines", 1999); the combination is ours.
    """
    require_abstention("combination", abstention)
    response = softmax_response_log_odds(logits, abstention=abstention)
    if np.shape(coefficients) != (3,):
        raise InputError(
            f"coefficients of shape {np.shape(coefficients)}: need three, (b, w_s, w_r)"
        )
    weights = jnp.asarray(coefficients, response.dtype)
    reservation = reservation_log_odds(logits, abstention=abstention)
    # From JAX 0.11 on, an assignment to three names is `unstack`, unknown to jax2onnx 0.13.0.
    return weights[0] + weights[1] * response + weights[2] * reservation


def _largest(values: jax.Array, classes: int) -> jax.Array:
    """Returns a mask of the first largest of the first `classes` columns, of the same shape."""
    index = jnp.argmax(values[..., :classes], axis=-1, keepdims=True)
    # Not jax.nn.one_hot, which ONNX Runtime does not have for bool.
    columns = np.arange(values.shape[-1], dtype=index.dtype)
    return index == columns.reshape((1,) * (values.ndim - 1) + columns.shape)


def _without(excluded: jax.Array, values: jax.Array) -> jax.Array:
    return jnp.where(excluded, -jnp.inf, values)


def _largest_minus_others(values: jax.Array, classes: int) -> jax.Array:
    """Returns the largest of the first `classes` columns minus the logsumexp of all others."""
    largest = _largest(values, classes)
    others = logsumexp(_without(largest, values), axis=-1)
    return jnp.sum(jnp.where(largest, values, 0), axis=-1) - others
