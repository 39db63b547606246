"""Cuts of a development and a calibration split from a train split, and samples of splits."""

from collections.abc import Sequence

import numpy as np

from kdjax import errors


def stratified_cut(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts a development split, stratified by class, from a train split.

    Dev gets round(fraction n) examples: of class k, with n_k examples, floor(fraction n_k) or one
    more, for the classes with the largest remainders.

    Args:
        labels: int [n].
        fraction: fraction of the examples used as dev, in (0, 1).
        seed: of the random choice within each class.

    Returns:
        (train, dev): sorted int64 indices into `labels`; disjoint, with union 0..n-1.

    Raises:
        InputError: if `fraction` is out of range, or leaves train or dev empty.
    """
    if not 0 < fraction < 1:
        raise errors.InputError(f"dev fraction is {fraction}: must lie between 0 and 1")
    # A float product, which can round differently from the decimal fraction (0.7 of 45). Another
    # rounding would change the cuts of existing workdirs.
    total = round(fraction * len(labels))
    if not 0 < total < len(labels):
        raise errors.InputError(
            f"a dev fraction of {fraction} of {len(labels)} examples leaves train or dev empty"
        )
    sizes = np.unique(labels, return_counts=True)[1]
    # NumPy guarantees the raw stream of a bit generator between releases, but not that of the
    # distributions.
    rank = np.random.PCG64(seed).random_raw(len(labels))
    dev = _choose(labels, largest_remainder(fraction * sizes, total), rank)
    return np.setdiff1d(np.arange(len(labels)), dev), dev


def random_cut(count: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts a calibration split from a train split, regardless of the labels.

    The cut is not stratified: a certificate models errors as binomial, which requires examples
    drawn from the same distribution as new ones.

    Args:
        count: number of examples, n.
        size: number of calibration examples, 0 < size < n.
        seed: of the random choice.

    Returns:
        (train, calibration): sorted int64 indices; disjoint, with union 0..n-1.

    Raises:
        InputError: if a split would be empty.
    """
    if not 0 < size < count:
        raise errors.InputError(
            f"a calibration split of {size} of {count} examples leaves calibration or train empty"
        )
    # A stream that is independent of that of `stratified_cut` with the same seed.
    rank = np.random.PCG64([seed, 1]).random_raw(count)
    order = np.argsort(rank, kind="stable")
    return np.sort(order[size:]), np.sort(order[:size])


def stratified_sample(labels: np.ndarray, size: int, seed: Sequence[int]) -> np.ndarray:
    """Chooses examples at random, with every class in proportion to within one example.

    Of n examples, n_k of class k, it chooses floor(size n_k / n) or one more of class k; if `size`
    is at least the number of classes, at least one of each, taken from the largest classes.

    Args:
        labels: int [n].
        size: number of chosen examples, in 1..n.
        seed: of the random choice, integers >= 0.

    Returns:
        Sorted int64 indices into `labels`.
    """
    sizes = np.unique(labels, return_counts=True)[1]
    counts = largest_remainder(size * sizes / len(labels), size)
    for missing in np.flatnonzero(counts == 0) if size >= len(sizes) else ():
        counts[np.argmax(counts)] -= 1
        counts[missing] = 1
    return _choose(labels, counts, np.random.PCG64(seed).random_raw(len(labels)))


def random_sample(count: int, size: int, seed: Sequence[int]) -> np.ndarray:
    """Chooses examples at random, regardless of class.

    Args:
        count: number of examples, n.
        size: number of chosen examples, in 1..n.
        seed: of the random choice, integers >= 0.

    Returns:
        Sorted int64 indices in 0..n-1.
    """
    rank = np.random.PCG64(seed).random_raw(count)
    return np.sort(np.argsort(rank, kind="stable")[:size])


def _choose(labels: np.ndarray, counts: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Returns, sorted, the `counts[k]` examples of the k-th class that have the lowest ranks."""
    members = (np.flatnonzero(labels == label) for label in np.unique(labels))
    chosen = [
        rows[np.argsort(rank[rows])[:count]] for rows, count in zip(members, counts, strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def largest_remainder(quotas: np.ndarray, total: int) -> np.ndarray:
    """Rounds quotas to integers that sum to `total`: up for the largest remainders, else down.

    Args:
        quotas: float [k], >= 0, with a sum near `total`.
        total: the sum of the integers.

    Returns:
        int64 [k].
    """
    counts = np.floor(quotas).astype(np.int64)
    order = np.argsort(counts - quotas, kind="stable")
    counts[order[: total - counts.sum()]] += 1
    return counts
