"""A cascade of two exported models: the student answers what it accepts, a fallback the rest."""

import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import PIL.Image

from kdjax.data.fit import fit
from kdjax.errors import InputError
from kdjax.evaluation import cost_table
from kdjax.predict.cascade_rule import Rule, cost_of, rule_of
from kdjax.predict.inputs import Shape, sources_of, to_pixels
from kdjax.predict.model import BATCH_SIZE, Model, Prediction, load_part
from kdjax.predict.sets import Sets, has_sets

STUDENT, FALLBACK = "student", "fallback"
# Fields that the answering model determines.
_COMBINED = ("classes", "confidence", "probabilities", "score")


class CascadePrediction(NamedTuple):
    """Predictions for n images, each by the model that answers it.

    Attributes:
        labels: str [n], names of the most probable classes.
        classes: int32 [n], their numbers in the order of the student's classes.
        confidence: float32 [n], of the model that answers; those of two models are not comparable.
        accepted: bool [n]; all true, unless the fallback may abstain.
        answered_by: str [n], `student` or `fallback`.
        probabilities: float32 [n, m], in the order of the student's classes.
        score: float32 [n], of the model that answers, see `Prediction`.
        outlier: bool [n], whether the gate of the student stops the image; None: it has no gate.
        sets: for each image a tuple of class names: the label alone of an accepted image; of an
            abstained one, the prediction set of the fallback, see `Prediction.sets`. None if the
            fallback has no prediction sets, as a model that an earlier version exported.
    """

    labels: np.ndarray
    classes: np.ndarray
    confidence: np.ndarray
    accepted: np.ndarray
    answered_by: np.ndarray
    probabilities: np.ndarray
    score: np.ndarray
    outlier: np.ndarray | None
    sets: Sets | None = None


class Cascade(NamedTuple):
    """Two exported models; call it on images.

    Attributes:
        student: is asked first.
        fallback: answers the images that the student does not.
        columns: the number of each class of the student in the fallback.
        rule: which images the student answers, and what is known about that.
        fallback_abstains: whether the fallback answers only what it accepts itself.
    """

    student: Model
    fallback: Model
    columns: np.ndarray
    rule: Rule
    fallback_abstains: bool

    def __call__(self, images: Any) -> CascadePrediction:
        """Returns the predictions for images, see `Model.__call__`.

        Image files and Pillow images are resized for each model; an array has the shape of the
        student's images, and is resized for a fallback with another one.

        Raises:
            InputError: for an array of another dtype or shape, or a file that cannot be read.
        """
        if isinstance(images, Iterator):  # it is read twice
            images = list(images)
        pixels = to_pixels(images, self.student.image_shape, self.student.resize)
        return self.predict(pixels, sources_of(images, pixels))

    def predict(self, pixels: np.ndarray, sources: Sequence[Any]) -> CascadePrediction:
        """Returns the predictions for images that were read for the student.

        Args:
            pixels: uint8 [n, h, w, c], of the shape of the student.
            sources: n paths of files, Pillow images or arrays, from which the images that are
                passed on are read for the fallback.
        """
        asked = self.student(pixels, with_sets=False)
        passed_on = np.flatnonzero(~self.rule.answers(asked))
        answered_by = np.full(len(pixels), STUDENT, dtype=object)
        answered_by[passed_on] = FALLBACK
        accepted = np.ones(len(pixels), bool)
        answers = {name: np.array(getattr(asked, name)) for name in _COMBINED}
        sets: Sets = ()
        if passed_on.size:
            given = self._fallback_pixels(
                pixels[passed_on], [sources[row] for row in passed_on.tolist()]
            )
            others = self.in_order(self.fallback(given, with_sets=self.fallback_abstains))
            for name, values in answers.items():
                values[passed_on] = getattr(others, name)
            if self.fallback_abstains:
                accepted[passed_on] = others.accepted
                sets = others.sets or ()
        labels = np.asarray(self.student.card["classes"])[answers["classes"]]
        all_sets: list[tuple[str, ...]] = [(label,) for label in labels.tolist()]
        for row, names in zip(passed_on.tolist(), sets, strict=False):
            all_sets[row] = names
        return CascadePrediction(
            labels=labels,
            accepted=accepted,
            answered_by=answered_by.astype(str),
            outlier=asked.outlier,
            sets=tuple(all_sets) if has_sets(self.fallback.card) else None,
            **answers,
        )

    def in_order(self, answers: Prediction) -> Prediction:
        """Returns predictions of the fallback with classes in the order of the student's."""
        number = np.argsort(self.columns)
        return answers._replace(
            classes=number[answers.classes].astype(np.int32),
            probabilities=answers.probabilities[:, self.columns],
        )

    def cost(self, passed_on: float) -> dict[str, float] | None:
        """Returns what an image costs, in multiply-adds; None if a card does not say.

        Args:
            passed_on: share of the images that the fallback gets.

        Returns:
            `multiply_adds`, student + passed_on * fallback, and `speed_up` against the fallback
            alone.
        """
        student, fallback = cost_of(self.student.card), cost_of(self.fallback.card)
        if student is None or fallback is None:
            return None
        cost = student + passed_on * fallback
        return {"multiply_adds": cost, "speed_up": fallback / cost}

    def _fallback_pixels(self, pixels: np.ndarray, sources: Sequence[Any]) -> np.ndarray:
        shape, resize = self.fallback.image_shape, self.fallback.resize
        if (shape, resize) == (self.student.image_shape, self.student.resize):
            return pixels
        return np.concatenate([_read(source, shape, resize) for source in sources])


def load_cascade(
    student: str | os.PathLike[str],
    fallback: str | os.PathLike[str],
    *,
    threshold: str | float | None = None,
    fallback_abstains: bool = False,
    batch_size: int = BATCH_SIZE,
    fallback_batch_size: int | None = None,
) -> Cascade:
    """Loads two models that `kdjax.export` wrote.

    Args:
        student: folder of the model that is asked first.
        fallback: folder of the model that answers the rest, such as the exported teacher.
        threshold: the student answers from this confidence on, as its card's `threshold` and
            `Prediction.score` are; `all`, it answers everything, or `none`. None: the certified
            threshold of the student's card if the fallback is the certified one, otherwise what the
            student accepts.
        fallback_abstains: whether the fallback abstains from what it does not accept.
        batch_size: largest number of images in a batch of the student, >= 1.
        fallback_batch_size: the same of the fallback; None: that of the student.

    Raises:
        InputError: see `kdjax.predict.load`; if the classes of the two differ; for an invalid
            threshold.
    """
    asked = load_part(student, batch_size=batch_size)
    size = batch_size if fallback_batch_size is None else fallback_batch_size
    other = load_part(fallback, batch_size=size)
    columns = match_classes(asked.card["classes"], other.card["classes"])
    rule = rule_of(asked.card, other.card, threshold, fallback_abstains=fallback_abstains)
    return Cascade(asked, other, columns, rule, fallback_abstains)


def match_classes(student: Sequence[str], fallback: Sequence[str]) -> np.ndarray:
    """Returns the number of each class of the student in the fallback, int [m].

    Raises:
        InputError: if they do not have the same classes, in any order.
    """
    sides = (
        ("the student has", [name for name in student if name not in fallback]),
        ("the fallback has", [name for name in fallback if name not in student]),
    )
    lacking = [
        f"only {side} {', '.join(map(repr, names[:3]))}"
        + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
        for side, names in sides
        if names
    ]
    if lacking:
        raise InputError(
            f"student and fallback have different classes: {', '.join(lacking)}; they must agree "
            "by name, in any order"
        )
    return np.array([list(fallback).index(name) for name in student])


def _read(source: Any, shape: Shape, resize: str) -> np.ndarray:
    """Returns an image as input of the fallback, uint8 [1, h, w, c]."""
    if not isinstance(source, np.ndarray):
        return to_pixels(source, shape, resize)
    if source.shape == shape:
        return source[None]
    channels = source.shape[-1]
    if channels not in (1, 3):
        raise InputError(
            f"an array with {channels} channels cannot be resized for the fallback, which needs "
            f"{shape}: give image files"
        )
    image = PIL.Image.fromarray(source[..., 0] if channels == 1 else source)
    return fit(image, shape, resize)[0][None]


def summary(cascade: Cascade, passed_on: int, images: int) -> str:
    """Returns a line with who answered, and what an image cost.

    Args:
        cascade: the models.
        passed_on: number of images that the fallback got.
        images: of all.
    """
    share = passed_on / images if images else 0.0
    line = (
        f"{images - passed_on:,} answered by the student, {passed_on:,} passed on to the fallback "
        f"({100 * share:.1f} %)"
    )
    cost = cascade.cost(share) if images else None
    if cost is None:
        return line
    return (
        f"{line}; {cost_table.with_unit(round(cost['multiply_adds']))} multiply-adds per image, "
        f"{100 / cost['speed_up']:.0f} % of those of the fallback alone"
    )
