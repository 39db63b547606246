"""A gate that stops images unlike those of training, with a bound on the share that it passes.

An image passes if its gate score is at least a threshold. The gate is fixed before the calibration
split is seen: the score is fitted on train, the threshold is an order statistic of dev. Given the
gate, the calibration images are therefore independent draws, those that pass are independent draws
of images that pass, and everything that is certified on them holds for images that pass.

Scores with ties. With F the distribution function of the score and U uniform, F^-1(U) is
distributed as the score, and `score >= S_(k)` holds wherever U >= U_(k). The k-th smallest U of n
is Beta(k, n - k + 1), so that a threshold at the k-th smallest of n scores passes at least as large
a share of new images as without ties. A lower threshold passes more.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, gammaln

from kdjax.errors import InputError
from kdjax.selective import binomial, metrics, ranking, validation

NONE, ENERGY, MAHALANOBIS = "none", "energy", "mahalanobis"
GATES = (NONE, ENERGY, MAHALANOBIS)  # gate scores by name
# Probability with which the threshold of `threshold_to_certify` is certified afterwards.
POWER = 0.9


class AcceptanceBound(NamedTuple):
    """How many images of a sample a gate passes, and a bound on the share of new ones.

    Attributes:
        examples: number of images, n.
        passed: how many of them pass.
        bound: lower bound on the share of new images that pass.
    """

    examples: int
    passed: int
    bound: float


class Separation(NamedTuple):
    """How well a score separates images like those of training from others.

    Attributes:
        auroc: probability that an image from inside has the higher score; ties count one half.
        fpr: share of the images from outside that pass where 95 % of those from inside do.
    """

    auroc: float
    fpr: float


def acceptance_threshold(
    scores: ArrayLike, *, acceptance: float, delta: float = 0.05
) -> float | None:
    """Highest threshold that passes at least a share A of new images, by an order statistic.

    The threshold passes the k-th smallest of n scores and all larger ones, for the largest k with
    P(Bin(n, 1 - A) <= k - 1) <= delta: a one-sided tolerance limit without assumptions on the
    distribution. It lies half-way to the next smaller score.

    Args:
        scores: `[n]`, finite, of images that were used for nothing else; higher = more alike.
        acceptance: A in (0, 1).
        delta: in (0, 1), the probability that a smaller share passes.

    Returns:
        The threshold; None if n is too small for any, A^n > delta.

    Raises:
        ValueError: for n = 0, scores that are not finite, or a number out of range.
        TypeError: for a dtype that is not real.

    Example:
        >>> acceptance_threshold(range(100), acceptance=0.95, delta=0.05)
        0.5
        >>> acceptance_threshold(range(58), acceptance=0.95, delta=0.05) is None
        True

    Source: Wilks, "Determination of sample sizes for setting tolerance limits", Annals of
    Mathematical Statistics 1941.
    """
    values = _finite_scores(scores)
    stopped = _tolerated(len(values), acceptance, delta)
    return None if stopped is None else _threshold_at(values, stopped + 1)


def threshold_to_certify(
    scores: ArrayLike,
    *,
    acceptance: float,
    examples: int,
    delta: float = 0.05,
    power: float = POWER,
) -> float | None:
    """Highest threshold whose acceptance another sample will certify with a given probability.

    The other sample, of N images, certifies a share A if it stops at most f images, for the largest
    f with P(Bin(N, 1 - A) <= f) <= delta; see `acceptance_bound`. Of N new scores, the number J
    below the k-th smallest of n has the negative hypergeometric distribution
    P(J = j) = C(k - 1 + j, j) C(n - k + N - j, N - j) / C(n + N, N). The threshold passes the k-th
    smallest score and all larger ones, for the largest k with P(J <= f) >= power.

    Args:
        scores: `[n]`, finite, such as those of dev; higher = more alike.
        acceptance: A in (0, 1).
        examples: N >= 1, of the other sample.
        delta: in (0, 1), at which it will be certified.
        power: in (0, 1), the probability that it will be.

    Returns:
        The threshold; None if there is none, because one of the samples is too small.

    Raises:
        ValueError: for n = 0, scores that are not finite, or a number out of range.
        TypeError: for a dtype that is not real.
    """
    values = _finite_scores(scores)
    other = validation.integer("examples", examples, least=1)
    wanted, stopped = validation.probability("power", power), _tolerated(other, acceptance, delta)
    rank = 0 if stopped is None else _likely_rank(stopped, len(values), other, wanted)
    return _threshold_at(values, rank) if rank else None


def least_examples(acceptance: float, delta: float) -> int:
    """Returns how many images certify a share A if all of them pass: A^n <= delta."""
    share, level = _rates(acceptance, delta)
    return int(np.ceil(np.log(level) / np.log(share)))


def acceptance_bound(passed: ArrayLike, *, delta: float = 0.05) -> AcceptanceBound:
    """Exact lower bound on the share of new images that a fixed gate passes (Clopper, Pearson).

    p with P(Bin(n, p) >= passed) = delta.

    Args:
        passed: `[n]`, boolean or 0 and 1; whether each image passes, of images by which the gate
            was not chosen.
        delta: in (0, 1), the probability that a smaller share passes.

    Raises:
        ValueError: for n = 0, values that are not boolean, or a delta out of range.
        TypeError: for a dtype that is not real.
    """
    flags, level = validation.booleans("passed", passed), validation.probability("delta", delta)
    count = int(flags.sum())
    return AcceptanceBound(len(flags), count, binomial.lower_bound(count, len(flags), level))


def separation(inside: ArrayLike, outside: ArrayLike) -> Separation:
    """AUROC of a score, and its false positive rate at a true positive rate of 95 %.

    Args:
        inside: scores `[n]` of images like those of training; higher = more alike.
        outside: scores `[k]` of other images.

    Raises:
        ValueError: for n = 0, k = 0 or NaN.
        TypeError: for a dtype that is not real.
    """
    both = [validation.nonempty("scores", values, ndim=1) for values in (inside, outside)]
    is_inside = np.repeat([True, False], [len(values) for values in both])
    sample = np.concatenate(both), is_inside
    return Separation(metrics.auroc(*sample), metrics.fpr_at_tpr(*sample, tpr=0.95))


class Moments(NamedTuple):
    """Sums over features of d dimensions, by class, that determine `ClassGaussian`; float64.

    Attributes:
        origin: that was subtracted from the features, `[d]`.
        counts: number of examples, `[m]`.
        sums: of their features, `[m, d]`.
        products: sum of f f^T over all examples, `[d, d]`.
    """

    origin: NDArray[np.float64]
    counts: NDArray[np.int64]
    sums: NDArray[np.float64]
    products: NDArray[np.float64]


class ClassGaussian(NamedTuple):
    """Gaussian distributions of the classes with a common covariance matrix, in whitened form.

    Attributes:
        center: mean of the features over all examples, `[d]`.
        whitening: W `[d, d]` with W W^T = the inverse of the covariance matrix.
        means: (mean of the class - center) W, `[c, d]`, of the classes that have examples.
        shrinkage: weight of the multiple of the identity in the covariance matrix, in (0, 1].
    """

    center: NDArray[np.float64]
    whitening: NDArray[np.float64]
    means: NDArray[np.float64]
    shrinkage: float

    def as_float32(self) -> "ClassGaussian":
        """Returns the arrays in float32, for a program of JAX."""
        center, whitening, means = self[:3]
        narrow: Any = [np.asarray(array, np.float32) for array in (center, whitening, means)]
        return self._replace(center=narrow[0], whitening=narrow[1], means=narrow[2])


def moments(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    num_classes: int,
    earlier: Moments | None = None,
) -> Moments:
    """Adds a batch to the sums from which `gaussian` is computed.

    Args:
        features: `[b, d]`, finite.
        labels: `[b]`, integers in [0, m).
        num_classes: m.
        earlier: sums of the batches before; None for the first, whose mean becomes the origin, so
            that large means lose no digits.

    Raises:
        InputError: for another shape, features that are not finite, or labels out of range.
        TypeError: for features that are not real, or labels that are not integers.
    """
    values = validation.nonempty("features", features, ndim=2)
    validation.require(np.isfinite(values), values, "features must be finite")
    classes = validation.codes("labels", labels, shape=values.shape[:1], number=num_classes)
    size = values.shape[1]
    if earlier is None:
        zeros = np.zeros((num_classes, size)), np.zeros((size, size))
        earlier = Moments(values.mean(axis=0), np.zeros(num_classes, np.int64), *zeros)
    centred, sums = values - earlier.origin, earlier.sums.copy()
    np.add.at(sums, classes, centred)
    return Moments(
        earlier.origin,
        earlier.counts + np.bincount(classes, minlength=num_classes),
        sums,
        earlier.products + centred.T @ centred,
    )


def gaussian(sums: Moments) -> ClassGaussian:
    """Fits Gaussian distributions of the classes with a common, shrunken covariance matrix.

    S = (1/n) sum_i (f_i - mean of its class) (f_i - mean of its class)^T,
    covariance = (1 - s) S + s (tr S / d) I, with the weight s of the oracle approximating
    shrinkage (OAS), s = min(1, ((1 - 2/d) tr S^2 + (tr S)^2) / ((n + 1 - 2/d) (tr S^2 -
    (tr S)^2 / d))). s is at least about 1 / n, so that the matrix is regular also with collinear or
    constant features and with n < d.

    Args:
        sums: of `moments`, over all batches.

    Raises:
        InputError: if no feature varies within a class.

    Sources: Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples",
    NeurIPS 2018, arXiv 1807.03888; Chen et al., "Shrinkage Algorithms for MMSE Covariance
    Estimation", IEEE Transactions on Signal Processing 2010, arXiv 0907.4698.
    """
    present = sums.counts > 0
    counts, totals = sums.counts[present], sums.sums[present]
    count, size = int(counts.sum()), totals.shape[1]
    means = totals / counts[:, None]
    within = (sums.products - (totals.T * counts**-1.0) @ totals) / count
    trace = float(np.trace(within))
    # Rounding of the difference alone leaves this much.
    if not trace > 1e-12 * float(np.trace(sums.products)) / count:
        raise InputError("the features do not vary within the classes: no Gaussian fits them")
    shrinkage = _oracle_shrinkage(within, trace, count)
    covariance = (1 - shrinkage) * within + shrinkage * trace / size * np.eye(size)
    variances, directions = np.linalg.eigh(covariance)
    whitening = directions / np.sqrt(np.maximum(variances, shrinkage * trace / size))
    middle = totals.sum(axis=0) / count
    return ClassGaussian(sums.origin + middle, whitening, (means - middle) @ whitening, shrinkage)


def fit_gaussian(features: ArrayLike, labels: ArrayLike, *, num_classes: int) -> ClassGaussian:
    """Class means and common covariance of features: `gaussian` of their `moments`.

    Args:
        features: `[n, d]`.
        labels: `[n]`, integers in [0, m).
        num_classes: m.

    Raises:
        ValueError: for n = 0, a wrong shape, values that are not finite, a label out of range,
            or features that do not vary within the classes.
        TypeError: for a dtype that is not real, or labels that are not integers.
    """
    return gaussian(moments(features, labels, num_classes=num_classes))


def mahalanobis(features: Any, fitted: ClassGaussian) -> Any:
    """Negative squared Mahalanobis distance to the nearest class mean; higher = more alike.

    -min_c (f - mean_c)^T covariance^-1 (f - mean_c) = -min_c |(f - center) W - means_c|^2.

    Args:
        features: `[n, d]`, a numpy array or one of JAX, also traced.
        fitted: of `gaussian`; its arrays have the dtype of the computation.

    Returns:
        `[n]`, at most 0 up to rounding.

    Raises:
        ValueError: for features of another shape.

    Source: Lee et al., NeurIPS 2018, arXiv 1807.03888, without input perturbation.
    """
    if np.shape(features)[1:] != fitted.center.shape or np.ndim(features) != 2:
        raise InputError(f"features of shape {np.shape(features)}: need [n, {len(fitted.center)}]")
    white = (features - fitted.center[None, :]) @ fitted.whitening
    # |w|^2 - 2 w . m + |m|^2, as an array [n, c, d] of the differences may be large.
    squares = (white**2).sum(axis=-1)[:, None] + (fitted.means**2).sum(axis=-1)[None, :]
    return -(squares - 2 * (white @ fitted.means.T)).min(axis=-1)


def _oracle_shrinkage(within: NDArray[np.float64], trace: float, count: int) -> float:
    size = len(within)
    squares = float(np.sum(within**2))
    rest = squares - trace**2 / size
    if rest <= 0:
        return 1.0
    weight = ((1 - 2 / size) * squares + trace**2) / ((count + 1 - 2 / size) * rest)
    return min(1.0, weight)


def _finite_scores(scores: ArrayLike) -> NDArray[np.float64]:
    values = validation.nonempty("scores", scores, ndim=1)
    validation.require(np.isfinite(values), values, "scores must be finite")
    return values


def _rates(acceptance: float, delta: float) -> tuple[float, float]:
    return (
        validation.probability("acceptance", acceptance),
        validation.probability("delta", delta),
    )


def _tolerated(examples: int, acceptance: float, delta: float) -> int | None:
    """Returns the largest f with P(Bin(n, 1 - A) <= f) <= delta; None if there is none."""
    certified = _certified_counts(examples, *_rates(acceptance, delta))
    return certified - 1 if certified else None


@functools.lru_cache(maxsize=256)
def _certified_counts(examples: int, share: float, level: float) -> int:
    return int(np.sum(bdtr(np.arange(examples), examples, 1 - share) <= level))


@functools.lru_cache(maxsize=256)
def _likely_rank(stopped: int, examples: int, other: int, wanted: float) -> int:
    """Returns the largest k with P(J <= f) >= power; 0 if there is none."""
    low, high = 0, examples
    while low < high:
        middle = (low + high + 1) // 2
        is_likely = _at_most(stopped, middle, examples, other) >= wanted
        low, high = (middle, high) if is_likely else (low, middle - 1)
    return low


def _at_most(stopped: int, rank: int, examples: int, other: int) -> float:
    """Returns P(J <= f): at most f of N new scores lie below the k-th smallest of n."""
    j = np.arange(min(stopped, other) + 1)
    log_ways = _log_binomial(rank - 1 + j, j) + _log_binomial(
        examples - rank + other - j, other - j
    )
    return float(np.exp(log_ways - _log_binomial(examples + other, other)).sum())


def _log_binomial(n: Any, k: Any) -> Any:
    return gammaln(n + 1.0) - gammaln(k + 1.0) - gammaln(n - k + 1.0)


def _threshold_at(values: NDArray[np.float64], rank: int) -> float:
    """Returns a threshold that passes the `rank`-th smallest value, its ties and all larger."""
    levels = np.unique(values)[::-1]
    kept = int(np.sum(levels >= np.sort(values)[rank - 1]))
    return ranking.threshold_after(levels, kept)
