"""The columns of logits: the classes, and the abstention output if there is one."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from kdjax import checks
from kdjax.errors import InputError


def class_logits(logits: ArrayLike, *, abstention: bool | None = None) -> jax.Array:
    """The m class logits, without the abstention column.

    Args:
        logits: z, `[..., m+1]` or `[..., m]`, any float dtype.
        abstention: whether the last column is abstention; must be given.

    Returns:
        `[..., m]`, float32 (float64 for float64 input under `jax_enable_x64`).

    Raises:
        ValueError: without `abstention`, or for fewer than 2 classes.
        TypeError: for logits that are not floats.
    """
    if has_abstention(abstention):
        return checks.logits(logits, least=3)[..., :-1]
    return checks.logits(logits, least=2)


def has_abstention(abstention: bool | None) -> bool:
    """Checks the argument `abstention`.

    Raises:
        ValueError: if it is neither True nor False.
    """
    if isinstance(abstention, bool | np.bool_):
        return bool(abstention)
    raise InputError(
        f"abstention is {abstention}: pass abstention=True if the last column of the logits is "
        "abstention, abstention=False if all columns are classes"
    )


def require_abstention(score: str, abstention: bool | None) -> None:
    """Checks that logits have the abstention column that a score reads.

    Raises:
        ValueError: if `abstention` is not True.
    """
    if not has_abstention(abstention):
        raise InputError(
            f"{score} reads the abstention column: abstention=False says there is none"
        )


def centred(logits: ArrayLike, abstention: bool | None) -> jax.Array:
    """Shifts the largest class logit to 0, which changes no score and avoids cancellation.

    A logit of +inf, also that of abstention, becomes NaN.
    """
    classes = class_logits(logits, abstention=abstention)
    values = checks.logits(logits, least=2)
    values = jnp.where(values == jnp.inf, jnp.nan, values)
    return values - jax.lax.stop_gradient(jnp.max(classes, axis=-1, keepdims=True))


def centred_classes(logits: ArrayLike, abstention: bool | None) -> jax.Array:
    """Returns the class logits `[..., m]` with the largest shifted to 0."""
    values = centred(logits, abstention)
    return values[..., :-1] if abstention else values
