"""Cutting a development and a calibration split out of train."""

import numpy as np

from kdjax import errors


def stratified_cut(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts a seeded, class-stratified development split out of a train split.

    round(fraction n) examples go to dev; class k, with n_k examples, gives
    floor(fraction n_k) or one more (those with the largest remainders).

    Args:
        labels: int[n].
        fraction: share of the examples that goes to dev, 0 < fraction < 1.
        seed: of the choice within each class.

    Returns:
        (train, dev): sorted int64 indices into `labels`, disjoint, together all of it.

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
    # NumPy keeps a bit generator's raw stream between releases, but not what is made of it.
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
    """Cuts a seeded calibration split out of a train split, whatever the labels.

    Not by class: a certificate counts errors as binomial, which takes examples that are drawn as
    new ones will be.

    Args:
        count: the number of examples, n.
        size: the number to cut away, 0 < size < n.
        seed: of the choice.

    Returns:
        (train, calibration): sorted int64 indices, disjoint, together 0..n-1.

    Raises:
        InputError: if either would be empty.
    """
    if not 0 < size < count:
        raise errors.InputError(
            f"a calibration split of {size} of {count} examples leaves it or train empty"
        )
    # Another stream than that of `stratified_cut` under the same seed.
    rank = np.random.PCG64([seed, 1]).random_raw(count)
    order = np.argsort(rank, kind="stable")
    return np.sort(order[size:]), np.sort(order[:size])


def _largest_remainder(quotas: np.ndarray, total: int) -> np.ndarray:
    """Rounds `quotas` down, then up where the remainder is largest, until they sum to `total`."""
    counts = np.floor(quotas).astype(np.int64)
    order = np.argsort(counts - quotas, kind="stable")
    counts[order[: total - counts.sum()]] += 1
    return counts
