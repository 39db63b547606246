"""The prediction set of an image: possible classes, which a model gives when it abstains."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdjax import selective

SHOWN_NAMES = 8  # in a line of text

Sets = tuple[tuple[str, ...], ...]


def has_sets(card: Mapping[str, Any]) -> bool:
    """Returns whether a card has the quantile of the sets; one of an earlier version has not."""
    return (card.get("promises") or {}).get("sets") is not None


def sets_of(
    card: Mapping[str, Any],
    logits: np.ndarray,
    score: np.ndarray,
    accepted: np.ndarray,
    outlier: np.ndarray | None = None,
) -> Sets | None:
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
    if not has_sets(card):
        return None
    names = np.array(card["classes"], object)
    of_classes = logits[:, : len(names)]
    stopped = np.zeros(len(logits), bool) if outlier is None else outlier
    result: list[tuple[str, ...]] = [(name,) for name in names[of_classes.argmax(axis=1)].tolist()]
    for row in np.flatnonzero(stopped).tolist():
        result[row] = ()
    abstained = np.flatnonzero(~accepted & ~stopped)
    if abstained.size:
        asked = of_classes[abstained]
        order = np.argsort(-asked, axis=1, kind="stable")
        sets = selective.set_rule(card["promises"]["sets"]).sets(asked, score[abstained])
        members = np.take_along_axis(sets, order, axis=1)
        parts = np.split(names[order[members]], np.cumsum(members.sum(axis=1))[:-1])
        for row, part in zip(abstained.tolist(), parts, strict=True):
            result[row] = tuple(part.tolist())
    return tuple(result)


def text(names: Sequence[str] | None, classes: int) -> str:
    """Returns what follows `abstain` in a line of text, such as ` (one of: cat, dog)`.

    Args:
        names: the prediction set; None or empty: there is none.
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
