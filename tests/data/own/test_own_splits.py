"""Cuts of own images: stratified, independent of the order, equal pictures and groups together."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdjax.data.own import splits
from kdjax.data.own.listing import SPLITS
from kdjax.errors import InputError

FRACTIONS = {"test_fraction": 0.2, "dev_fraction": 0.1, "calibration_fraction": 0.1}


def make_table(
    labels: list[int],
    keys: list[int] | None = None,
    groups: list[str] | None = None,
    given_splits: list[str] | None = None,
) -> splits.Table:
    count = len(labels)
    return splits.Table(
        keys=np.array([f"{key:064x}" for key in keys or range(count)], np.str_),
        labels=np.array(labels, np.int32),
        splits=np.array(given_splits or ["train"] * count, np.str_),
        groups=np.array(groups or [""] * count, np.str_),
        subgroups=np.full(count, "", np.str_),
        rows=np.arange(count),
        numbers=np.arange(count),
    )


def cut_keys(table: splits.Table, seed: int = 0) -> dict[str, set[str]]:
    rows = splits.cut(table, **FRACTIONS, seed=seed)
    assert sorted(np.concatenate(list(rows.values())).tolist()) == list(range(len(table.keys)))
    return {name: set(table.keys[index]) for name, index in rows.items()}


def test_test_and_dev_are_stratified_and_sizes_are_exact() -> None:
    labels = [0] * 100 + [1] * 60 + [2] * 41
    table = make_table(labels)
    rows = splits.cut(table, **FRACTIONS, seed=3)
    assert [len(rows[name]) for name in SPLITS] == [129, 16, 16, 40]
    np.testing.assert_allclose(np.bincount(table.labels[rows["test"]]), [19.9, 11.9, 8.2], atol=1)
    np.testing.assert_allclose(np.bincount(table.labels[rows["dev"]]), [8, 4.8, 3.2], atol=1)


def test_every_class_keeps_a_training_picture() -> None:
    """Of classes with 6 pictures, a random calibration split would take all of some."""
    table = make_table(np.repeat(np.arange(600), 6).tolist())
    fractions = {**FRACTIONS, "calibration_fraction": 0.3}
    rows = splits.cut(table, **fractions, seed=0)
    assert len(np.unique(table.labels[rows["train"]])) == 600
    assert len(rows["calibration"]) == round(0.3 * 2880)
    counts = np.bincount(table.labels[rows["calibration"]], minlength=600)
    assert counts.min() == 0 and counts.max() >= 3  # not stratified


def test_fraction_of_a_given_split_does_not_count() -> None:
    table = make_table([0, 1] * 50, given_splits=["train"] * 80 + ["dev"] * 20)
    rows = splits.cut(table, test_fraction=0.1, dev_fraction=0.9, calibration_fraction=0.5, seed=0)
    assert [len(rows[name]) for name in SPLITS] == [36, 20, 36, 8]


def test_cut_depends_on_seed_and_content_not_on_the_order() -> None:
    rng = np.random.default_rng(0)
    table = make_table(rng.integers(0, 3, 90).tolist(), keys=rng.permutation(90).tolist())
    shuffled = table.take(rng.permutation(90))
    assert cut_keys(shuffled) == cut_keys(table)
    assert cut_keys(table, seed=1) != cut_keys(table)
    first, second = splits.ordered(table), splits.ordered(shuffled)
    np.testing.assert_array_equal(first.keys, second.keys)
    np.testing.assert_array_equal(first.labels, second.labels)


def test_new_pictures_leave_most_of_the_others_where_they_are() -> None:
    before = cut_keys(make_table([0, 1] * 200))
    after = cut_keys(make_table([0, 1] * 205))
    assert len(before["test"] - after["test"]) <= 4


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    examples=st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 60), st.sampled_from(["", "", "a", "b", "7"])),
        min_size=30,
        max_size=120,
    ),
    seed=st.integers(0, 5),
)
def test_equal_pictures_and_groups_never_straddle_a_split(
    examples: list[tuple[int, int, str]], seed: int
) -> None:
    labels, keys, groups = map(list, zip(*examples, strict=True))
    table = make_table(labels, keys, groups)
    rows = splits.cut(table, **FRACTIONS, seed=seed)
    for column in (table.keys, table.groups):
        places: dict[str, set[str]] = {}
        for name, index in rows.items():
            for value in column[index]:
                places.setdefault(value, set()).add(name)
        assert all(len(names) == 1 for value, names in places.items() if value)
    # Without equal pictures and groups, the sizes are exact.
    if len(set(keys)) == len(keys) and not any(groups):
        assert len(rows["test"]) == round(0.2 * len(keys))


def test_chain_of_groups_and_equal_pictures_is_one_unit() -> None:
    table = make_table(
        [0] * 20, keys=[0, 1, 1, *range(2, 19)], groups=["a", "a", "b", "b"] + [""] * 16
    )
    for seed in range(20):
        places = [name for name, keys in cut_keys(table, seed).items() if f"{0:064x}" in keys]
        chain = {f"{key:064x}" for key in (0, 1, 2)}
        assert chain <= cut_keys(table, seed)[places[0]]


def test_given_splits_are_kept_and_the_others_are_cut_from_train() -> None:
    given_splits = ["train"] * 40 + ["test"] * 10 + ["calibration"] * 5
    table = make_table([0, 1] * 27 + [0], given_splits=given_splits)
    rows = splits.cut(table, **FRACTIONS, seed=0)
    assert rows["test"].tolist() == list(range(40, 50))
    assert rows["calibration"].tolist() == list(range(50, 55))
    assert [len(rows[name]) for name in ("train", "dev")] == [36, 4]


def test_picture_in_several_given_splits_stays_in_the_last() -> None:
    keys, places = [1, 1, 2, 2, 3, 3, 4], ["train", "test", "dev", "train", "train", "train", "dev"]
    kept = splits.drop_copies_across_splits(make_table([0] * 7, keys, given_splits=places))
    assert kept.splits.tolist() == ["test", "dev", "train", "train", "dev"]
    assert splits.count_copies(make_table([0] * 7, keys)) == 3


def test_equal_pictures_with_different_labels_are_found() -> None:
    conflicts = splits.conflicting(make_table([0, 1, 0, 0, 1, 2], keys=[1, 1, 2, 2, 3, 3]))
    assert [numbers.tolist() for numbers in conflicts] == [[0, 1], [4, 5]]


def test_group_in_two_given_splits_raises() -> None:
    table = make_table([0, 1, 0], groups=["x", "", "x"], given_splits=["train", "train", "test"])
    with pytest.raises(InputError, match="csv:a: group 'x' is in splits 'train' and 'test'"):
        splits.check_groups(table, "csv:a")
