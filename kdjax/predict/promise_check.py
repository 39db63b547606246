"""An exported model on labelled images: what it accepts, what is wrong, and what that refutes."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kdjax import selective
from kdjax.data import own
from kdjax.data.own.names import FORMS
from kdjax.errors import InputError, unknown_name_error
from kdjax.evaluation import per_class
from kdjax.predict.model import BATCH_SIZE, Model, load
from kdjax.selective import validation
from kdjax.selective.groups import LEVEL, GroupRates
from kdjax.selective.promise import PromiseCheck

UNKNOWN = -1  # label of an image of a class that the model does not have


class Outcome(NamedTuple):
    """The decisions of a model on n labelled images.

    Attributes:
        labels: int [n], numbers of the model's classes; `UNKNOWN` for other classes.
        predicted: int [n].
        accepted: bool [n].
        unknown: number of images by the name of each class that the model does not have.
    """

    labels: np.ndarray
    predicted: np.ndarray
    accepted: np.ndarray
    unknown: Mapping[str, int]

    @property
    def correct(self) -> np.ndarray:
        """Whether each prediction is correct, bool [n]."""
        return self.predicted == self.labels


def check(
    path: str | os.PathLike[str],
    images: str,
    *,
    risk: float | None = None,
    delta: float = 0.05,
    split: str | None = None,
    count_unknown: bool = False,
    strict: bool = False,
    batch_size: int = BATCH_SIZE,
) -> dict[str, Any]:
    """Tests on labelled images whether an exported model keeps its promise.

    Args:
        path: folder of the model.
        images: `folder:PATH`, `csv:FILE` or `npz:FILE`, as for training; their class names are
            matched with those of the model.
        risk: the promised selective risk, instead of that of the model's certificate.
        delta: probability that a kept promise is refuted, in (0, 1).
        split: use the images of this split only.
        count_unknown: count accepted images of classes that the model does not have as errors,
            instead of refusing them.
        strict: refuse images that cannot be read, instead of leaving them out.
        batch_size: largest number of images in a batch, >= 1.

    Returns:
        See `report`.

    Raises:
        InputError: for invalid arguments, images that cannot be read, or unknown classes.
    """
    for name, value in (("risk", risk), ("delta", delta)):
        if value is not None:
            validation.probability(name, value)
    location = own.parse(images)
    if location is None:
        raise InputError(f"{images!r}: labelled images are given as {FORMS}")
    model = load(path, batch_size=batch_size)
    labelled = own.read_labelled(location, model.image_shape, model.resize, strict=strict)
    outcome = run(model, labelled, split=split, count_unknown=count_unknown)
    certificate = model.card["certificate"]
    if risk is None and certificate:
        risk = certificate["risk"]
    return report(outcome, model.card["classes"], risk=risk, delta=delta)


def label_numbers(
    names: Sequence[str], classes: Sequence[str], *, count_unknown: bool = False
) -> np.ndarray:
    """Returns the number of the class of each label, matched by name.

    Args:
        names: of the labels.
        classes: of the model, by number.
        count_unknown: give labels of other classes the number `UNKNOWN`, instead of refusing them.

    Raises:
        InputError: for a label that is not one of the classes, with the nearest one.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    unknown = [name for name in dict.fromkeys(names) if name not in numbers]
    if unknown and not count_unknown:
        raise InputError(
            f"{unknown_name_error('class', unknown[0], classes)}; --count_unknown counts accepted "
            "images of classes that the model does not have as errors"
        )
    return np.array([numbers.get(name, UNKNOWN) for name in names], np.int64)


def run(
    model: Model, labelled: own.Labelled, *, split: str | None = None, count_unknown: bool = False
) -> Outcome:
    """Returns the decisions of a model on labelled images.

    Args:
        model: the model.
        labelled: the images, with the shape of the model.
        split: use the images of this split only.
        count_unknown: see `label_numbers`.

    Raises:
        InputError: for an unknown class or split.
    """
    rows = np.arange(len(labelled.labels))
    if split is not None:
        rows = np.flatnonzero(np.array(labelled.splits) == split)
        if not rows.size:
            existing = ", ".join(sorted(set(labelled.splits)))
            raise InputError(f"--split={split}: no images of this split; there are {existing}")
    names = [labelled.labels[row] for row in rows]
    labels = label_numbers(names, model.card["classes"], count_unknown=count_unknown)
    predictions = [
        model(np.asarray(labelled.images[rows[start : start + model.batch_size]]))
        for start in range(0, len(rows), model.batch_size)
    ]
    unknown = Counter(name for name, label in zip(names, labels, strict=True) if label == UNKNOWN)
    return Outcome(
        labels,
        np.concatenate([prediction.classes for prediction in predictions]),
        np.concatenate([prediction.accepted for prediction in predictions]),
        dict(unknown),
    )


def report(
    outcome: Outcome, classes: Sequence[str], *, risk: float | None, delta: float
) -> dict[str, Any]:
    """Returns what was measured and whether it refutes a promise, as values for JSON.

    Args:
        outcome: of `run`.
        classes: names of the model's classes.
        risk: the promised selective risk; None: there is no promise.
        delta: probability of a false refutation.

    Returns:
        The fields of `selective.PromiseCheck`; `promised_risk`, `delta`, `level` of the intervals;
        `refuted`, None without a promise, and `verdict`, a sentence; `classes`, and by `true` and
        by `predicted` class the fields of `selective.GroupRates`; `unknown`, the numbers of images
        of classes that the model does not have; `warnings` about classes, see
        `kdjax.evaluation.per_class.class_warnings`. None is an undefined value.

    Raises:
        InputError: for a risk or delta outside (0, 1).
    """
    test = selective.check_promise(
        outcome.accepted, outcome.correct, risk=0.5 if risk is None else risk, delta=delta
    )
    fields = {**test._asdict(), "risk": None if np.isnan(test.risk) else test.risk}
    by_class = {
        "true": _rates(outcome, outcome.labels, len(classes)),
        "predicted": _rates(outcome, outcome.predicted, len(classes)),
    }
    if risk is None:
        fields |= dict.fromkeys(("p_value", "refuted", "refuting_errors"))
    return {
        **fields,
        "promised_risk": risk,
        "delta": delta,
        "level": LEVEL,
        "verdict": verdict(test, risk, delta),
        "classes": list(classes),
        **{
            grouping: {name: _json_values(values) for name, values in rates._asdict().items()}
            for grouping, rates in by_class.items()
        },
        "warnings": [
            warning
            for grouping, rates in by_class.items()
            for warning in per_class.class_warnings(rates, classes, grouping, risk)
        ],
        "unknown": dict(outcome.unknown),
    }


def verdict(check: PromiseCheck, risk: float | None, delta: float) -> str:
    """Returns in words whether a promise is refuted.

    Args:
        check: of the promise.
        risk: the promised selective risk; None: there is no promise.
        delta: of the check.
    """
    if risk is None:
        return (
            "no promise: the model has no certificate, so there is nothing to refute; --risk tests "
            "a risk of your own"
        )
    if not check.accepted:
        return "not refuted: no image was accepted, so nothing is known about the selective risk"
    measured = (
        f"{check.errors:,} of {check.accepted:,} accepted images are wrong ({_percent(check.risk)})"
    )
    if check.refuted:
        return (
            f"refuted: {measured}, but at most {_percent(risk)} was promised; if that held, so "
            f"many errors would have probability {check.p_value:.2g} (at most {delta:g} refutes)"
        )
    needed = (
        f"{check.refuting_errors:,} or more errors would refute it"
        if check.refuting_errors
        else "so few accepted images cannot refute it, give more"
    )
    return (
        f"not refuted: {measured}, which is compatible with at most {_percent(risk)}; {needed}. "
        "This does not prove the promise"
    )


def _rates(outcome: Outcome, groups: np.ndarray, classes: int) -> GroupRates:
    """Returns the rates by class; an image of an unknown class is in the group of no class."""
    known = np.where(groups == UNKNOWN, classes, groups)
    rates = selective.group_rates(outcome.accepted, outcome.correct, known, num_groups=classes + 1)
    return GroupRates(**{name: values[:classes] for name, values in rates._asdict().items()})


def _json_values(values: np.ndarray) -> list[Any]:
    """Returns a list with None for NaN, which JSON has not."""
    return [None if value != value else value for value in values.tolist()]


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"
