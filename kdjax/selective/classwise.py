"""A threshold for each class, or each group of any kind, with bounds that hold for all together.

Why they hold. Call a group bad if its risk exceeds r when all of its predictions are accepted; by
the assumption that the risk does not fall as the threshold is lowered, every threshold of another
group keeps the bound. Let P_g be the p-value of the first tested threshold of a bad group g below
the point where its risk exceeds r. It is a valid p-value: P(P_g <= a) <= a for every a. If a
threshold that breaks the bound is certified at level a, or all thresholds of g are, then P_g <= a,
because the sequence passes that point.

With b bad groups, all P_g exceed delta / b with probability at least 1 - delta (union bound). Then
no bad group is ever completed or broken: as long as none is completed, at least b groups share
delta, so that the level is at most delta / b < P_g. The step of Holm, which divides delta among the
groups that are not completed only, is therefore valid; it is that of the graphical procedures of
Bretz et al., Statistics in Medicine 2009, with one chain for each group whose end passes its level
on to the other groups. No independence of the groups is needed.

Which groups are tested, and where their sequences start, depends on their numbers of examples only.
Given these numbers, the examples of a group are independent draws, so the argument holds given the
numbers and hence also on average over them.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr

from kdjax.errors import InputError
from kdjax.selective import certificates, validation
from kdjax.selective.certificates import LEAST_ACCEPTED


class Classwise(NamedTuple):
    """A threshold for each of g groups of predictions, with a bound on the risk in each.

    Attributes:
        groups: the groups of the sample, sorted, `[g]`.
        threshold: accept `confidence >= threshold` in this group, `[g]`; infinite where none is
            certified.
        examples: of the sample, `[g]`.
        accepted: how many of them the threshold accepts, `[g]`.
        errors: how many of the accepted ones are wrong, `[g]`.
        tested: whether the group has enough examples to be tested, bool `[g]`.
        level: at which every threshold of the tested groups is certified.
        risk: r, the bound in each group.
        delta: probability that the bound fails in any group.
    """

    groups: NDArray[Any]
    threshold: NDArray[np.float64]
    examples: NDArray[np.int64]
    accepted: NDArray[np.int64]
    errors: NDArray[np.int64]
    tested: NDArray[np.bool_]
    level: float
    risk: float
    delta: float

    @property
    def certified(self) -> NDArray[np.bool_]:
        """Whether a threshold is certified for a group, bool `[g]`."""
        return self.threshold < np.inf

    def threshold_of(self, groups: ArrayLike) -> NDArray[np.float64]:
        """Returns the threshold of each of some groups, `[n]`; infinite for unknown ones.

        Raises:
            ValueError: unless the groups are `[n]`.
            TypeError: for groups that are not of the kind of those of the sample, integers or
                strings.
        """
        wanted = _names(groups, (np.size(groups),))
        if (wanted.dtype.kind == "U") != (self.groups.dtype.kind == "U"):
            raise TypeError(
                f"groups of dtype {wanted.dtype}: those of the sample have {self.groups.dtype}"
            )
        place = np.minimum(np.searchsorted(self.groups, wanted), len(self.groups) - 1)
        return np.where(self.groups[place] == wanted, self.threshold[place], np.inf)

    def accepts(self, confidence: ArrayLike, groups: ArrayLike) -> NDArray[np.bool_]:
        """Returns which predictions are accepted, bool `[n]`.

        Args:
            confidence: `[n]`; may be infinite.
            groups: of the predictions, `[n]`; those of unknown groups, and of groups without a
                certified threshold, are not accepted.

        Raises:
            ValueError: for n = 0, unequal lengths, or NaN.
            TypeError: for a dtype that is not real, or groups of another kind than the sample's.
        """
        ranks = validation.confidences(confidence)
        thresholds = self.threshold_of(_names(groups, ranks.shape))
        accepted: NDArray[np.bool_] = (ranks >= thresholds) & (thresholds < np.inf)
        return accepted


def classwise(
    confidence: ArrayLike,
    correct: ArrayLike,
    groups: ArrayLike,
    *,
    risk: float,
    delta: float = 0.05,
) -> Classwise:
    """Learn then Test within each group, with delta divided among the groups by Holm's method.

    p_g(k) = P(Bin(k, r) <= errors of the k most confident of group g), M_g = max_k p_g(k) over the
    sequence of `learn_then_test` at delta / j, for the j groups that are tested. A group with
    M_g <= delta / j is completed, as all its predictions are accepted; the others share delta, so
    that the next one is completed if M_g <= delta / (j - 1), and so on. With e completed groups in
    the end, the thresholds of all groups are those certified at the level delta / (j - e).

    With probability at least 1 - delta over samples, the selective risk is at most r in every group
    with a threshold, and hence also among all accepted predictions together. The groups may be the
    predicted classes (then it bounds the risk of what is accepted as that class) or anything that
    is known when a prediction is accepted, such as the device; not the true class.

    The j groups are the largest ones, as many as can all pass without an error at delta / j: the
    smallest groups do not take part, since they could not be certified in any case.

    Args:
        confidence: `[n]`, finite or -inf, higher = more confident.
        correct: `[n]`, boolean or 0 and 1.
        groups: `[n]`, integers or strings.
        risk: r in (0, 1).
        delta: in (0, 1), the probability that the bound fails in any group.

    Returns:
        The thresholds. That of one group alone is that of `learn_then_test`.

    Raises:
        ValueError: for n = 0, unequal lengths, NaN, infinite confidence, a `correct` that is not
            boolean, or a risk or delta outside (0, 1).
        TypeError: for a dtype that is not real, or groups that are neither integers nor strings.

    Example:
        >>> correct = [1] * 400 + [1, 0] * 50
        >>> rule = classwise(range(500), correct, ["a"] * 400 + ["b"] * 100, risk=0.02)
        >>> rule.groups[rule.certified].tolist(), rule.accepted.tolist(), rule.level
        (['a'], [400, 0], 0.05)

    Sources: Angelopoulos et al., "Learn then Test", arXiv 2110.01052; Holm, "A simple sequentially
    rejective multiple test procedure", Scandinavian Journal of Statistics 1979.
    """
    target, total = validation.probability("risk", risk), validation.probability("delta", delta)
    ranks, is_correct = validation.sample(confidence, correct)
    names, codes, examples = np.unique(
        _names(groups, ranks.shape), return_inverse=True, return_counts=True
    )
    tested = _tested(examples, target, total)
    level = total / max(1, int(tested.sum()))
    rows = [np.flatnonzero(codes == group) for group in np.flatnonzero(tested)]
    sequences = [
        certificates.fixed_sequence(
            ranks[row], is_correct[row], risk=target, level=level, highest=total
        )
        for row in rows
    ]
    level = certificates.final_level(sequences, total)
    threshold = np.full(len(names), np.inf)
    threshold[tested] = [sequence.certificate(level).threshold for sequence in sequences]
    kept = ranks >= threshold[codes]
    accepted, errors = (
        np.bincount(codes[which], minlength=len(names)) for which in (kept, kept & ~is_correct)
    )
    return Classwise(names, threshold, examples, accepted, errors, tested, level, target, total)


def _names(groups: ArrayLike, shape: tuple[int, ...]) -> NDArray[Any]:
    names = np.asarray(groups)
    if names.dtype.kind not in "iuU":
        raise TypeError(f"groups of dtype {names.dtype}: need integers or strings")
    if names.shape != shape:
        raise InputError(f"groups of shape {names.shape}: need {shape}")
    return names


def _tested(examples: NDArray[np.int64], risk: float, delta: float) -> NDArray[np.bool_]:
    """Returns which groups are tested: the largest ones, of equal ones the first, bool [g]."""
    order = np.argsort(-examples, kind="stable")
    sizes, shares = examples[order], delta / np.arange(1, len(examples) + 1)
    passes = (sizes >= LEAST_ACCEPTED) & (bdtr(0, sizes, risk) <= shares)
    tested = np.zeros(len(examples), bool)
    # `passes` is decreasing: the sizes fall, and so do the shares.
    tested[order[: int(passes.sum())]] = True
    return tested
