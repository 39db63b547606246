"""An exported model on labelled images: what it accepts, what is wrong, and what that refutes."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kdjax import selective
from kdjax.data import own
from kdjax.data.own.names import FORMS
from kdjax.data.records import Records
from kdjax.errors import InputError, unknown_name_error
from kdjax.evaluation import per_class
from kdjax.evaluation.promises import words
from kdjax.predict import class_check, verdicts
from kdjax.predict.model import BATCH_SIZE, Model, Prediction, load
from kdjax.runtime import atomic_io
from kdjax.selective import validation
from kdjax.selective.groups import LEVEL, GroupRates
from kdjax.selective.promise import PromiseCheck

UNKNOWN = -1  # label of an image of a class that the model does not have


class LabelledRows(NamedTuple):
    """The n labelled images about which a model is asked.

    Attributes:
        rows: int [n], among all that were read.
        labels: int [n], numbers of the model's classes; `UNKNOWN` for other classes.
        unknown: number of images by the name of each class that the model does not have.
    """

    rows: np.ndarray
    labels: np.ndarray
    unknown: Mapping[str, int]


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
    location = parse(images, risk=risk, delta=delta)
    model = load(path, batch_size=batch_size)
    labelled = own.read_labelled(location, model.image_shape, model.resize, strict=strict)
    outcome = run(model, labelled, split=split, count_unknown=count_unknown)
    certificate = model.card["certificate"]
    if risk is None and certificate:
        risk = certificate["risk"]
    promised = promised_classes(model.card)
    return report(outcome, model.card["classes"], risk=risk, delta=delta, promised=promised)


def promised_classes(card: Mapping[str, Any]) -> list[bool] | None:
    """Returns for which classes a model promises its risk; None if its promise is for all together.

    Args:
        card: the model card, see `kdjax.export.card.FIELDS`.
    """
    if not card.get("class_thresholds"):
        return None
    return [threshold is not None for threshold in card["class_thresholds"]]


def parse(images: str, *, risk: float | None = None, delta: float = 0.05) -> own.Location:
    """Returns the location of labelled images, once the arguments of a check are valid.

    Raises:
        InputError: if they are not given as `folder:PATH`, `csv:FILE` or `npz:FILE`, or for a risk
            or delta outside (0, 1).
    """
    for name, value in (("risk", risk), ("delta", delta)):
        if value is not None:
            validation.probability(name, value)
    location = own.parse(images)
    if location is None:
        raise InputError(f"{images!r}: labelled images are given as {FORMS}")
    return location


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


def choose(
    labelled: own.LabelledImages, classes: Sequence[str], *, split: str | None, count_unknown: bool
) -> LabelledRows:
    """Returns the images of a split, with the numbers of their classes.

    Args:
        labelled: the images.
        classes: of the model, by number.
        split: see `rows_of`.
        count_unknown: see `label_numbers`.

    Raises:
        InputError: for an unknown class or split.
    """
    rows = rows_of(labelled, split)
    names = [labelled.labels[row] for row in rows]
    labels = label_numbers(names, classes, count_unknown=count_unknown)
    unknown = Counter(name for name, label in zip(names, labels, strict=True) if label == UNKNOWN)
    return LabelledRows(rows, labels, dict(unknown))


def rows_of(labelled: own.LabelledImages, split: str | None) -> np.ndarray:
    """Returns the rows of a split, int [n]; None: all.

    Raises:
        InputError: for a split without images.
    """
    if split is None:
        return np.arange(len(labelled.labels))
    rows = np.flatnonzero(np.array(labelled.splits) == split)
    if not rows.size:
        existing = ", ".join(sorted(set(labelled.splits)))
        raise InputError(f"--split={split}: no images of this split; there are {existing}")
    return rows


def predict(model: Model, images: Records, rows: np.ndarray) -> Prediction:
    """Returns the predictions for some rows of images, decoded batch by batch, without sets.

    Args:
        model: the model.
        images: uint8 [n, h, w, c], of the shape of the model.
        rows: int [r].
    """
    batches = [
        model(np.asarray(images[rows[start : start + model.batch_size]]), with_sets=False)
        for start in range(0, len(rows), model.batch_size)
    ]
    columns = {name: [getattr(part, name) for part in batches] for name in Prediction._fields}
    # A field that the model does not have is None in every batch.
    fields: dict[str, Any] = {
        name: np.concatenate(parts) if isinstance(parts[0], np.ndarray) else None
        for name, parts in columns.items()
    }
    return Prediction(**fields)


def run(
    model: Model,
    labelled: own.LabelledImages,
    *,
    split: str | None = None,
    count_unknown: bool = False,
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
    chosen = choose(labelled, model.card["classes"], split=split, count_unknown=count_unknown)
    prediction = predict(model, labelled.images, chosen.rows)
    return Outcome(chosen.labels, prediction.classes, prediction.accepted, chosen.unknown)


def report(
    outcome: Outcome,
    classes: Sequence[str],
    *,
    risk: float | None,
    delta: float,
    promised: Sequence[bool] | None = None,
) -> dict[str, Any]:
    """Returns what was measured and whether it refutes a promise, as values for JSON.

    Args:
        outcome: of `run`.
        classes: names of the model's classes.
        risk: the promised selective risk; None: there is no promise.
        delta: probability of a false refutation.
        promised: whether the risk is promised within each class; None: for all together.

    Returns:
        The fields of `selective.PromiseCheck`; `promised_risk`, `delta`, `level` of the intervals;
        `refuted`, None without a promise, and `verdict`, a sentence; `classes`, and by `true` and
        by `predicted` class the fields of `selective.GroupRates`; `unknown`, the numbers of images
        of classes that the model does not have; `warnings` about classes, see
        `kdjax.evaluation.per_class.class_warnings`; `by_class`, the tests of a promise for each
        class, see `class_check.check_classes`. None is an undefined value.

    Raises:
        InputError: for a risk or delta outside (0, 1).
    """
    tail = delta if promised is None else delta / 2  # the other half is for the classes
    test = selective.check_promise(
        outcome.accepted, outcome.correct, risk=0.5 if risk is None else risk, delta=tail
    )
    fields = {**test._asdict(), "risk": atomic_io.finite_or_none(test.risk)}
    by_class = {
        "true": _rates(outcome, outcome.labels, len(classes)),
        "predicted": _rates(outcome, outcome.predicted, len(classes)),
    }
    words, tests = verdict(test, risk, tail), None
    if risk is None:
        fields |= dict.fromkeys(("p_value", "refuted", "refuting_errors"))
    elif promised is not None:
        tests = class_check.check_classes(
            outcome.accepted, outcome.correct, outcome.predicted, promised, risk=risk, delta=delta
        )
        of_class = class_check.verdict(tests, by_class["predicted"]._asdict(), classes, risk)
        fields["refuted"] = test.refuted or of_class is not None
        words = of_class or words + ("" if test.refuted else class_check.not_refuted(tests))
    return {
        **fields,
        "promised_risk": risk,
        "delta": delta,
        "level": LEVEL,
        "verdict": words,
        "by_class": tests,
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
    share = words.measured(check.risk)
    measured = f"{check.errors:,} of {check.accepted:,} accepted images are wrong ({share})"
    if check.refuted:
        return f"{verdicts.refuted(measured, risk, check.p_value)} (at most {delta:g} refutes)"
    needed = (
        f"{check.refuting_errors:,} or more errors would refute it"
        if check.refuting_errors
        else "so few accepted images cannot refute it, give more"
    )
    return f"{verdicts.not_refuted(measured, risk)}; {needed}. This does not prove the promise"


def _rates(outcome: Outcome, groups: np.ndarray, classes: int) -> GroupRates:
    """Returns the rates by class; an image of an unknown class is in the group of no class."""
    known = np.where(groups == UNKNOWN, classes, groups)
    rates = selective.group_rates(outcome.accepted, outcome.correct, known, num_groups=classes + 1)
    return GroupRates(**{name: values[:classes] for name, values in rates._asdict().items()})


def _json_values(values: np.ndarray) -> list[Any]:
    """Returns a list with None for NaN, which JSON has not."""
    return [None if value != value else value for value in values.tolist()]
