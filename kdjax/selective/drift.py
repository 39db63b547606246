"""Whether the confidences of new examples still have the distribution of a reference sample.

New examples are ranked one after the other among all that came before, the reference sample first.
If all are exchangeable, as independent examples of one distribution are, these ranks are
independent and uniform, whatever the distribution and however small the reference sample: bets on
them lose. Ranks among the reference sample alone would not be independent: all of them share its
error, which a long stream reveals.
"""

from typing import NamedTuple

import numpy as np
from numpy.polynomial.legendre import legvander
from numpy.typing import ArrayLike, NDArray

from kdjax.errors import InputError
from kdjax.selective import validation

Array = NDArray[np.float64]

BINS = 64  # groups of confidences that are not told apart
_BLOCK = 1 << 12  # examples of which the counts are held in memory at once
# Bets 1 + e P_d(2 p - 1) on the rank p, with Legendre polynomials: of degree 1 on lower or higher
# confidences, of degree 2 on a wider or narrower distribution, of degree 3 and 4 on other changes.
_DEGREE = 4
_SIZES = np.array([-0.8, -0.3, 0.3, 0.8])


class DriftReference(NamedTuple):
    """The confidences with which a stream is compared, in groups.

    Attributes:
        edges: `[b]`, ascending and distinct, b >= 1, between the b + 1 groups; chosen without the
            sample.
        counts: `[b + 1]`, number of confidences of the sample in each group: a value equal to an
            edge is in the upper one.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]


def drift_reference(sample: ArrayLike, *, others: ArrayLike, bins: int = BINS) -> DriftReference:
    """Groups the confidences of a sample by the quantiles of others.

    Edges lie half-way between two values, so that rounding does not move a value to another group.
    They have to be chosen without the sample: if they depended on it, its confidences and those of
    the stream would not be treated alike, and a test could not be exact.

    Args:
        sample: confidences `[n]` of examples to which those of the stream are compared, such as
            the calibration split.
        others: confidences `[k]` of other examples of the same kind, such as the dev split, with
            at least two different finite values; the rest may be infinite.
        bins: largest number of groups, >= 2.

    Raises:
        ValueError: for no confidence, NaN, others without two different finite values, or a number
            of bins below 2.
        TypeError: for a dtype that is not real.

    Example:
        >>> drift_reference([0.1, 0.9, 0.8, 0.3], others=[0.2, 0.4, 0.6, 0.8], bins=2)
        DriftReference(edges=(0.5,), counts=(2, 2))
    """
    values = validation.confidences(sample)
    number = validation.integer("bins", bins, least=2)
    distinct, counts = np.unique(validation.confidences(others), return_counts=True)
    if len(distinct) < 2:
        raise InputError(f"others: all confidences are {distinct[0]:g}, need two different ones")
    below = np.cumsum(counts)[:-1] / counts.sum()  # share of the others below each possible edge
    between = np.isfinite(distinct[:-1]) & np.isfinite(distinct[1:])
    if not between.any():
        raise InputError("others: need two different finite confidences")
    possible = np.flatnonzero(between)  # no edge is infinite
    shares = np.arange(1, number) / number
    nearest = possible[np.unique(np.abs(below[possible, None] - shares).argmin(axis=0))]
    edges = distinct[nearest] / 2 + distinct[nearest + 1] / 2
    groups = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
    return DriftReference(tuple(edges.tolist()), tuple(groups.tolist()))


def groups_of(reference: DriftReference, confidence: ArrayLike) -> NDArray[np.int64]:
    """Returns the number of the group of each confidence `[n]`.

    Raises:
        ValueError: for n = 0, or NaN.
        TypeError: for a dtype that is not real.
    """
    values = validation.confidences(confidence)
    return np.searchsorted(reference.edges, values, side="right").astype(np.int64)


def online_ranks(
    counts: ArrayLike, groups: NDArray[np.int64], uniforms: Array
) -> tuple[Array, NDArray[np.int64]]:
    """Ranks of new examples among all before them, conformal p-values with random order of ties.

    p_t = (#{i < t: g_i < g_t} + u_t #{i <= t: g_i = g_t}) / t, counting the examples of the
    reference sample first. If all examples are exchangeable, the p_t of the new ones are
    independent and uniform on [0, 1].

    Args:
        counts: `[b]` or `[..., b]`, number of earlier examples in each group.
        groups: g `[..., n]`, of the new examples.
        uniforms: u `[..., n]`, random, independent and uniform on [0, 1].

    Returns:
        p, `[..., n]`, and the counts after the last example, `[..., b]`.

    Source: Vovk, Nouretdinov, Gammerman, "Testing exchangeability on-line", ICML 2003.
    """
    earlier = np.broadcast_to(
        np.asarray(counts, np.int64), (*groups.shape[:-1], np.shape(counts)[-1])
    )
    ranks = np.empty(groups.shape)
    for start in range(0, groups.shape[-1], _BLOCK):
        block = np.s_[..., start : start + _BLOCK]
        ranks[block], earlier = _ranks_of_block(earlier, groups[block], uniforms[block])
    return ranks, earlier


def _ranks_of_block(
    counts: NDArray[np.int64], groups: NDArray[np.int64], uniforms: Array
) -> tuple[Array, NDArray[np.int64]]:
    here = groups[..., None] == np.arange(counts.shape[-1])
    until = counts[..., None, :] + np.cumsum(here, axis=-2)  # with the example itself
    up_to = np.cumsum(until, axis=-1)
    index = groups[..., None]
    equal = np.take_along_axis(until, index, -1)[..., 0]
    below = np.take_along_axis(up_to, index, -1)[..., 0] - equal
    return (below + uniforms * equal) / up_to[..., -1], until[..., -1, :]


def rank_factors(ranks: Array) -> Array:
    """Logarithms of the factors by which bets on uniform ranks change the capital.

    1 + e P_d(2 p - 1), with the Legendre polynomial of degree d: its mean is 1 for a uniform p.

    Args:
        ranks: p `[...]`, in [0, 1].

    Returns:
        `[..., K]`, finite.
    """
    polynomials = legvander(2 * np.asarray(ranks, np.float64) - 1, _DEGREE)[..., 1:, None]
    bets = _SIZES * polynomials  # [..., degree, size]
    return np.log1p(bets).reshape(*bets.shape[:-2], -1)


def ranks_uniforms(seed: int, start: int, count: int) -> Array:
    """Returns numbers `start`, `start + 1`, ... of a stream of random numbers on [0, 1), `[count]`.

    They do not depend on how a stream is divided.
    """
    bits = np.random.PCG64(seed)
    bits.advance(start)
    return np.random.Generator(bits).random(count)
