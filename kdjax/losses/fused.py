"""Losses with a derivative in closed form, for fewer passes over the classes.

XLA:CPU fuses a sum over the classes with exp, log1p, max and abs, but not with selections or
slices, and it writes intermediate results that are used twice to memory. So `expected_gambler` has
neither: logits of -inf become finite ones of which the exponential is 0, and the targets get a
column of zeros for abstention. A derivative, written from its equation, uses exp(z) in the sums and
in the result separately, and shares nothing with the value.
"""

import jax
import jax.numpy as jnp

from kdjax.losses.numerics import largest_and_total, log_mean_exp, summed_divergence

Tangents = tuple[jax.Array, jax.Array, jax.Array]


@jax.custom_jvp
def expected_gambler(logits: jax.Array, targets: jax.Array, log_payoff: jax.Array) -> jax.Array:
    """Returns sum_i A_i (logsumexp(z) - logaddexp(z_i, z_a - log o)).

    Args:
        logits: z, `[..., m+1]`, float; the last column is abstention.
        targets: A, `[..., m]`.
        log_payoff: log o, a scalar or `[..., 1]`; may be infinite.

    Returns:
        `[...]`; NaN where all logits are -inf.
    """
    logits = _finite(logits)
    largest, total = largest_and_total(logits)
    reserved = _finite(logits[..., -1:] - largest - log_payoff)
    losses = jnp.log(total) - _log_add(logits - largest, reserved)
    loss = jnp.sum(_with_abstention(targets) * losses, axis=-1)
    return jnp.where(largest[..., 0] == _lowest(logits), jnp.nan, loss)


@expected_gambler.defjvp
def _expected_gambler_derivative(
    primals: Tangents, tangents: Tangents
) -> tuple[jax.Array, jax.Array]:
    """Returns the loss and its derivative, with s_i = sigmoid(z_i - z_a + log o), q = softmax(z).

    dL/dz_i = q_i sum A - A_i s_i, dL/dz_a = q_a sum A - R, dL/dlog o = R = sum_i A_i (1 - s_i),
    dL/dA_i = logsumexp(z) - logaddexp(z_i, z_a - log o).
    """
    logits, log_payoff = _finite(primals[0]), primals[2]
    targets = _with_abstention(primals[1])
    d_logits, d_targets, d_log_payoff = tangents
    largest, total = largest_and_total(logits)
    reserved = _finite(logits[..., -1:] - log_payoff)
    rest = jnp.sum(targets * jax.lax.logistic(reserved - logits), axis=-1, keepdims=True)
    scale = jnp.sum(targets, axis=-1, keepdims=True) / total
    is_abstention = jnp.expand_dims(
        jnp.arange(logits.shape[-1]) == logits.shape[-1] - 1, range(logits.ndim - 1)
    )
    of_logits = (
        scale * jnp.exp(logits - largest)
        - targets * jax.lax.logistic(logits - reserved)
        - rest * is_abstention
    )
    of_targets = largest + jnp.log(total) - _log_add(logits, reserved)
    tangent = (
        jnp.sum(of_logits * d_logits, axis=-1)
        + (rest * d_log_payoff)[..., 0]
        + jnp.sum(of_targets * _with_abstention(d_targets), axis=-1)
    )
    # The barrier keeps XLA from writing what the value and the derivative share to memory.
    return expected_gambler(*jax.lax.optimization_barrier(primals)), tangent


@jax.custom_jvp
def softmax_divergence(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Returns sum_i A_i log(A_i / B_i) - A_i + B_i, B = softmax(v).

    Args:
        logits: v, float `[..., m]`, with maximum 0; may be -inf where the target is 0.
        targets: A, `[..., m]`; may contain zeros.

    Returns:
        `[...]`.
    """
    log_ratio, log_student, positive = _log_ratio(logits, targets)
    student = jnp.exp(log_student) / logits.shape[-1]
    return summed_divergence(targets, student, log_ratio, positive)


@softmax_divergence.defjvp
def _softmax_divergence_derivative(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Returns the divergence and its derivative.

    dL/dv_i = B_i sum A - A_i, dL/dA_i = log(A_i / B_i), and 0 where A_i is 0.
    """
    logits, targets = primals
    d_logits, d_targets = tangents
    largest, total = largest_and_total(logits)
    scale = jnp.sum(targets, axis=-1, keepdims=True) / total
    of_logits = scale * jnp.exp(logits - largest) - targets
    of_targets = _log_ratio(logits, targets)[0]
    tangent = jnp.sum(of_logits * d_logits + of_targets * d_targets, axis=-1)
    return softmax_divergence(*jax.lax.optimization_barrier(primals)), tangent


def _log_ratio(logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns log(A / B), B = softmax(v), log(m B), and where A is not 0, for logits v <= 0.

    Where A is 0 the first is 0.
    """
    # log(m B) and log(m A) are near 0 for flat distributions, where log B and log A would round.
    log_student = logits - log_mean_exp(logits)
    positive = targets != 0  # NaN must not pass for 0
    # The inner where avoids log(0): its gradient is not finite, even in the branch not taken.
    log_targets = jnp.log(jnp.where(positive, logits.shape[-1] * targets, 1))
    return log_targets - jnp.where(positive, log_student, 0), log_student, positive


def _with_abstention(targets: jax.Array) -> jax.Array:
    """Appends a column of zeros."""
    return jnp.pad(targets, [(0, 0)] * (targets.ndim - 1) + [(0, 1)])


def _finite(values: jax.Array) -> jax.Array:
    """Replaces -inf by a number of which sums and differences of two are finite."""
    return jnp.maximum(values, _lowest(values))


def _lowest(values: jax.Array) -> float:
    return float(jnp.finfo(values.dtype).min) / 4


def _log_add(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns log(exp(a) + exp(b)) of finite numbers."""
    return jnp.maximum(a, b) + jnp.log1p(jnp.exp(-jnp.abs(a - b)))
