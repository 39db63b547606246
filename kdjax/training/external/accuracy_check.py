"""Whether a given teacher fits the images: its accuracy on dev, and the cause if that is low."""

import json
import math
import shlex
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.optimize

from kdjax.errors import InputError

# Images of dev on which a teacher is checked.
CHECKED_IMAGES = 256
# Below this accuracy, other settings are tried.
SUSPICIOUS_ACCURACY = 0.9
# Another setting is named as the cause if it raises the accuracy by at least this much.
CLEAR_GAIN = 0.05
# More class names are not written into a message.
MAX_NAMES = 100


class Alternative(NamedTuple):
    """Another setting with which a teacher was tried.

    Attributes:
        flags: the config fields to set, by name.
        logits: [n, m] of the checked images with it.
    """

    flags: Mapping[str, str]
    logits: np.ndarray


def sample(count: int) -> np.ndarray:
    """Returns the rows of a split that are checked, evenly spaced: int [k]."""
    return np.unique(np.linspace(0, count - 1, min(count, CHECKED_IMAGES)).astype(np.int64))


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the share of rows whose largest logit is that of the label."""
    return float((logits.argmax(axis=1) == labels).mean())


def is_near_chance(logits: np.ndarray, labels: np.ndarray) -> bool:
    """Returns whether an accuracy is not clearly above that of predictions for other images.

    With the shares p_k of the predictions and q_k of the labels, predictions that are independent
    of the labels have the accuracy e = sum_k p_k q_k in the mean, and a variance of (e + e^2 -
    sum_k p_k q_k (p_k + q_k)) / n. An accuracy is near chance if it is below (1 + e) / 2 and
    below e + 4 standard deviations + 1 / n.

    Source: Fleiss, Cohen, Everitt, Psychological Bulletin 72, 1969.
    """
    count, size = len(labels), logits.shape[1]
    predicted, true = (
        np.bincount(classes, minlength=size) / count for classes in (logits.argmax(axis=1), labels)
    )
    both = predicted * true
    chance = float(both.sum())
    variance = (chance + chance**2 - float(both @ (predicted + true))) / count
    clear = chance + 4 * math.sqrt(max(variance, 0.0)) + 1 / count
    return accuracy(logits, labels) < min(clear, (1 + chance) / 2)


def best_alternative(
    logits: np.ndarray, labels: np.ndarray, alternatives: Callable[[], Sequence[Alternative]]
) -> Alternative | None:
    """Returns the setting with the highest accuracy, if it is clearly higher than the given one.

    Args:
        logits: [n, m] with the given settings.
        labels: [n].
        alternatives: computes the others; called only if the accuracy is low.
    """
    given = accuracy(logits, labels)
    if given >= SUSPICIOUS_ACCURACY:
        return None
    # The first of equal ones changes the fewest fields.
    best = max(alternatives(), key=lambda other: accuracy(other.logits, labels), default=None)
    if best is None or accuracy(best.logits, labels) < given + CLEAR_GAIN:
        return None
    return best


def class_order(
    logits: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    columns: Sequence[int] | None = None,
) -> Alternative | None:
    """Returns the order of the teacher's classes that agrees best with the labels.

    It is the assignment of outputs to classes with the most correct predictions. With few images
    for each class, any teacher has an order that seems better; None unless it is clearly better
    than that of random predictions.

    Args:
        logits: [n, m] with the given settings.
        labels: [n].
        class_names: of the data set, by label.
        columns: the output of the teacher that each column of `logits` is; None: the same. If the
            teacher has other outputs too, the names of all are not known, and the answer is None.
    """
    count, num_classes = logits.shape
    confusion = np.zeros((num_classes, num_classes))
    np.add.at(confusion, (labels, logits.argmax(axis=1)), 1)
    _, order = scipy.optimize.linear_sum_assignment(confusion, maximize=True)
    reordered = logits[:, order]
    if is_near_chance(reordered, labels) or accuracy(reordered, labels) < 0.5:
        return None
    if count < 5 * num_classes or (order == np.arange(num_classes)).all():
        return None
    outputs = range(num_classes) if columns is None else columns
    if sorted(outputs) != list(range(num_classes)):
        return None
    names = [""] * num_classes
    for label, column in enumerate(order):
        names[outputs[column]] = class_names[label]
    return Alternative({"teacher.class_names": _joined(names)}, reordered)


def _joined(names: Sequence[str]) -> str:
    shown = names[:MAX_NAMES]
    if any("," in name for name in shown):
        text = json.dumps(shown, ensure_ascii=False)
        return text if len(names) <= MAX_NAMES else f"{text[:-1]}, ...]"
    return ",".join(shown) + (",..." if len(names) > MAX_NAMES else "")


def describe(flags: Mapping[str, str]) -> str:
    """Returns config fields as flags of the command line."""
    return " ".join(shlex.quote(f"--config.{name}={value}") for name, value in flags.items())


def check(
    where: str,
    logits: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    alternatives: Callable[[], Sequence[Alternative]],
    columns: Sequence[int] | None = None,
) -> str:
    """Returns a line with the accuracy of a teacher on images of dev; checks it.

    A warning is issued if another setting is clearly better, or if the accuracy is near chance and
    no setting is.

    Args:
        where: name of the teacher, for messages.
        logits: [n, m] with the given settings.
        labels: [n].
        class_names: of the data set, by label.
        alternatives: computes the logits with other settings.
        columns: see `class_order`.

    Raises:
        InputError: if the accuracy is near chance and another setting is clearly better.
    """

    def candidates() -> list[Alternative]:
        others = list(alternatives())
        for flags, values in [({}, logits), *others]:
            order = class_order(values, labels, class_names, columns)
            if order is not None:
                others.append(Alternative({**flags, **order.flags}, order.logits))
        return sorted(others, key=lambda other: len(other.flags))

    note = f"{where} classifies {_share(logits, labels)} of {len(labels)} dev images correctly"
    best = best_alternative(logits, labels, candidates)
    near_chance = is_near_chance(logits, labels)
    if best is not None:
        better = f"with {describe(best.flags)} {_share(best.logits, labels)}"
        if near_chance:
            raise InputError(f"{note}, which is near chance; {better}: set that")
        warnings.warn(f"{note}; {better}", RuntimeWarning, stacklevel=3)
    elif near_chance:
        warnings.warn(
            f"{note}, which is near chance, and no other scale, normalization, layout, channel "
            "order or class order is clearly better: it may belong to another data set, or need "
            "another preprocessing",
            RuntimeWarning,
            stacklevel=3,
        )
    return note


def _share(logits: np.ndarray, labels: np.ndarray) -> str:
    return f"{100 * accuracy(logits, labels):.1f} %"
