"""No false alarm is more frequent than delta: exact expectations, and adversaries that adapt."""

import itertools
import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from experiments.guarantees import monitoring as simulation
from kdjax.selective import Monitor, betting, drift, online_ranks

LENGTH = 10
STREAMS = np.array(list(itertools.product((0, 1), repeat=LENGTH)), bool)  # all of them


def probabilities(adversary):
    """Returns the probability of each stream, if an error has probability `adversary(past)`."""
    result = np.ones(len(STREAMS))
    for row, stream in enumerate(STREAMS):
        for t, wrong in enumerate(stream):
            risk = adversary(tuple(stream[:t]))
            result[row] *= risk if wrong else 1 - risk
    return result


RISK = 0.3
ADVERSARIES = {
    "always at the bound": lambda past: RISK,
    "only after an error": lambda past: RISK if past and past[-1] else 0.1,
    "only while all was well": lambda past: 0.0 if any(past) else RISK,
    "to save a falling wealth": lambda past: RISK if sum(past) < RISK * len(past) else 0.05,
    "to let a high wealth rise": lambda past: RISK if sum(past) > RISK * len(past) else 0.0,
    "by turns": lambda past: RISK if len(past) % 2 else 0.0,
}


@pytest.fixture(scope="module")
def wealth():
    """The wealth of all streams after each value, [streams, length]."""
    return np.exp(simulation.binary_wealth(STREAMS, RISK))


@pytest.mark.parametrize("name", ADVERSARIES)
def test_expected_wealth_is_at_most_1_at_any_time_an_observer_may_stop(name, wealth):
    chance = probabilities(ADVERSARIES[name])
    assert chance.sum() == pytest.approx(1)
    assert np.all(chance @ wealth <= 1 + 1e-12)
    for limit in (1.2, 2.0, 5.0):
        # Stops at the first wealth of at least the limit, or at the end.
        reached = wealth >= limit
        stop = np.where(reached.any(axis=1), reached.argmax(axis=1), LENGTH - 1)
        stopped = wealth[np.arange(len(wealth)), stop]
        assert chance @ stopped <= 1 + 1e-12
        assert chance @ reached.any(axis=1) <= 1 / limit + 1e-12  # Ville's inequality


def test_bound_is_sharp_only_at_the_hypothesis(wealth):
    at_bound = probabilities(lambda past: RISK) @ wealth
    below = probabilities(lambda past: 0.8 * RISK) @ wealth
    above = probabilities(lambda past: 1.5 * RISK) @ wealth
    assert_allclose(at_bound, 1, rtol=1e-12)
    assert np.all(np.diff(below) < 0) and np.all(np.diff(above) > 0)


def test_a_test_that_is_repeated_alarms_falsely_far_more_often():
    # The reason for a monitor: the exact binomial test of kdjax.check, after every image.
    from scipy.special import bdtrc

    rng = np.random.default_rng(0)
    wrong = rng.random((200, 600)) < 0.1
    errors, images = np.cumsum(wrong, axis=1), np.arange(1, 601)
    repeated = np.any(bdtrc(errors - 1.0, images, 0.1) <= 0.05, axis=1)
    watched = simulation.binary_wealth(wrong, 0.1).max(axis=1) >= math.log(20)
    assert repeated.mean() > 0.2
    assert watched.mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)


@pytest.mark.parametrize("sizes", [(3, 1), (2, 3), (5, 0)])
def test_expected_wealth_of_ranks_is_1_for_any_exchangeable_examples(sizes):
    # Over all orders of a multiset, of which the first two are the reference, and over the random
    # order of ties: the wealth is a polynomial of degree 4 in each uniform number, so that a
    # quadrature with 3 points is exact.
    values = np.repeat([0, 1], sizes)
    groups = np.array(list(itertools.permutations(values)))[:, :4]
    counts = np.stack([np.bincount(row[:2], minlength=2) for row in groups])
    nodes, weights = np.polynomial.legendre.leggauss(3)
    expected = 0.0
    for (u, a), (v, b) in itertools.product(
        zip((nodes + 1) / 2, weights / 2, strict=True), repeat=2
    ):
        uniforms = np.broadcast_to([u, v], (len(groups), 2))
        ranks, _ = online_ranks(counts, groups[:, 2:], uniforms)
        factors = drift.rank_factors(ranks)
        start = np.full((len(groups), factors.shape[-1]), -np.inf)
        wealth = np.exp(betting.advance(start, 0, factors)[0][:, -1])
        expected += a * b * wealth.mean()
    assert expected == pytest.approx(1, abs=1e-12)


def test_wealth_of_drift_hardly_depends_on_the_scale_of_the_confidence():
    rng = np.random.default_rng(0)
    sample, others, stream = rng.normal(size=(3, 300))
    traces = []
    for scale in (np.asarray, np.exp, lambda x: 5 * x**3 + 1, np.arctan):
        reference = drift.drift_reference(scale(sample), others=scale(others))
        monitor = Monitor(reference=reference)
        traces.append(monitor.update(np.ones(300), None, scale(stream))["drift"])
    # Edges half-way between two values move a little with the scale, single values with them.
    for trace in traces[1:]:
        assert abs(trace[-1] - traces[0][-1]) < 0.5


def test_another_seed_orders_ties_otherwise_and_the_same_one_alike():
    reference = drift.drift_reference([0, 1, 1, 0], others=[0, 1])
    stream = np.random.default_rng(0).integers(2, size=50).astype(float)
    first, again, other = (
        Monitor(reference=reference, seed=seed).update(np.ones(50), None, stream)["drift"][-1]
        for seed in (0, 0, 1)
    )
    assert first == again != other
