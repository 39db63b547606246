"""The loss `soft_gambler` with a derivative in closed form, for fewer passes over the classes.

XLA:CPU fuses a sum over the classes with exp, log1p, max and abs, but not with selections, and it
writes intermediate results that are used twice to memory. So there are no selections here: infinite
logits become finite ones of which the exponential is 0. And the derivative, written from its
equation, uses exp(z) in the sums and in the result separately.
"""

import jax
import jax.numpy as jnp

Tangents = tuple[jax.Array, jax.Array, jax.Array]


@jax.custom_jvp
def expected_gambler(logits: jax.Array, targets: jax.Array, log_payoff: jax.Array) -> jax.Array:
    """Returns sum_i A_i (logsumexp(z) - logaddexp(z_i, z_a - log o)).

    Args:
        logits: z, `[..., m+1]`, float; the last column is abstention.
        targets: A, `[..., m]`.
        log_payoff: log o, a scalar or `[..., 1]`; may be infinite.

    Returns:
        `[...]`.
    """
    classes, abstention = _columns(logits)
    largest = jnp.maximum(jnp.max(classes, axis=-1, keepdims=True), abstention)
    log_total = jnp.log(_sum_exp(classes, abstention, largest))
    gains = _log_add(classes - largest, _finite(abstention - largest - log_payoff))
    gain = jnp.sum(targets * gains, axis=-1, keepdims=True)
    return (log_total * jnp.sum(targets, axis=-1, keepdims=True) - gain)[..., 0]


@expected_gambler.defjvp
def _derivative(primals: Tangents, tangents: Tangents) -> tuple[jax.Array, jax.Array]:
    """Returns the loss and its derivative, with s_i = sigmoid(z_i - z_a + log o), q = softmax(z).

    dL/dz_i = q_i sum A - A_i s_i, dL/dz_a = q_a sum A - R, dL/dlog o = R = sum_i A_i (1 - s_i),
    dL/dA_i = logsumexp(z) - logaddexp(z_i, z_a - log o).
    """
    logits, targets, log_payoff = primals
    d_logits, d_targets, d_log_payoff = tangents
    classes, abstention = _columns(logits)
    largest = jnp.maximum(jnp.max(classes, axis=-1, keepdims=True), abstention)
    largest = jax.lax.stop_gradient(largest)  # it cancels
    total = _sum_exp(classes, abstention, largest)
    reserved = _finite(abstention - log_payoff)
    rest = jnp.sum(targets * jax.lax.logistic(reserved - classes), axis=-1, keepdims=True)
    scale = jnp.sum(targets, axis=-1, keepdims=True) / total
    # The barrier keeps XLA from writing the exponentials of the sums to memory to use them again.
    shift, other = jax.lax.optimization_barrier((largest, reserved))
    of_classes = scale * jnp.exp(classes - shift) - targets * jax.lax.logistic(classes - other)
    of_abstention = scale * jnp.exp(abstention - largest) - rest
    of_targets = largest + jnp.log(total) - _log_add(classes, reserved)
    tangent = (
        jnp.sum(of_classes * d_logits[..., :-1], axis=-1, keepdims=True)
        + of_abstention * d_logits[..., -1:]
        + rest * d_log_payoff
        + jnp.sum(of_targets * d_targets, axis=-1, keepdims=True)
    )
    return expected_gambler(*primals), tangent[..., 0]


def _columns(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns finite logits of the classes, `[..., m]`, and of abstention, `[..., 1]`."""
    finite = _finite(logits)
    return finite[..., :-1], finite[..., -1:]


def _finite(values: jax.Array) -> jax.Array:
    """Replaces -inf by a number of which sums and differences of two are finite."""
    return jnp.maximum(values, jnp.finfo(values.dtype).min / 4)


def _sum_exp(classes: jax.Array, abstention: jax.Array, largest: jax.Array) -> jax.Array:
    of_classes = jnp.sum(jnp.exp(classes - largest), axis=-1, keepdims=True)
    return of_classes + jnp.exp(abstention - largest)


def _log_add(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns log(exp(a) + exp(b)) of finite numbers."""
    return jnp.maximum(a, b) + jnp.log1p(jnp.exp(-jnp.abs(a - b)))
