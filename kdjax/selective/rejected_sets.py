r"""Prediction sets for the images that a threshold rejects, with coverage among these images.

Rejected images are unlike all images, so that a quantile of all calibration examples is too low for
them. A threshold that was fixed without the calibration sample makes them a class of their own
(Mondrian conformal prediction): the quantile of the rejected calibration examples holds for new
rejected images. A threshold that Learn then Test certified on the same sample is not independent of
it, and `certified_rejected_quantile` uses how it was chosen:

Learn then Test looks at examples from the most confident down and stops at the first threshold that
fails. Given all that it has looked at, down to the confidence b of the group that failed, the
examples below b are an i.i.d. sample of what lies below b, whatever the labels above. A new image
below b is exchangeable with them. So they alone, without the group that failed, give a quantile
that holds for rejected images below b. Between b and the threshold, half a gap between neighbours,
nothing is known, and all classes are in the set.

If the first threshold fails, nothing is certified and all images are rejected. A new image then
takes the place of each calibration example in turn (Jin, Ren, arXiv 2403.03868): if the result of
the test does not change, the two are exchangeable given this result. It may change only for errors
among the examples that were tested; the quantile is the largest one that leaving out some of these
gives. This argument needs the predicted class to be in every set, as `prediction_sets(include=...)`
does.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdjax.errors import InputError
from kdjax.selective import validation
from kdjax.selective.certificates import FixedSequence, fixed_sequence
from kdjax.selective.prediction_sets import Floats, set_quantile


class RejectedQuantile(NamedTuple):
    """A quantile for the prediction sets of rejected images.

    Attributes:
        quantile: of the scores, for images with a confidence below `below`.
        below: at most the threshold; from it up to the threshold all classes are in the set.
        examples: number of calibration examples whose scores the quantile is of.
    """

    quantile: float
    below: float
    examples: int

    def at(self, confidence: ArrayLike) -> Floats:
        """Returns the quantile for each rejected image: infinite from `below` on.

        Args:
            confidence: `[n]`.

        Returns:
            `[n, 1]`, for `prediction_sets`.
        """
        values = validation.floats("confidence", confidence)
        return np.where(values < self.below, self.quantile, np.inf)[:, None]


def rejected_quantile(
    scores: ArrayLike, confidence: ArrayLike, *, threshold: float, alpha: float
) -> RejectedQuantile:
    """The quantile for a threshold that was chosen without the calibration sample.

    The sets of new images with a confidence below the threshold contain the true class with
    probability at least 1 - alpha.

    Args:
        scores: of the true classes of a calibration sample, `[n]`.
        confidence: `[n]`.
        threshold: images below it are rejected; infinite: all are.
        alpha: in (0, 1).

    Raises:
        ValueError: for n = 0, unequal lengths, NaN, or an alpha outside (0, 1).

    Source: Mondrian conformal prediction, Vovk, Gammerman, Shafer, "Algorithmic Learning in a
    Random World", 2005.
    """
    values, ranks = _sample(scores, confidence)
    below = validation.floats("threshold", threshold)
    validation.require(~np.isnan(below), below, "threshold must not be NaN")
    if below.ndim:
        raise InputError(f"threshold of shape {below.shape}: need a number")
    return _of_lower(values, ranks, float(below), alpha)


def certified_rejected_quantile(
    scores: ArrayLike,
    confidence: ArrayLike,
    correct: ArrayLike,
    *,
    risk: float,
    delta: float,
    alpha: float,
    also_tested: Sequence[float] = (),
) -> RejectedQuantile:
    """The quantile for the threshold that `learn_then_test` certifies on the same sample.

    The sets of new images that this threshold rejects contain the true class with probability at
    least 1 - alpha, over calibration samples and new images, if they contain the predicted class.

    Args:
        scores: of the true classes of the calibration sample, `[n]`.
        confidence: `[n]`, as for `learn_then_test`.
        correct: `[n]`, whether the predicted class is the true one, boolean or 0 and 1.
        risk: of the certificate.
        delta: of the certificate.
        alpha: in (0, 1).
        also_tested: other levels at which `learn_then_test` looked at the sample, if one of its
            thresholds was chosen by their results.

    Raises:
        ValueError: for n = 0, unequal lengths, NaN, infinite confidence, a `correct` that is not
            boolean, or a risk, delta or alpha outside (0, 1).

    Source: the stopping rule of Learn then Test, arXiv 2110.01052, and the exchangeability of Jin,
    Ren, "Confidence on the Focal: Conformal Prediction with Selection-Conditional Coverage",
    JRSS B 2025, arXiv 2403.03868; the combination is ours.
    """
    values, ranks = _sample(scores, confidence)
    hits = validation.booleans("correct", correct, shape=ranks.shape)
    target, level = validation.probability("risk", risk), validation.probability("delta", delta)
    levels = (level, *(validation.probability("also_tested", each) for each in also_tested))
    sequences = [fixed_sequence(ranks, hits, risk=target, level=each) for each in levels]
    failed = min(map(_first_failure, sequences, levels))
    nothing = sequences[0].certificate(level).threshold == math.inf
    if also_tested or not nothing or math.isinf(failed) or _has_ties(sequences[0]):
        return _of_lower(values, ranks, failed, alpha)
    doubtful = ~hits & (ranks >= failed)
    return RejectedQuantile(_largest_quantile(values, doubtful, alpha), math.inf, values.size)


def _sample(scores: ArrayLike, confidence: ArrayLike) -> tuple[Floats, Floats]:
    ranks = validation.confidences(confidence)
    values = validation.floats("scores", scores)
    if values.shape != ranks.shape:
        raise InputError(f"scores of shape {values.shape}: need {ranks.shape}")
    validation.require(~np.isnan(values), values, "scores must not be NaN")
    return values, ranks


def _first_failure(sequence: FixedSequence, level: float) -> float:
    """Returns the confidence of the first group that failed a test.

    Infinite if there are too few examples to test any; -infinite if none failed.
    """
    groups = sequence.groups
    if sequence.start >= groups.accepted.size:
        return math.inf
    threshold = sequence.certificate(level).threshold
    if threshold == math.inf:
        return float(groups.threshold[sequence.start - 1])
    return float(groups.threshold[groups.threshold < threshold].max(initial=-np.inf))


def _of_lower(values: Floats, ranks: Floats, below: float, alpha: float) -> RejectedQuantile:
    """Returns the quantile of the examples with a confidence below `below`."""
    lower = values[ranks < below]
    return RejectedQuantile(set_quantile(lower, alpha=alpha), below, lower.size)


def _has_ties(sequence: FixedSequence) -> bool:
    """Returns whether the first tested group, or the next one, has several examples.

    The first test then ends with another number of examples if one is exchanged.
    """
    sizes = np.diff(sequence.groups.accepted[sequence.start - 1 : sequence.start + 2])
    return bool(np.any(sizes > 1))


def _largest_quantile(values: Floats, doubtful: NDArray[np.bool_], alpha: float) -> float:
    """Returns the largest quantile that leaving out some of the doubtful examples gives.

    Leaving out the lowest ones raises it most.
    """
    kept, ordered = values[~doubtful], np.sort(values[doubtful])
    return max(
        set_quantile(np.concatenate([kept, ordered[count:]]), alpha=alpha)
        for count in range(ordered.size + 1)
    )
