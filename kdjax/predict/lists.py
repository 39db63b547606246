"""The short list of classes that a model gives for an image when it abstains."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdjax import selective

SHOWN_NAMES = 8  # in a line of text

Lists = tuple[tuple[str, ...], ...]


def lists_of(
    card: Mapping[str, Any],
    logits: np.ndarray,
    score: np.ndarray,
    accepted: np.ndarray,
    outlier: np.ndarray | None = None,
) -> Lists | None:
    """Returns the classes of each image by falling probability.

    Those of an accepted image are the predicted class alone; an image that the gate stops has none,
    as it may be of no class at all.

    Args:
        card: of the model, see `kdjax.export.card.FIELDS`.
        logits: [n, m] or [n, m+1].
        score: [n], on the scale of the threshold.
        accepted: bool [n].
        outlier: bool [n], whether the gate stops the image; None without a gate.

    Returns:
        A tuple of names for each image; None if the card has no quantile, as of a model that an
        earlier version exported.
    """
    values = (card.get("promises") or {}).get("sets")
    if values is None:
        return None
    names, count = card["classes"], len(card["classes"])
    members = selective.set_rule(values).sets(logits[:, :count], score)
    order = np.argsort(-logits[:, :count], axis=1, kind="stable")
    members[accepted] = False
    members[accepted, order[accepted, 0]] = True
    if outlier is not None:
        members[outlier] = False
    return tuple(
        tuple(names[label] for label in row if chosen[label])
        for row, chosen in zip(order.tolist(), members, strict=True)
    )


def text(names: Sequence[str] | None, classes: int) -> str:
    """Returns what follows `abstain` in a line of text, such as ` (one of: cat, dog)`.

    Args:
        names: the list; None or empty: there is none.
        classes: number of classes of the model.
    """
    if not names:
        return ""
    if len(names) == classes:
        return " (any class)"
    if len(names) == 1:
        return f" (perhaps: {names[0]})"
    more = len(names) - SHOWN_NAMES
    shown = ", ".join(names[:SHOWN_NAMES])
    return f" (one of: {shown}{f' and {more:,} more' if more > 0 else ''})"
