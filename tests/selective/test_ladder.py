"""Several risks that are certified together: Holm's method step by step, and its limits."""

import doctest
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kdjax.errors import InputError
from kdjax.selective import certified_ladder, ladder, learn_then_test

RISKS = (0.1, 0.05, 0.02, 0.01, 0.005)
NOTHING = (math.inf, 0.0, 1.0)


def sample(n, *, seed=0, ties=10**9, scale=0.3, power=3):
    rng = np.random.default_rng(seed)
    rank = np.floor(rng.random(n) * ties) / ties
    return 1 - rank, rng.random(n) >= scale * rank**power


def test_examples_in_docstrings_hold():
    result = doctest.testmod(ladder)
    assert result.attempted > 0 and result.failed == 0


def sequence(confidence, correct, risk, level):
    """Returns (accepted, p-value) of each threshold of Learn then Test, from strict to loose."""
    n = len(confidence)
    counts = np.arange(30, n + 1)

    def first(errors):
        passing = counts[stats.binom.cdf(errors, counts, risk) <= level]
        return int(passing[0]) if len(passing) else n + 1

    start = max(first(0), min(first(10), n // 4))
    tested = []
    for threshold in sorted(set(confidence.tolist()), reverse=True):
        kept = confidence >= threshold
        accepted = int(kept.sum())
        if accepted >= start:
            errors = int((kept & ~correct).sum())
            tested.append((accepted, stats.binom.cdf(errors, accepted, risk)))
    return tested


def holm(confidence, correct, risks, delta):
    """Returns the accepted count of each risk, the largest first, and the level in the end."""
    n = len(confidence)
    fits = [j for j in range(1, len(risks) + 1) if n >= 30 and (1 - risks[j - 1]) ** n <= delta / j]
    number = max(fits, default=0)
    chains = [sequence(confidence, correct, r, delta / max(1, number)) for r in risks[:number]]
    open_chains = list(range(number))
    while open_chains:
        level = delta / len(open_chains)
        done = [i for i in open_chains if chains[i] and max(p for _, p in chains[i]) <= level]
        if not done:
            break
        # One at a time, as in Holm's method.
        best = min(done, key=lambda i: max(p for _, p in chains[i]))
        open_chains.remove(best)
    level = delta / max(1, len(open_chains))
    counts = [0] * len(risks)
    for i in range(number):
        for accepted, p_value in chains[i]:
            if p_value > level:
                break
            counts[i] = accepted
    return [max(counts[i:]) for i in range(len(risks))], level


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(
    n=st.sampled_from([20, 31, 60, 150, 400]),
    ties=st.sampled_from([3, 12, 10**9]),
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([0.0, 0.05, 0.3]),
    delta=st.sampled_from([0.01, 0.1, 0.4]),
)
def test_a_ladder_is_that_of_holm_over_the_sequences_of_learn_then_test(
    n, ties, seed, scale, delta
):
    confidence, correct = sample(n, seed=seed, ties=ties, scale=scale)
    risks = (0.3, 0.1, 0.05)
    found = certified_ladder(confidence, correct, risks=risks, delta=delta)
    counts, level = holm(confidence, correct, risks, delta)
    assert found.level == pytest.approx(level)
    assert [round(one.coverage * n) for one in found.certificates] == counts
    for one, risk in zip(found.certificates, risks, strict=True):
        kept = int(np.sum(confidence >= one.threshold))
        assert kept == round(one.coverage * n)
        assert one.risk_bound == (risk if kept else 1.0)


@pytest.mark.parametrize("n", [20, 200, 1000])
@pytest.mark.parametrize("risk", RISKS)
def test_a_single_risk_is_certified_as_by_learn_then_test(n, risk):
    confidence, correct = sample(n, seed=n)
    found = certified_ladder(confidence, correct, risks=[risk], delta=0.1)
    expected = learn_then_test(confidence, correct, risk=risk, delta=0.1)
    assert found.certificates == (expected,) and found.risks == (risk,)


@pytest.mark.parametrize("seed", range(5))
def test_no_risk_gets_less_than_at_an_equal_share_of_delta(seed):
    confidence, correct = sample(800, seed=seed)
    found = certified_ladder(confidence, correct, risks=RISKS, delta=0.05)
    for risk, one in zip(RISKS, found.certificates, strict=True):
        share = learn_then_test(confidence, correct, risk=risk, delta=0.05 / len(RISKS))
        assert one.coverage >= share.coverage


def test_completed_risks_pass_their_share_on():
    gains = []
    for seed in range(5):
        confidence, correct = sample(1000, scale=0.1, seed=seed)
        found = certified_ladder(confidence, correct, risks=RISKS, delta=0.05)
        complete = sum(one.coverage == 1 for one in found.certificates)
        assert 1 <= complete <= 2 and found.tested == 5
        assert found.level == pytest.approx(0.05 / (5 - complete))
        share = learn_then_test(confidence, correct, risk=0.02, delta=0.01)
        gains.append(found.certificates[2].coverage - share.coverage)
    assert min(gains) >= 0 and max(gains) > 0.02


def test_risks_that_the_sample_cannot_show_take_no_share():
    confidence, correct = sample(60, scale=0)
    found = certified_ladder(confidence, correct, risks=RISKS, delta=0.05)
    # 0.95^60 = 0.046 > 0.05 / 2.
    assert found.tested == 1 and found.certificates[1:] == (NOTHING,) * 4
    alone = learn_then_test(confidence, correct, risk=0.1, delta=0.05)
    assert found.certificates[0] == alone and alone.coverage == 1


def test_too_few_examples_certify_nothing():
    found = certified_ladder(np.arange(20), np.ones(20), risks=RISKS)
    assert found.tested == 0 and found.certificates == (NOTHING,) * 5


@pytest.mark.parametrize("seed", range(3))
def test_a_smaller_risk_never_accepts_more(seed):
    confidence, correct = sample(700, seed=seed, scale=0.15, power=1)
    found = certified_ladder(confidence, correct, risks=RISKS[::-1], delta=0.1)
    assert found.risks == RISKS
    coverage = [one.coverage for one in found.certificates]
    assert coverage == sorted(coverage, reverse=True) and coverage[0] > coverage[-1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"risks": []}, r"risks \[\]: need at least one"),
        ({"risks": [0.1, 0.1]}, "each only once"),
        ({"risks": 0.1}, "risks 0.1: need a sequence of numbers"),
        ({"risks": [0.1, 1.0]}, r"risks must lie in \(0, 1\): got 1.0"),
        ({"delta": 0.0}, r"delta must lie in \(0, 1\)"),
        ({"correct": [1, 0]}, "need"),
        ({"confidence": [np.nan, 1.0, 2.0]}, "confidence must not be NaN"),
    ],
)
def test_bad_values_are_named(changes, message):
    values = {"confidence": [3.0, 2.0, 1.0], "correct": [1, 1, 0], "risks": [0.1, 0.2]}
    with pytest.raises(InputError, match=message):
        certified_ladder(**(values | changes))


@settings(deadline=None, max_examples=30)
@given(n=st.sampled_from([40, 200, 500]), seed=st.integers(0, 10**6), more=st.sampled_from(RISKS))
def test_one_more_risk_does_not_help_the_others_unless_it_is_completed(n, seed, more):
    """A risk takes its share of delta; a completed one passes it on."""
    confidence, correct = sample(n, seed=seed, scale=0.15)
    risks = [risk for risk in RISKS if risk != more]
    few = certified_ladder(confidence, correct, risks=risks, delta=0.2)
    many = certified_ladder(confidence, correct, risks=RISKS, delta=0.2)
    assert many.level <= few.level + 1e-12
    assert few.tested <= many.tested <= few.tested + 1


@settings(deadline=None, max_examples=30)
@given(
    n=st.sampled_from([40, 200, 500]),
    ties=st.sampled_from([2, 9, 10**9]),
    seed=st.integers(0, 10**6),
    deltas=st.tuples(st.floats(0.01, 0.5), st.floats(0.01, 0.5)),
)
def test_each_rung_is_at_most_that_of_its_risk_alone(n, ties, seed, deltas):
    confidence, correct = sample(n, seed=seed, ties=ties, scale=0.15)
    found = certified_ladder(confidence, correct, risks=RISKS, delta=max(deltas))
    assert max(deltas) / len(RISKS) <= found.level <= max(deltas)
    for risk, one in zip(RISKS, found.certificates, strict=True):
        errors = int(np.sum(~correct[confidence >= one.threshold]))
        if accepted := round(one.coverage * n):
            # Certified at the level of the ladder by the exact tail, for this risk.
            assert stats.binom.cdf(errors, accepted, risk) <= found.level * (1 + 1e-9)
