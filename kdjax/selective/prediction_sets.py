"""Prediction sets: small sets of classes that contain the true one with a given probability.

Split conformal prediction. A score says how unusual a class would be for an image; the quantile of
the scores of the true classes of a calibration sample separates the classes that are in the set of
a new image from the others. If the new image and the calibration sample are exchangeable, the true
class is in its set with probability at least 1 - alpha, over samples and new images. The score may
be anything that was not chosen on the calibration sample.

float64 numpy. The scores are those of `set_scores`, or any others.
"""

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdjax.errors import InputError
from kdjax.selective import validation
from kdjax.selective.set_scores import Floats, finite_class_logits, raps

# Candidates for lambda of RAPS, of section 2.2 and appendix E of arXiv 2009.14193.
PENALTIES = (0.001, 0.01, 0.1, 0.2, 0.5)


class SetMetrics(NamedTuple):
    """Prediction sets of n labelled examples of m classes.

    Attributes:
        examples: n.
        coverage: fraction of examples whose set contains the label; nan without examples.
        mean_size: mean number of classes in a set; nan without examples.
        sizes: number of examples with a set of 0, 1, ..., m classes, `[m + 1]`.
        class_examples: number of examples with each label, `[m]`.
        class_coverage: coverage of the examples with each label, `[m]`; nan without examples.
    """

    examples: int
    coverage: float
    mean_size: float
    sizes: NDArray[np.int64]
    class_examples: NDArray[np.int64]
    class_coverage: Floats


def fit_raps(
    logits: ArrayLike, labels: ArrayLike, *, alpha: float, abstention: bool | None = None
) -> tuple[int, float]:
    """Returns k_reg and lambda of `raps` from a development split.

    k_reg is the 1 - alpha quantile of the ranks of the true classes; lambda is the one of
    `PENALTIES` with the smallest mean size of the sets on the same split, the first among equals.

    Args:
        logits: z, `[n, m+1]` or `[n, m]`, n >= 1, of examples that are not used for calibration.
        labels: `[n]`, integers in [0, m).
        alpha: in (0, 1).
        abstention: whether the last column is abstention; must be given.

    Raises:
        ValueError: for invalid logits or labels, or an alpha outside (0, 1).
        TypeError: for logits that are not floats or labels that are not integers.

    Source: appendix E of arXiv 2009.14193.
    """
    values = validation.nonempty("logits", finite_class_logits(logits, abstention), ndim=2)
    codes = _labels(labels, values)
    ranks = 1 + np.argsort(np.argsort(-values, axis=-1, kind="stable"), axis=-1)
    k_reg = int(min(set_quantile(true_scores(ranks, codes), alpha=alpha), values.shape[-1]))

    def mean_size(penalty: float) -> float:
        scores = raps(values, abstention=False, k_reg=k_reg, penalty=penalty)
        quantile = set_quantile(true_scores(scores, codes), alpha=alpha)
        return float(prediction_sets(scores, quantile).sum(axis=-1).mean())

    return k_reg, min(PENALTIES, key=mean_size)


def true_scores(scores: ArrayLike, labels: ArrayLike) -> Floats:
    """Returns the scores of the true classes, `[n]`.

    Args:
        scores: `[n, m]`, of `lac`, `aps` or `raps`.
        labels: `[n]`, integers in [0, m).

    Raises:
        ValueError: for labels of another shape or range.
        TypeError: for labels that are not integers.
    """
    values = _scores(scores)
    codes = _labels(labels, values)
    return np.take_along_axis(values, codes[:, None], axis=1)[:, 0]


def set_quantile(scores: ArrayLike, *, alpha: float) -> float:
    """The finite-sample quantile: the ceil((n + 1)(1 - alpha))-th smallest of n scores.

    A new score, exchangeable with these, is at most the quantile with probability at least
    1 - alpha, and with probability at most 1 - alpha + 1 / (n + 1) if there are no ties.

    Args:
        scores: `[n]`, of the true classes of a calibration sample; n may be 0.
        alpha: in (0, 1), read as a decimal: 0.1 is 1/10.

    Returns:
        The quantile; infinite if n < 1/alpha - 1: then all classes are in a set.

    Raises:
        ValueError: for NaN, another shape, or an alpha outside (0, 1).

    Example:
        >>> set_quantile([0.3, 0.1, 0.2, 0.4], alpha=0.25), set_quantile([0.3, 0.1], alpha=0.25)
        (0.4, inf)
    """
    level = Fraction(repr(validation.probability("alpha", alpha)))
    values = validation.floats("scores", scores)
    if values.ndim != 1:
        raise InputError(f"scores of shape {values.shape}: need 1 dimension")
    validation.require(~np.isnan(values), values, "scores must not be NaN")
    rank = math.ceil((values.size + 1) * (1 - level))
    return math.inf if rank > values.size else float(np.partition(values, rank - 1)[rank - 1])


def class_quantiles(scores: ArrayLike, labels: ArrayLike, *, alpha: float) -> Floats:
    """One quantile for each class: that of the scores of the examples with this label.

    With these, sets contain the label with probability at least 1 - alpha within each true class.

    Args:
        scores: `[n, m]`, of a calibration sample.
        labels: `[n]`, integers in [0, m).
        alpha: in (0, 1).

    Returns:
        `[m]`; infinite for a class with fewer than 1/alpha - 1 examples.

    Raises:
        ValueError: for labels of another shape or range, or an alpha outside (0, 1).
        TypeError: for labels that are not integers.

    Source: Vovk, "Conditional Validity of Inductive Conformal Predictors", ACML 2012,
    arXiv 1209.2673 (label-conditional).
    """
    values = _scores(scores)
    codes, true = _labels(labels, values), true_scores(values, labels)
    classes = range(values.shape[1])
    return np.array([set_quantile(true[codes == label], alpha=alpha) for label in classes])


def prediction_sets(
    scores: ArrayLike, quantile: ArrayLike, *, include: ArrayLike | None = None
) -> NDArray[np.bool_]:
    """The sets: the classes with a score of at most the quantile.

    Args:
        scores: `[n, m]`, of new images.
        quantile: of `set_quantile`; or `[m]`, of `class_quantiles`; or `[n, 1]`, of each image;
            may be infinite.
        include: `[n]`, a class that is in the set of each image in any case, such as the predicted
            one, so that no set is empty; None: sets may be empty.

    Returns:
        bool `[n, m]`.

    Raises:
        ValueError: for scores, a quantile or classes of another shape, NaN, or classes out of
            range.
        TypeError: for a dtype that is not real, or classes that are not integers.
    """
    values = _scores(scores)
    sets: NDArray[np.bool_] = values <= _quantile(quantile, *values.shape)
    if include is not None:
        sets[np.arange(len(sets)), _labels(include, values)] = True
    return sets


def set_metrics(sets: ArrayLike, labels: ArrayLike) -> SetMetrics:
    """Coverage and sizes of prediction sets.

    Args:
        sets: bool `[n, m]`; n may be 0.
        labels: `[n]`, integers in [0, m).

    Raises:
        ValueError: for sets that are not boolean `[n, m]`, or labels of another shape or range.
        TypeError: for labels that are not integers.

    Example:
        >>> metrics = set_metrics([[True, False], [True, True]], [1, 1])
        >>> metrics.coverage, metrics.mean_size, metrics.sizes.tolist()
        (0.5, 1.5, [0, 1, 1])
    """
    members = np.asarray(sets)
    if members.ndim != 2 or members.dtype != np.bool_:
        raise InputError(f"sets {members.dtype} {members.shape}: need bool [n, m]")
    n, m = members.shape
    codes = _labels(labels, members)
    covered, sizes = members[np.arange(n), codes], members.sum(axis=1)
    totals = np.bincount(codes, minlength=m)
    by_class = np.full(m, np.nan)
    np.divide(np.bincount(codes, covered, minlength=m), totals, out=by_class, where=totals > 0)
    means = (float(covered.mean()), float(sizes.mean())) if n else (math.nan, math.nan)
    return SetMetrics(n, *means, np.bincount(sizes, minlength=m + 1), totals, by_class)


def _scores(scores: ArrayLike) -> Floats:
    values = validation.floats("scores", scores)
    if values.ndim != 2 or values.shape[1] < 2:
        raise InputError(f"scores of shape {values.shape}: need [n, m] with at least 2 classes")
    validation.require(~np.isnan(values), values, "scores must not be NaN")
    return values


def _quantile(quantile: ArrayLike, n: int, m: int) -> Floats:
    values = validation.floats("quantile", quantile)
    if values.shape not in ((), (m,), (n, 1)):
        raise InputError(f"quantile of shape {values.shape}: need (), {(m,)} or {(n, 1)}")
    validation.require(~np.isnan(values), values, "quantile must not be NaN")
    return values


def _labels(labels: ArrayLike, scores: Floats | NDArray[np.bool_]) -> NDArray[np.int64]:
    """Returns labels [n] of scores or sets [n, m] as int64."""
    examples, classes = scores.shape
    return validation.codes("labels", labels, shape=(examples,), number=classes)
