"""Knowledge adjustment: the ground truth corrects the teacher's distribution where it is wrong.

Both ways come from Wen, Lai, Qian, "Preparing Lessons: Improve Knowledge Distillation with Better
Supervision", arXiv 1911.07471.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdjax import checks


def probability_shift(probs_or_logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Gives the true class the teacher's top value, and the teacher's choice the true class's.

    A_y = p_max, A_argmax = p_y, A_i = p_i elsewhere; the identity where the teacher is right.
    A swap commutes with the softmax at any temperature, so logits may be given as well.

    Args:
        probs_or_logits: p, `[..., m]`, any float dtype.
        labels: y, `[...]`, integers in [0, m).

    Returns:
        A, `[..., m]`, float32 (float64 stays): the same values, two of them swapped.

    Raises:
        ValueError: for a wrong shape, or a label out of range (seen only outside jit).
        TypeError: for a wrong dtype.

    Source: "probability shift", arXiv 1911.07471.
    """
    values = checks.logits(probs_or_logits, least=2)
    truth = _one_hot(values, labels)
    choice = jax.nn.one_hot(jnp.argmax(values, axis=-1), values.shape[-1], dtype=bool)
    top = jnp.max(values, axis=-1, keepdims=True)
    at_truth = jnp.sum(jnp.where(truth, values, 0), axis=-1, keepdims=True)
    return jnp.where(truth, top, jnp.where(choice, at_truth, values))


def label_smooth_regularization(
    probs: jax.Array, labels: jax.Array, *, epsilon: ArrayLike = 0.1
) -> jax.Array:
    """Replaces the teacher's distribution by smoothed labels where the teacher is wrong.

    Where argmax p != y: A_y = 1 - epsilon, A_i = epsilon / (m - 1) elsewhere; A = p where it is
    right. Label smoothing hurts selective classification (arXiv 2403.14715): an ablation.

    Args:
        probs: p, `[..., m]`, any float dtype.
        labels: y, `[...]`, integers in [0, m).
        epsilon: in [0, 1 - 1/m), so that the truth stays the most probable class.

    Returns:
        A, `[..., m]`, float32 (float64 stays).

    Raises:
        ValueError: for a wrong shape, or an epsilon or label out of range (seen only outside jit).
        TypeError: for a wrong dtype.

    Source: "label smooth regularization", arXiv 1911.07471.
    """
    probs = checks.logits(probs, least=2)
    classes = probs.shape[-1]
    checks.within("epsilon", epsilon, 0, 1 - 1 / classes)
    truth = _one_hot(probs, labels)
    wrong = jnp.argmax(probs, axis=-1) != labels
    epsilon = jnp.asarray(epsilon, probs.dtype)
    smooth = jnp.where(truth, 1 - epsilon, epsilon / (classes - 1))
    return jnp.where(wrong[..., None], smooth, probs)


def _one_hot(values: jax.Array, labels: jax.Array) -> jax.Array:
    labels = checks.labels(labels, shape=values.shape[:-1], classes=values.shape[-1])
    return jax.nn.one_hot(labels, values.shape[-1], dtype=bool)
