"""Thresholds by group against a general multiple-testing procedure, exact sums and simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from experiments.guarantees import classwise as simulation
from kdjax import selective
from kdjax.errors import InputError
from kdjax.selective import classwise


def draw(sizes, seed, *, wrong=0.3, ties=10**9):
    """Returns confidences, correctness and groups; errors get rarer with the confidence."""
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    confidence = np.ceil(rng.random(groups.size) * ties) / ties
    return confidence, rng.random(groups.size) >= 2 * wrong * (1 - confidence), groups


# The graphical procedure of Bretz et al. (2009) for any p-values, weights and transitions, as the
# paper gives it: one hypothesis is rejected at a time, and the graph is updated.


def graphical_procedure(p_values, weights, transitions, delta, rng):
    """Returns the rejected hypotheses, taken in a random order among those that can be rejected."""
    weights, graph = np.array(weights, float), np.array(transitions, float)
    open_nodes, rejected = set(range(len(p_values))), set()
    while True:
        ready = [j for j in open_nodes if p_values[j] <= weights[j] * delta * (1 + 1e-12)]
        if not ready:
            return rejected
        j = ready[rng.integers(len(ready))]
        rejected.add(j)
        open_nodes.remove(j)
        updated = np.zeros_like(graph)
        for left in open_nodes:
            weights[left] += weights[j] * graph[j, left]
            for right in open_nodes - {left}:
                rest = 1 - graph[left, j] * graph[j, left]
                if rest > 0:
                    updated[left, right] = (
                        graph[left, right] + graph[left, j] * graph[j, right]
                    ) / rest
        graph, weights[j] = updated, 0.0


def first_count(n, risk, level):
    """Returns where Learn then Test starts at this level, from its definition."""

    def least_passing(errors):
        passing = (k for k in range(30, n + 1) if stats.binom.cdf(errors, k, risk) <= level)
        return next(passing, n + 1)

    return max(least_passing(0), min(least_passing(10), n // 4))


def reference(confidence, correct, groups, risk, delta, rng):
    """Returns the number of accepted examples of each group, from a graph of all hypotheses."""
    members = {g: np.flatnonzero(groups == g) for g in np.unique(groups).tolist()}
    by_size = sorted(members, key=lambda g: -members[g].size)
    count = max(
        (
            j
            for j in range(1, len(by_size) + 1)
            if first_count(members[by_size[j - 1]].size, risk, delta / j)
            <= members[by_size[j - 1]].size
        ),
        default=0,
    )
    nodes, chains = [], {}
    for g in by_size[:count]:
        rows = members[g][np.argsort(-confidence[members[g]])]
        start = first_count(rows.size, risk, delta / count)
        chains[g] = []
        for k in range(start, rows.size + 1):
            if k == rows.size or confidence[rows[k - 1]] > confidence[rows[k]]:
                errors = int(np.sum(~correct[rows[:k]]))
                chains[g].append(len(nodes))
                nodes.append((g, k, stats.binom.cdf(errors, k, risk)))
    weights, graph = np.zeros(len(nodes)), np.zeros((len(nodes), len(nodes)))
    for g, chain in chains.items():
        weights[chain[0]] = 1 / count
        for left, right in itertools.pairwise(chain):
            graph[left, right] = 1
        for other in chains.keys() - {g}:
            graph[chain[-1], chains[other][0]] = 1 / (count - 1)
    rejected = graphical_procedure([p for *_, p in nodes], weights, graph, delta, rng)
    accepted = dict.fromkeys(members, 0)
    for j in rejected:
        g, k, _ = nodes[j]
        accepted[g] = max(accepted[g], k)
    return [accepted[g] for g in sorted(members)]


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(5, 70), min_size=1, max_size=4),
    seed=st.integers(0, 2**20),
    wrong=st.sampled_from([0.0, 0.05, 0.15]),
    ties=st.sampled_from([3, 20, 10**9]),
)
def test_thresholds_are_those_of_the_graphical_procedure(sizes, seed, wrong, ties):
    """Also if the level of a group whose sequence is exhausted passes on, in any order."""
    confidence, correct, groups = draw(sizes, seed, wrong=wrong, ties=ties)
    rule = classwise(confidence, correct, groups, risk=0.3, delta=0.2)
    rng = np.random.default_rng(seed)
    expected = reference(confidence, correct, groups, 0.3, 0.2, rng)
    assert rule.accepted.tolist() == expected
    assert rule.certified.tolist() == [count > 0 for count in expected]


def test_one_group_has_the_threshold_of_learn_then_test():
    for seed in range(5):
        confidence, correct, groups = draw([600], seed, wrong=0.1)
        expected = selective.learn_then_test(confidence, correct, risk=0.1, delta=0.05)
        rule = classwise(confidence, correct, groups, risk=0.1, delta=0.05)
        assert rule.threshold.tolist() == [expected.threshold] and rule.level == 0.05
        assert rule.accepted[0] == round(600 * expected.coverage)


def test_a_group_whose_threshold_is_minus_infinity_is_certified():
    confidence = np.r_[np.arange(200.0), np.full(10, -np.inf)]
    rule = classwise(confidence, np.ones(210, bool), np.zeros(210, int), risk=0.05, delta=0.05)
    assert rule.threshold.tolist() == [-np.inf] and rule.accepted.tolist() == [210]
    assert rule.certified.tolist() == [True]


def test_without_a_completed_group_the_level_is_that_of_bonferroni():
    confidence, correct, groups = draw([300, 400, 500], 0, wrong=0.25)
    rule = classwise(confidence, correct, groups, risk=0.1, delta=0.06)
    assert rule.level == 0.02 and (rule.accepted < rule.examples).all()
    for group in range(3):
        rows = groups == group
        alone = selective.learn_then_test(confidence[rows], correct[rows], risk=0.1, delta=0.02)
        assert rule.threshold[group] == alone.threshold


def test_completed_groups_pass_their_level_on_and_nothing_becomes_stricter():
    confidence, correct, groups = draw([400, 400, 400], 1, wrong=0.13)
    correct |= groups > 0
    rule = classwise(confidence, correct, groups, risk=0.1, delta=0.06)
    assert rule.accepted[1:].tolist() == [400, 400] and rule.level == 0.06
    difficult = groups == 0
    sample = confidence[difficult], correct[difficult]
    strict = selective.learn_then_test(*sample, risk=0.1, delta=0.02)
    assert rule.threshold[0] <= strict.threshold < np.inf


def test_groups_too_small_for_any_certificate_take_no_level_from_the_others():
    confidence, correct, groups = draw([400, 400], 2, wrong=0.15)
    alone = classwise(confidence, correct, groups, risk=0.1)
    tiny = 2 + np.arange(180) % 6  # six groups of 30: 0.9^30 = 0.042 > 0.05 / 8
    together = classwise(
        np.append(confidence, np.ones(180)),
        np.append(correct, np.ones(180, bool)),
        np.append(groups, tiny),
        risk=0.1,
    )
    assert together.threshold[:2].tolist() == alone.threshold.tolist()
    assert together.level == alone.level and not together.tested[2:].any()
    assert not together.certified[2:].any() and together.examples[2:].tolist() == [30] * 6


def test_result_depends_neither_on_the_order_nor_on_the_names_of_the_groups():
    confidence, correct, groups = draw([100, 200, 300], 3, wrong=0.1)
    rule = classwise(confidence, correct, groups, risk=0.2)
    order = np.random.default_rng(0).permutation(groups.size)
    names = np.array(["zebra", "ant", "Ölm"])[groups]
    renamed = classwise(confidence[order], correct[order], names[order], risk=0.2)
    assert renamed.groups.tolist() == ["ant", "zebra", "Ölm"]
    assert renamed.threshold.tolist() == rule.threshold[[1, 0, 2]].tolist()


def test_predictions_are_accepted_by_the_threshold_of_their_group():
    confidence, correct, groups = draw([200, 300], 4, wrong=0.1)
    rule = classwise(confidence, correct, groups, risk=0.2)
    new, of = np.random.default_rng(1).random(50), np.arange(50) % 3  # no group 2 in the sample
    expected = [g < 2 and c >= rule.threshold[g] for c, g in zip(new, of, strict=True)]
    assert rule.accepts(new, of).tolist() == expected
    assert rule.threshold_of([7, 1, -1]).tolist() == [math.inf, rule.threshold[1], math.inf]
    on_sample = rule.accepts(confidence, groups)
    for g in range(2):
        assert rule.accepted[g] == np.sum(on_sample & (groups == g))
        assert rule.errors[g] == np.sum(on_sample & (groups == g) & ~correct)


@pytest.mark.parametrize("risks", [(0.2, 0.2, 0.2), (0.2, 0.2, 0.0), (0.2, 0.05, 0.0)])
def test_probability_of_any_violation_is_at_most_delta_summed_exactly(risks):
    """Groups of one tie: each is accepted or not; a risk of 0.2 is just not allowed."""
    n, r, delta, most = 40, 0.2 - 1e-9, 0.05, 5

    def probability(errors, risk):  # `most` stands for all numbers from there on
        return (
            stats.binom.pmf(errors, n, risk) if errors < most else stats.binom.sf(most - 1, n, risk)
        )

    assert stats.binom.cdf(most, n, r) > delta  # such a group is accepted at no level
    total = 0.0
    for errors in itertools.product(range(most + 1), repeat=3):
        correct = np.concatenate([np.arange(n) >= count for count in errors])
        rule = classwise(np.ones(3 * n), correct, np.repeat(np.arange(3), n), risk=r, delta=delta)
        if any(rule.certified & (np.array(risks) > r)):
            total += math.prod(map(probability, errors, risks))
    assert 0.3 * delta < total <= delta


@pytest.mark.slow
def test_simulated_violations_are_at_most_delta_in_every_adversarial_setting():
    rows = simulation.simulate(300, 1)
    assert len(rows) >= 10 and not any(row.exceeds(3) for row in rows)
    uncorrected = next(row for row in rows if row.setting.endswith("each class at delta"))
    assert uncorrected.frequency > 0.1  # a certificate for each class alone is not enough


@pytest.mark.parametrize(
    ("changes", "error", "part"),
    [
        ({"groups": [0, 1]}, InputError, "groups of shape (2,): need (3,)"),
        ({"groups": [0.5, 1, 1]}, TypeError, "groups of dtype float64: need integers or strings"),
        ({"correct": [1, 2, 0]}, InputError, "correct must be boolean or 0 and 1"),
        ({"confidence": [1, math.nan, 0]}, InputError, "NaN"),
        ({"risk": 1.0}, InputError, "risk must lie in (0, 1)"),
        ({"delta": 0.0}, InputError, "delta must lie in (0, 1)"),
    ],
)
def test_invalid_input_raises_in_one_line(changes, error, part):
    valid = {"confidence": [1.0, 2.0, 3.0], "correct": [1, 1, 0], "groups": [0, 0, 1], "risk": 0.1}
    values = {**valid, **changes}
    with pytest.raises(error) as raised:
        classwise(**values)
    assert part in str(raised.value) and "\n" not in str(raised.value)


def test_groups_without_a_certified_threshold_accept_no_infinite_confidence_either():
    rule = classwise(np.arange(200.0), np.ones(200), np.repeat([0, 1], 100), risk=0.1)
    uncertified = classwise(np.arange(100.0), np.zeros(100), np.zeros(100, int), risk=0.05)
    assert rule.certified.all() and not uncertified.certified.any()
    assert rule.accepts([np.inf, np.inf, -np.inf], [0, 2, 0]).tolist() == [True, False, False]
    assert uncertified.accepts([np.inf, np.inf], [0, 1]).tolist() == [False, False]


@pytest.mark.parametrize(
    ("confidence", "groups", "error", "part"),
    [
        ([1.0, 2.0], [0], InputError, "groups of shape (1,): need (2,)"),
        ([[1.0]], [[0]], InputError, "confidence of shape (1, 1)"),
        ([math.nan], [0], InputError, "NaN"),
        ([1.0], ["0"], TypeError, "groups of dtype <U1: those of the sample have int64"),
        ([1.0], [0.0], TypeError, "groups of dtype float64"),
    ],
)
def test_predictions_that_do_not_fit_the_rule_are_refused(confidence, groups, error, part):
    rule = classwise(np.arange(100.0), np.ones(100), np.zeros(100, int), risk=0.1)
    with pytest.raises(error) as raised:
        rule.accepts(confidence, groups)
    assert part in str(raised.value)
