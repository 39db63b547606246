"""Cuts of a development and a calibration split from a train split."""

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
    total = round(fraction * len(labels))
    if not 0 < total < len(labels):
        raise errors.InputError(
            f"a dev fraction of {fraction} of {len(labels)} examples leaves train or dev empty"
        )
    classes, sizes = np.unique(labels, return_counts=True)
    # NumPy guarantees the raw stream of a bit generator between releases, but not that of the
    # distributions.
    rank = np.random.PCG64(seed).random_raw(len(labels))
    chosen = [
        members[np.argsort(rank[members])[:count]]
        for members, count in zip(
            (np.flatnonzero(labels == c) for c in classes),
            _largest_remainder(fraction * sizes, total),
            strict=True,
        )
    ]
    dev = np.sort(np.concatenate(chosen))
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


def _largest_remainder(quotas: np.ndarray, total: int) -> np.ndarray:
    """Rounds quotas to integers that sum to `total`: up for the largest remainders, else down."""
    counts = np.floor(quotas).astype(np.int64)
    order = np.argsort(counts - quotas, kind="stable")
    counts[order[: total - counts.sum()]] += 1
    return counts
