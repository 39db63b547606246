"""Splits of own images: equal images and groups stay together, whatever the order of the files.

All choices depend on the pixels of the images, not on their names or order, so a folder, a CSV
file and an npz file of the same images are cut in the same way.
"""

import collections
import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from kdjax.data.own.listing import SPLITS
from kdjax.data.splits import largest_remainder
from kdjax.errors import InputError

# Where an image stays that is given in several splits: the last of these.
_PRIORITY = {name: rank for rank, name in enumerate(SPLITS)}


class Table(NamedTuple):
    """Examples that can be decoded, in an order that depends on pixels and labels only.

    Attributes:
        keys: str [n], SHA-256 of the pixels, in hexadecimal.
        labels: int32 [n].
        splits: str [n], one of `SPLITS`.
        groups: str [n]; "": not in a group.
        subgroups: str [n]; "": in none. They have no influence on the splits.
        rows: int [n], of the decoded arrays.
        numbers: int [n], of the images in their listing.
    """

    keys: np.ndarray
    labels: np.ndarray
    splits: np.ndarray
    groups: np.ndarray
    subgroups: np.ndarray
    rows: np.ndarray
    numbers: np.ndarray

    def take(self, index: np.ndarray) -> "Table":
        """Returns some of the examples."""
        return Table(*(column[index] for column in self))


def ordered(table: Table) -> Table:
    """Returns the examples sorted by pixels, then label, group and subgroup."""
    return table.take(np.lexsort((table.subgroups, table.groups, table.labels, table.keys)))


def drop_copies_across_splits(table: Table) -> Table:
    """Leaves each image in one split only: in the last of `SPLITS` in which it is given."""
    rank = np.array([_PRIORITY[name] for name in table.splits], np.int64)
    _, key = np.unique(table.keys, return_inverse=True)
    last = np.zeros(key.max(initial=0) + 1, np.int64)
    np.maximum.at(last, key, rank)
    return table.take(np.flatnonzero(rank == last[key]))


def count_copies(table: Table) -> int:
    """Returns the number of images that are exact copies of another one."""
    return len(table.keys) - len(np.unique(table.keys))


def conflicting(table: Table) -> list[np.ndarray]:
    """Returns the numbers of the images in each set of equal ones with different labels."""
    members: dict[str, list[int]] = collections.defaultdict(list)
    for row, key in enumerate(table.keys.tolist()):
        members[key].append(row)
    sets = (members[key] for key in sorted(members) if len(members[key]) > 1)
    return [table.numbers[rows] for rows in sets if len(set(table.labels[rows].tolist())) > 1]


def check_groups(table: Table, title: str) -> None:
    """Raises if the given splits divide a group.

    Raises:
        InputError: naming group and splits.
    """
    given: dict[str, str] = {}
    for group, split in zip(table.groups.tolist(), table.splits.tolist(), strict=True):
        if group and given.setdefault(group, split) != split:
            raise InputError(
                f"{title}: group {group!r} is in splits {given[group]!r} and {split!r}: a group "
                "must stay in one split"
            )


def cut(
    table: Table,
    *,
    test_fraction: float,
    dev_fraction: float,
    calibration_fraction: float,
    seed: int,
) -> dict[str, np.ndarray]:
    """Returns the rows of the table in each split; what is not given is cut from train.

    Test and dev are stratified by class. Calibration is drawn regardless of class, as the
    certificate requires (see `kdjax.data.splits.random_cut`), except that the last images of a
    class stay in train: without them the class could not be learnt. Equal images and groups stay
    together, so sizes may differ from the fractions by part of a group.

    Args:
        table: the examples.
        test_fraction: fraction of all examples.
        dev_fraction: fraction of the examples outside test.
        calibration_fraction: fraction of the examples outside test.
        seed: of all choices.

    Returns:
        int [k] by split; empty where the fraction of the examples is none.

    Raises:
        InputError: if the fractions of dev and calibration leave no example for train.
    """
    result = {name: np.flatnonzero(table.splits == name) for name in SPLITS}
    units, pool = units_of(table), result["train"]
    fractions = {"dev": dev_fraction, "calibration": calibration_fraction}
    missing = [name for name in fractions if not len(result[name])]
    if sum(fractions[name] for name in missing) >= 1:
        given = " and ".join(f"data.{name}_fraction {fractions[name]:g}" for name in missing)
        raise InputError(f"{given}: must have a sum below 1, the rest is the train split")
    test = len(result["test"]) > 0
    if not test:
        size = round(test_fraction * len(pool))
        result["test"] = _choose(table, units, pool, _quotas(table, pool, size), ("test", seed))
        pool = np.setdiff1d(pool, result["test"])
    base = len(pool)
    if not len(result["dev"]):
        size = round(dev_fraction * base)
        result["dev"] = _choose(table, units, pool, _quotas(table, pool, size), ("dev", seed))
        pool = np.setdiff1d(pool, result["dev"])
    if not len(result["calibration"]):
        size = round(calibration_fraction * base)
        result["calibration"] = _choose_any(table, units, pool, size, ("calibration", seed))
        pool = np.setdiff1d(pool, result["calibration"])
    return {**result, "train": pool}


def units_of(table: Table) -> np.ndarray:
    """Returns for each example the number of the unit that is not divided, int [n].

    Examples belong to one unit if a chain of equal images and common groups connects them.
    """
    count = len(table.keys)
    _, keys = np.unique(table.keys, return_inverse=True)
    names = np.where(table.groups == "", np.arange(count).astype(np.str_), table.groups)
    # A group may have the name of a number.
    tagged = np.char.add(np.where(table.groups == "", "row ", "group "), names)
    _, groups = np.unique(tagged, return_inverse=True)
    rows = np.concatenate([np.arange(count)] * 2)
    columns = np.concatenate([keys, groups + keys.max() + 1]) + count
    size = int(columns.max()) + 1
    graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(size, size))
    return connected_components(graph, directed=False)[1][:count]


def _quotas(table: Table, pool: np.ndarray, size: int) -> dict[int, int]:
    """Returns how many of `size` examples each class gets: its share, to within one."""
    labels, counts = np.unique(table.labels[pool], return_counts=True)
    shares = largest_remainder(size * counts / max(len(pool), 1), size)
    return dict(zip(labels.tolist(), shares.tolist(), strict=True))


def _choose(
    table: Table,
    units: np.ndarray,
    pool: np.ndarray,
    quotas: Mapping[int, int],
    stream: Sequence[object],
) -> np.ndarray:
    """Returns the examples of the pool in the units that bring the classes to their quotas.

    In a random order, each unit is chosen that reduces sum_k |quota_k - chosen_k|. Of units with
    one example, these are the first `quota_k` of class k.
    """
    missing, chosen = dict(quotas), list[int]()
    for rows in _shuffled(table, units, pool, stream):
        counts = collections.Counter(table.labels[rows].tolist())
        gain = sum(abs(missing[k]) - abs(missing[k] - count) for k, count in counts.items())
        if gain > 0:
            chosen += rows
            missing.update({k: missing[k] - count for k, count in counts.items()})
    return np.sort(np.array(chosen, np.int64))


def _choose_any(
    table: Table, units: np.ndarray, pool: np.ndarray, size: int, stream: Sequence[object]
) -> np.ndarray:
    """Returns about `size` examples of the pool regardless of class, but never all of a class.

    As in `_choose`, a unit is chosen that brings their number nearer to `size`.
    """
    left, chosen = collections.Counter(table.labels[pool].tolist()), list[int]()
    for rows in _shuffled(table, units, pool, stream):
        counts = collections.Counter(table.labels[rows].tolist())
        missing = size - len(chosen)
        if abs(missing - len(rows)) < abs(missing) and all(left[k] > counts[k] for k in counts):
            chosen += rows
            left -= counts
    return np.sort(np.array(chosen, np.int64))


def _shuffled(
    table: Table, units: np.ndarray, pool: np.ndarray, stream: Sequence[object]
) -> list[list[int]]:
    """Returns the examples of each unit of the pool, the units in the random order of a stream."""
    members = collections.defaultdict(list)
    for row in pool.tolist():
        members[units[row]].append(row)
    return sorted(members.values(), key=lambda rows: _rank(table, rows, stream))


def _rank(table: Table, rows: Sequence[int], stream: Sequence[object]) -> bytes:
    """Returns the place of a unit in the random order of a stream."""
    key = min(table.keys[rows])
    return hashlib.sha256(f"{stream} {key}".encode()).digest()
