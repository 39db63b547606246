"""Ranks of confidences among all before, and bets on them."""

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from kdjax.errors import InputError
from kdjax.selective import DriftReference, drift, drift_reference, online_ranks


def ranks_one_by_one(reference, stream, uniforms):
    """Returns the ranks by their definition, from the values themselves."""
    seen, ranks = list(reference), []
    for value, u in zip(stream, uniforms, strict=True):
        seen.append(value)
        below, equal = (sum(op(x, value) for x in seen) for op in (np.less, np.equal))
        ranks.append((below + u * equal) / len(seen))
    return np.array(ranks)


def test_ranks_are_those_of_their_definition():
    rng = np.random.default_rng(0)
    reference, stream, uniforms = rng.integers(6, size=40), rng.integers(6, size=30), rng.random(30)
    counts = np.bincount(reference, minlength=6)
    ranks, after = online_ranks(counts, stream, uniforms)
    assert_allclose(ranks, ranks_one_by_one(reference, stream, uniforms), rtol=1e-14)
    assert_allclose(after, counts + np.bincount(stream, minlength=6))


def test_ranks_do_not_depend_on_how_a_stream_is_divided(monkeypatch):
    rng = np.random.default_rng(0)
    stream, uniforms = rng.integers(5, size=(3, 50)), rng.random((3, 50))
    whole, after = online_ranks(np.full(5, 4), stream, uniforms)
    first, counts = online_ranks(np.full(5, 4), stream[:, :13], uniforms[:, :13])
    second, again = online_ranks(counts, stream[:, 13:], uniforms[:, 13:])
    assert_allclose(np.concatenate([first, second], axis=1), whole)
    assert_allclose(again, after)
    monkeypatch.setattr(drift, "_BLOCK", 7)
    assert_allclose(online_ranks(np.full(5, 4), stream, uniforms)[0], whole)


@pytest.mark.parametrize("size", [0, 3, 200])
def test_ranks_of_exchangeable_examples_are_independent_and_uniform(size):
    rng = np.random.default_rng(0)
    values = rng.choice(4, size=(4000, size + 2), p=[0.6, 0.2, 0.1, 0.1])
    counts = np.stack([np.bincount(row[:size], minlength=4) for row in values])
    ranks, _ = online_ranks(counts, values[:, size:], rng.random((4000, 2)))
    for column in ranks.T:
        assert scipy.stats.kstest(column, "uniform").pvalue > 1e-3
    assert abs(scipy.stats.spearmanr(ranks[:, 0], ranks[:, 1]).statistic) < 0.05


def test_each_bet_is_a_density_bounded_away_from_0():
    grid = np.linspace(0, 1, 2001)
    densities = np.exp(drift.rank_factors(grid))
    assert_allclose(scipy.integrate.simpson(densities, x=grid, axis=0), 1, rtol=1e-9)
    assert densities.min() > 0.1
    # By Rodrigues' formula, P_3(x) = (5 x^3 - 3 x) / 2 with x = 2 p - 1.
    x = 2 * grid - 1
    assert_allclose(densities[:, 8], 1 - 0.8 * (5 * x**3 - 3 * x) / 2, rtol=1e-9)


def test_uniforms_do_not_depend_on_how_a_stream_is_divided():
    whole = drift.ranks_uniforms(7, 0, 20)
    parts = [drift.ranks_uniforms(7, 0, 3), drift.ranks_uniforms(7, 3, 17)]
    assert_allclose(np.concatenate(parts), whole)
    assert not np.allclose(drift.ranks_uniforms(8, 0, 20), whole)


def test_groups_are_quantiles_of_the_others_with_edges_between_values():
    others = np.arange(100) / 100
    reference = drift_reference([0.05, 0.295, 0.5, 0.99], others=others, bins=10)
    assert_allclose(reference.edges, np.arange(1, 10) / 10 - 0.005)
    assert reference.counts == (1, 0, 0, 1, 0, 1, 0, 0, 0, 1)
    assert_allclose(drift.groups_of(reference, [-np.inf, 0.095, 0.5, np.inf]), [0, 1, 5, 9])


def test_tied_confidences_stay_in_one_group():
    others = [0.0] * 70 + [0.5] * 20 + [1.0] * 10
    reference = drift_reference([0.0, 0.5, 1.0, 1.0], others=others)
    assert reference == DriftReference((0.25, 0.75), (1, 1, 2))
    infinite = drift_reference([np.inf, 0.0], others=[-np.inf, 0.0, 1.0, np.inf], bins=8)
    assert infinite.edges == (0.5,) and infinite.counts == (1, 1)
    # The quantile of `bins` groups may lie next to an infinite value, where there is no edge.
    for others in ([0.0, 1.0, np.inf], [-np.inf, 0.0, 1.0], [0.0, 1.0, *[np.inf] * 9]):
        assert drift_reference([0.0], others=others, bins=2) == DriftReference((0.5,), (1, 0))


@pytest.mark.parametrize(
    ("sample", "others", "bins", "part"),
    [
        ([], [0, 1], 4, "confidence of shape (0,)"),
        ([np.nan], [0, 1], 4, "must not be NaN"),
        ([1], [0.5, 0.5], 4, "all confidences are 0.5, need two different ones"),
        ([1], [-np.inf, np.inf], 4, "two different finite confidences"),
        ([1], [0, 1], 1, "bins: need an integer >= 2: got 1"),
    ],
)
def test_invalid_arguments_raise(sample, others, bins, part):
    with pytest.raises(InputError) as raised:
        drift_reference(sample, others=others, bins=bins)
    assert part in str(raised.value)


VALUES = st.lists(st.floats(allow_nan=False, width=32), min_size=1, max_size=40)


@pytest.mark.slow
@given(sample=VALUES, others=VALUES, bins=st.integers(2, 20))
@settings(max_examples=80, deadline=None)
def test_groups_of_any_confidences_are_complete(sample, others, bins):
    finite = {value for value in others if np.isfinite(value)}
    if len(finite) < 2:
        return  # refused, see below
    reference = drift_reference(sample, others=others, bins=bins)
    edges = np.array(reference.edges)
    assert 1 <= len(edges) <= bins - 1 and np.all(np.diff(edges) > 0) and np.isfinite(edges).all()
    assert sum(reference.counts) == len(sample) and len(reference.counts) == len(edges) + 1
    groups = drift.groups_of(reference, sample)
    assert_allclose(np.bincount(groups, minlength=len(reference.counts)), reference.counts)
    order = np.argsort(sample, kind="stable")
    assert np.all(np.diff(groups[order]) >= 0)  # a higher confidence is in no lower group


@given(
    counts=st.lists(st.integers(0, 5), min_size=1, max_size=6),
    seed=st.integers(0, 1000),
    length=st.integers(1, 20),
)
@settings(max_examples=60, deadline=None)
def test_ranks_of_any_groups_are_those_of_their_definition(counts, seed, length):
    rng = np.random.default_rng(seed)
    stream, uniforms = rng.integers(len(counts), size=length), rng.random(length)
    reference = np.repeat(np.arange(len(counts)), counts)
    ranks, after = online_ranks(counts, stream, uniforms)
    assert_allclose(ranks, ranks_one_by_one(reference, stream, uniforms), rtol=1e-12)
    assert np.all((ranks >= 0) & (ranks <= 1)) and after.sum() == sum(counts) + length
