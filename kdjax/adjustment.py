"""Knowledge adjustment: corrects the teacher's distribution by the label where it is wrong.

Source of the first two functions: Wen, Lai, Qian, "Preparing Lessons: Improve Knowledge
Distillation with Better Supervision", arXiv 1911.07471.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdjax import checks


def probability_shift(probs_or_logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Swaps the values of the true class and of the predicted class where the teacher is wrong.

    A_y = max p, A_argmax(p) = p_y, A_i = p_i elsewhere; the identity where the teacher is right.
    The swap commutes with the softmax at any temperature, so it can also be applied to logits.

    Args:
        probs_or_logits: p, `[..., m]`, any float dtype.
        labels: y, `[...]`, integers in [0, m).

    Returns:
        A, `[..., m]`, float32 (float64 for float64 input under `jax_enable_x64`).

    Raises:
        ValueError: for a wrong shape, or a label out of range (checked only outside jit).
        TypeError: for a wrong dtype.

    Source: "probability shift", arXiv 1911.07471.
    """
    values = checks.logits(probs_or_logits, least=2)
    is_label = _one_hot(values, labels)
    is_predicted = jax.nn.one_hot(jnp.argmax(values, axis=-1), values.shape[-1], dtype=bool)
    # Not the maximum, of which the derivative is divided among tied classes.
    top = jnp.sum(jnp.where(is_predicted, values, 0), axis=-1, keepdims=True)
    label_value = jnp.sum(jnp.where(is_label, values, 0), axis=-1, keepdims=True)
    return jnp.where(is_label, top, jnp.where(is_predicted, label_value, values))


def label_smooth_regularization(
    probs: jax.Array, labels: jax.Array, *, epsilon: ArrayLike = 0.1
) -> jax.Array:
    """Replaces the teacher's distribution by smoothed labels where the teacher is wrong.

    Where argmax p != y: A_y = 1 - epsilon and A_i = epsilon / (m - 1) for i != y; elsewhere A = p.
    Intended as an ablation: label smoothing hurts selective classification (arXiv 2403.14715).

    Args:
        probs: p, `[..., m]`, any float dtype.
        labels: y, `[...]`, integers in [0, m).
        epsilon: in [0, 1 - 1/m), so that y remains the most probable class; a scalar, or one value
            per example, `[...]`.

    Returns:
        A, `[..., m]`, float32 (float64 for float64 input under `jax_enable_x64`).

    Raises:
        ValueError: for a wrong shape, or an epsilon or label out of range (ranges are checked only
            outside jit).
        TypeError: for a wrong dtype.

    Source: "label smooth regularization", arXiv 1911.07471.
    """
    probs = checks.logits(probs, least=2)
    classes = probs.shape[-1]
    checks.within("epsilon", epsilon, 0, 1 - 1 / classes)
    is_label = _one_hot(probs, labels)
    wrong = ~jnp.take_along_axis(is_label, jnp.argmax(probs, axis=-1, keepdims=True), axis=-1)
    epsilon = checks.per_example("epsilon", epsilon, probs)
    smooth = jnp.where(is_label, 1 - epsilon, epsilon / (classes - 1))
    return jnp.where(wrong, smooth, probs)


def refined(probs: jax.Array, labels: jax.Array) -> jax.Array:
    """Gives the true class the teacher's confidence and keeps the ratios of all other classes.

    Where argmax p != y: A_y = max p and A_i = p_i (1 - max p) / (1 - p_y) for i != y; elsewhere
    A = p. So y becomes the most probable class, the order of the other classes and all ratios
    p_i / p_j between them are kept, and the sum stays 1. `probability_shift` gives y the same
    value, but moves the predicted class down to the place of y.

    Args:
        probs: p, `[..., m]`, any float dtype, of any temperature; not logits, with which it does
            not commute.
        labels: y, `[...]`, integers in [0, m).

    Returns:
        A, `[..., m]`, float32 (float64 for float64 input under `jax_enable_x64`).

    Raises:
        ValueError: for a wrong shape, or a label out of range (checked only outside jit).
        TypeError: for a wrong dtype.

    Source: ours, after arXiv 2408.07703, which argues that a correction should keep the relations
    between the classes, and which gives y the confidence max p (`kdjax.losses.rld`).
    """
    probs = checks.logits(probs, least=2)
    is_label = _one_hot(probs, labels)
    top = jnp.max(probs, axis=-1, keepdims=True)
    is_predicted = jax.nn.one_hot(jnp.argmax(probs, axis=-1), probs.shape[-1], dtype=bool)
    wrong = ~jnp.any(is_label & is_predicted, axis=-1, keepdims=True)
    # Sums of the other classes, because 1 - max p would round where the teacher is confident.
    kept = jnp.sum(jnp.where(is_predicted, 0, probs), axis=-1, keepdims=True)
    others = jnp.sum(jnp.where(is_label, 0, probs), axis=-1, keepdims=True)
    # Above 1 by rounding only, where y is as probable as the predicted class: y stays the first.
    scaled = probs * jnp.minimum(kept / jnp.where(wrong, others, 1), 1)
    return jnp.where(wrong, jnp.where(is_label, top, scaled), probs)


def _one_hot(values: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the checked labels as bool `[..., m]`."""
    labels = checks.labels(labels, shape=values.shape[:-1], classes=values.shape[-1])
    return jax.nn.one_hot(labels, values.shape[-1], dtype=bool)
