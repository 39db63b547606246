"""Scores of classes for prediction sets: how unusual each class would be for an image.

float64 numpy. The scores keep their resolution where a probability is close to 1: `lac` is the
logarithm of odds, and `aps` and `raps` are smaller by 1 than in their papers. Neither changes a
set; see `prediction_sets`.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logsumexp, softmax

from kdjax.errors import InputError
from kdjax.selective import validation
from kdjax.selective.columns import has_abstention

# Names of the scores, for a config.
SET_METHODS = ("lac", "aps", "raps")

Floats = NDArray[np.float64]


def lac(logits: ArrayLike, *, abstention: bool | None = None) -> Floats:
    """Scores of the least ambiguous set-valued classifier: log((1 - r_y) / r_y) of each class y.

    = logsumexp_{i != y} z_i - z_y, which orders classes and images as 1 - r_y does; a set holds the
    classes with a probability of at least `least_probability(quantile)`.

    Args:
        logits: z, `[..., m+1]` or `[..., m]`, any float dtype; class logits finite.
        abstention: whether the last column is abstention, which is left out; must be given.

    Returns:
        `[..., m]`.

    Raises:
        ValueError: without `abstention`, for fewer than 2 classes, or class logits that are not
            finite.
        TypeError: for logits that are not floats.

    Source: Sadinle, Lei, Wasserman, "Least Ambiguous Set-Valued Classifiers with Bounded Error
    Levels", JASA 2019, arXiv 1609.00451.
    """
    values = finite_class_logits(logits, abstention)
    values = values - values.max(axis=-1, keepdims=True)
    powers, largest = np.exp(values), _largest(values)
    # Without the largest logit the sum may underflow; without another one it is at least 1.
    without_largest = logsumexp(np.where(largest, -np.inf, values), axis=-1, keepdims=True)
    others = np.log(np.where(largest, 1.0, powers.sum(axis=-1, keepdims=True) - powers))
    scores: Floats = np.where(largest, without_largest, others) - values
    return scores


def least_probability(quantile: float) -> float:
    """Returns the lowest class probability in a set of `lac`: 1 / (1 + exp(quantile))."""
    return float(expit(-quantile))


def aps(
    logits: ArrayLike, *, abstention: bool | None = None, uniform: ArrayLike | None = None
) -> Floats:
    """Scores of adaptive prediction sets, minus 1: - sum_{i after y} r_i - u r_y of each class y.

    The classes are in the order of their probability. With u = 0, the score is the probability of
    all classes up to y, minus 1. With u uniform in (0, 1) the sets have coverage 1 - alpha instead
    of more, but are random.

    Args:
        logits: z, `[..., m+1]` or `[..., m]`, any float dtype; class logits finite.
        abstention: whether the last column is abstention, which is left out; must be given.
        uniform: u, `[...]`, in [0, 1], one for each image, drawn independently for calibration and
            for new images, such as `np.random.default_rng(seed).random(n)`; None: 0.

    Returns:
        `[..., m]`, from -1 to 0.

    Raises:
        ValueError: without `abstention`, for fewer than 2 classes, class logits that are not
            finite, or a `uniform` of another shape or range.
        TypeError: for logits that are not floats.

    Source: Romano, Sesia, Candes, "Classification with Valid and Adaptive Coverage", NeurIPS 2020,
    arXiv 2006.02544.
    """
    return raps(logits, abstention=abstention, uniform=uniform, k_reg=1, penalty=0.0)


def raps(
    logits: ArrayLike,
    *,
    k_reg: int,
    penalty: float,
    abstention: bool | None = None,
    uniform: ArrayLike | None = None,
) -> Floats:
    """Scores of regularized adaptive prediction sets, minus 1: APS + lambda max(0, rank - k_reg).

    The rank of a class is 1 for the most probable one.

    Args:
        logits: as of `aps`.
        k_reg: number of classes that may be in a set without a penalty, >= 0.
        penalty: lambda, of each further class, >= 0.
        abstention: as of `aps`.
        uniform: as of `aps`.

    Returns:
        `[..., m]`.

    Raises:
        ValueError: as `aps`; for a negative `k_reg` or `penalty`.
        TypeError: for logits that are not floats.

    Source: Angelopoulos, Bates, Malik, Jordan, "Uncertainty Sets for Image Classifiers using
    Conformal Prediction", ICLR 2021, arXiv 2009.14193.
    """
    values = finite_class_logits(logits, abstention)
    free = validation.integer("k_reg", k_reg, least=0)
    validation.require(0 <= penalty < np.inf, penalty, "penalty must be at least 0 and finite")
    order = np.argsort(-values, axis=-1, kind="stable")
    sorted_r = np.take_along_axis(softmax(values, axis=-1), order, axis=-1)
    after = _sums_of_later(sorted_r)
    shares = _uniform(uniform, values.shape[:-1])[..., None]
    ranks = np.arange(1, values.shape[-1] + 1)
    sorted_scores = penalty * np.maximum(ranks - free, 0) - after - shares * sorted_r
    scores = np.empty_like(sorted_scores)
    np.put_along_axis(scores, order, sorted_scores, axis=-1)
    return scores


def finite_class_logits(logits: ArrayLike, abstention: bool | None) -> Floats:
    """Returns class logits `[..., m]` as float64.

    Raises:
        ValueError: without `abstention`, for fewer than 2 classes, or class logits that are not
            finite.
        TypeError: for logits that are not floats.
    """
    values = np.asarray(logits)
    columns = values.shape[-1] - has_abstention(abstention) if values.ndim else 0
    if values.dtype.kind != "f" and str(values.dtype) != "bfloat16":
        raise TypeError(f"logits of dtype {values.dtype}: need floats")
    if columns < 2:
        raise InputError(f"logits of shape {values.shape}: need at least 2 classes")
    classes = values[..., :columns].astype(np.float64)
    validation.require(np.isfinite(classes), classes, "class logits must be finite")
    return classes


def _largest(values: Floats) -> NDArray[np.bool_]:
    """Returns where the largest value of each row is, the first of several."""
    return np.arange(values.shape[-1]) == values.argmax(axis=-1)[..., None]


def _sums_of_later(sorted_r: Floats) -> Floats:
    """Returns the sum of what follows each element, from the smallest up, without cancellation."""
    sums = np.cumsum(sorted_r[..., ::-1], axis=-1)[..., ::-1]
    return np.concatenate([sums[..., 1:], np.zeros_like(sums[..., :1])], axis=-1)


def _uniform(uniform: ArrayLike | None, shape: Sequence[int]) -> Floats:
    if uniform is None:
        return np.zeros(tuple(shape))
    values = validation.floats("uniform", uniform)
    if values.shape != tuple(shape):
        raise InputError(f"uniform of shape {values.shape}: need one for each image, {shape}")
    validation.require((values >= 0) & (values <= 1), values, "uniform must lie in [0, 1]")
    return values
