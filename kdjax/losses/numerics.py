"""Parts of the losses that keep them exact in float32."""

import math

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp


def shifted(logits: jax.Array) -> jax.Array:
    """Shifts the largest logit to 0, so that differences of logsumexps do not cancel."""
    return logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))


def largest_and_total(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the largest logit M and sum_i exp(z_i - M), each `[..., 1]`, for logits `[..., k]`.

    Losses subtract the largest logit, so that differences do not cancel; each where it uses the
    logits, because XLA:CPU would write logits that are shifted once for all uses to memory.
    """
    largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    return largest, jnp.sum(jnp.exp(logits - largest), axis=-1, keepdims=True)


def log_mean_exp(logits: jax.Array) -> jax.Array:
    """Returns log((1/m) sum_i exp(v_i)), `[..., 1]`, for logits with maximum 0."""
    mean = jnp.mean(jnp.expm1(logits), axis=-1, keepdims=True)
    flat = mean > -0.5
    near = jnp.log1p(jnp.where(flat, mean, 0))
    far = logsumexp(logits, axis=-1, keepdims=True) - math.log(logits.shape[-1])
    return jnp.where(flat, near, far)


def log_softmax_within(logits: jax.Array, classes: jax.Array, temperature: jax.Array) -> jax.Array:
    """Returns log softmax(v / T) over some of the classes, and -inf for the others.

    Where all of these classes have the logit -inf, it is -inf, too.

    Args:
        logits: v, `[..., m]`; may be -inf.
        classes: which take part, bool `[..., m]`, at least one of each example.
        temperature: T, a scalar or `[..., 1]`.
    """
    largest = jnp.max(jnp.where(classes, logits, -jnp.inf), axis=-1, keepdims=True)
    none_left = jnp.isneginf(largest)
    scaled = (logits - jax.lax.stop_gradient(jnp.where(none_left, 0, largest))) / temperature
    within = jnp.where(classes, scaled, -jnp.inf)
    total = logsumexp(jnp.where(none_left, 0, within), axis=-1, keepdims=True)
    return within - total


def log_odds(logits: jax.Array, is_class: jax.Array, temperature: jax.Array) -> jax.Array:
    """Returns log(p_k / (1 - p_k)) of one class k, p = softmax(v / T), `[...]`.

    Args:
        logits: v, `[..., m]`; may be -inf.
        is_class: one-hot k, bool `[..., m]`.
        temperature: T, a scalar or `[..., 1]`.
    """
    # The logits are shifted by the largest of the others, which the class may exceed by far.
    largest = jnp.max(jnp.where(is_class, -jnp.inf, logits), axis=-1, keepdims=True)
    none_left = jnp.isneginf(largest)
    scaled = (logits - jax.lax.stop_gradient(jnp.where(none_left, 0, largest))) / temperature
    # The gradient of a logsumexp of -inf alone is not finite.
    others = logsumexp(jnp.where(is_class & ~none_left, -jnp.inf, scaled), axis=-1)
    others = jnp.where(none_left[..., 0], -jnp.inf, others)
    return jnp.sum(jnp.where(is_class, scaled, 0), axis=-1) - others


def divergence(log_targets: jax.Array, log_probs: jax.Array) -> jax.Array:
    """Returns KL(A || B) from log A and log B, `[..., k] -> [...]`, not negative.

    Both are -inf for the classes that take no part. Infinite where B is 0 and A is not.
    """
    # The inner where avoids -inf - -inf, whose gradient is not finite.
    takes_part = ~jnp.isneginf(log_targets)
    log_ratio = jnp.where(takes_part, log_targets, 0) - jnp.where(takes_part, log_probs, 0)
    return summed_divergence(jnp.exp(log_targets), jnp.exp(log_probs), log_ratio, takes_part)


def summed_divergence(
    targets: jax.Array, probs: jax.Array, log_ratio: jax.Array, positive: jax.Array
) -> jax.Array:
    """Returns sum_i A_i log(A_i / B_i) - A_i + B_i, `[..., k] -> [...]`, not negative.

    Args:
        targets: A.
        probs: B.
        log_ratio: log(A / B) where A is positive, otherwise any finite number.
        positive: where A is.
    """
    # A log(A / B) - A + B = A (d + exp(-d) - 1), d = log(A / B): without cancellation near 0.
    near = jnp.abs(log_ratio) < 0.5
    small = jnp.where(near, log_ratio, 0)
    terms = jnp.where(
        near, targets * (small + jnp.expm1(-small)), targets * log_ratio - targets + probs
    )
    return jnp.sum(jnp.where(positive, terms, probs), axis=-1)
