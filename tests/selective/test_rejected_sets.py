"""Sets of rejected images: each of n + 1 examples is the new one once, for any n + 1 examples.

This is the proof of the coverage, as a computation: if n + 1 examples are exchangeable, each is the
new one with the same probability. Whatever they are, the share of misses among the rejected ones
then must be at most alpha.
"""

import math

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy.stats import binom

from kdjax import selective
from kdjax.errors import InputError

ALPHA = 0.2


def leave_one_out(scores, confidence, correct, *, risk, delta, alpha, quantile=None):
    """Returns how many examples are rejected as the new one, missed, and of each outcome."""
    rejected = missed = 0
    outcomes = set()
    for new in range(len(scores)):
        rest = np.arange(len(scores)) != new
        sample = confidence[rest], correct[rest]
        threshold = selective.learn_then_test(*sample, risk=risk, delta=delta).threshold
        if confidence[new] >= threshold:
            continue
        found = selective.certified_rejected_quantile(
            scores[rest], *sample, risk=risk, delta=delta, alpha=alpha
        )
        in_set = scores[new] <= found.at(confidence[[new]])[0, 0] or correct[new]
        rejected += 1
        missed += not in_set
        outcomes.add("nothing" if math.isinf(threshold) else "some")
    return rejected, missed, outcomes


def adversarial(rng, *, levels, order):
    """Returns n + 1 examples whose scores are tied to errors, and a risk close to theirs."""
    n = int(rng.integers(31, 60))
    risk = float(rng.choice([0.1, 0.2, 0.3, 0.4]))
    confidence = rng.random(n + 1)
    if levels:
        confidence = np.floor(confidence * levels) / levels
    correct = rng.random(n + 1) >= risk * rng.choice([0.6, 0.9, 1.1])
    scores = np.round(rng.random(n + 1), int(rng.choice([1, 6])))
    if order == "errors high":
        scores = np.where(correct, scores / 2, 0.5 + scores / 2)
    elif order == "errors low":
        scores = np.where(correct, 0.5 + scores / 2, scores / 2)
    elif order == "confident errors low":
        scores = np.where(correct, 0, 1 - confidence + scores / 100)
    return scores, confidence, correct, risk


ORDERS = ("none", "errors high", "errors low", "confident errors low")


@pytest.mark.parametrize("levels", [0, 4, 40])
@pytest.mark.parametrize("order", ORDERS)
def test_misses_among_rejected_are_at_most_alpha_for_any_examples(levels, order):
    rng = np.random.default_rng((levels, ORDERS.index(order)))
    seen = set()
    for _ in range(10):
        *sample, risk = adversarial(rng, levels=levels, order=order)
        alpha = float(rng.choice([0.05, 0.1, 0.2, 0.4]))
        delta = float(rng.choice([0.2, 0.5, 0.7]))
        rejected, missed, outcomes = leave_one_out(*sample, risk=risk, delta=delta, alpha=alpha)
        assert missed <= alpha * rejected + 1e-9
        seen |= outcomes
    assert "nothing" in seen and (levels == 4 or "some" in seen)


def first_tested(n, risk, delta):
    """Returns the number of examples of the first test, and the least errors that fail it."""
    counts = np.arange(30, n + 1)
    ends = [30 + int(np.sum(binom.cdf(errors, counts, risk) > delta)) for errors in (0, 10)]
    first = max(ends[0], min(ends[1], n // 4))
    return first, int(np.argmax(binom.cdf(np.arange(first + 1), first, risk) > delta))


def borderline(rng):
    """Returns n + 1 examples whose first test fails or passes by one error, often at a tie."""
    n, delta = int(rng.integers(36, 60)), float(rng.choice([0.5, 0.7]))
    risk = float(rng.choice([0.3, 0.4]))
    first, failing = first_tested(n, risk, delta)
    confidence = np.sort(rng.random(n + 1))[::-1]
    if rng.random() < 0.6:
        size, shift = int(rng.choice([2, 3])), int(rng.integers(3))
        confidence = confidence[np.minimum((np.arange(n + 1) + shift) // size * size, n)]
    correct = rng.random(n + 1) < rng.choice([0, 0.2])
    correct[:first] = True
    correct[rng.choice(first, failing + int(rng.integers(-1, 2)), replace=False)] = False
    correct[first : first + 2] = rng.random(len(correct[first : first + 2])) < 0.5
    scores = np.where(correct, 0.01, 1) * rng.random(n + 1)
    if rng.random() < 0.5:
        scores[:first] *= 0.01
    return (scores, confidence, correct), risk, delta


@pytest.mark.slow
def test_misses_are_at_most_alpha_where_one_error_decides_whether_anything_is_certified():
    rng = np.random.default_rng(240)
    for _ in range(30):
        sample, risk, delta = borderline(rng)
        alpha = float(rng.choice([0.2, 0.3, 0.4]))
        rejected, missed, _ = leave_one_out(*sample, risk=risk, delta=delta, alpha=alpha)
        assert missed <= alpha * rejected + 1e-9


def loosest_or_both(confidence, correct, *, risk, coverage, delta):
    """Returns the threshold for a risk and a coverage if there is one, else that for the risk."""
    both = selective.joint_certificate(
        confidence, correct, risk=risk, coverage=coverage, delta=delta
    ).threshold
    if math.isfinite(both):
        return both, (delta / 3,)
    threshold = selective.learn_then_test(confidence, correct, risk=risk, delta=delta).threshold
    return threshold, (delta, delta / 3)


@pytest.mark.slow
def test_misses_are_at_most_alpha_for_a_threshold_chosen_from_two_tests():
    rng = np.random.default_rng(7)
    used = set()
    for _ in range(25):
        (scores, confidence, correct), risk, delta = borderline(rng)
        correct |= rng.random(len(correct)) < rng.choice([0, 0.5])
        rejected = missed = 0
        for new in range(len(scores)):
            rest = np.arange(len(scores)) != new
            sample = confidence[rest], correct[rest]
            threshold, (level, *others) = loosest_or_both(
                *sample, risk=risk, coverage=0.4, delta=delta
            )
            if confidence[new] >= threshold:
                continue
            found = selective.certified_rejected_quantile(
                scores[rest], *sample, risk=risk, delta=level, alpha=0.3, also_tested=others
            )
            rejected += 1
            missed += scores[new] > found.at(confidence[[new]])[0, 0] and not correct[new]
            used.add((math.isfinite(threshold), len(others)))
        assert missed <= 0.3 * rejected + 1e-9
    assert used == {(True, 0), (True, 1), (False, 1)}


def test_nothing_is_rejected_if_everything_is_certified_down_to_minus_infinity():
    confidence = np.r_[np.arange(200.0), np.full(10, -np.inf)]
    scores = np.arange(210.0)
    options = {"risk": 0.05, "delta": 0.05, "alpha": ALPHA}
    found, finite = (
        selective.certified_rejected_quantile(scores, each, np.ones(210, bool), **options)
        for each in (confidence, np.maximum(confidence, -1))
    )
    assert found == finite


def test_another_test_that_looked_further_down_leaves_fewer_examples():
    confidence, correct = one_failure()
    scores, options = np.arange(60.0), {"risk": 0.1, "alpha": ALPHA}
    strict, loose = (
        selective.certified_rejected_quantile(scores, confidence, correct, delta=delta, **options)
        for delta in (0.2, 0.6)
    )
    assert loose.below < strict.below
    for level, other in ((0.2, 0.6), (0.6, 0.2)):
        found = selective.certified_rejected_quantile(
            scores, confidence, correct, delta=level, also_tested=(other,), **options
        )
        assert found == loose


def one_failure(n=60, errors=20):
    """Returns examples of which the most confident are right, then some wrong, then half."""
    confidence = np.linspace(1, 0, n)
    correct = np.arange(n) % 2 == 0
    correct[: n - errors] = True
    return confidence, correct


def test_examples_from_the_first_failure_up_are_not_used():
    confidence, correct = one_failure()
    scores = np.arange(60.0)
    options = {"risk": 0.1, "delta": 0.3}
    threshold = selective.learn_then_test(confidence, correct, **options).threshold
    found = selective.certified_rejected_quantile(
        scores, confidence, correct, **options, alpha=ALPHA
    )
    below = confidence[confidence < threshold]
    assert not correct[confidence == below.max()].any()
    assert found.below == below.max() and found.examples == below.size - 1
    used = scores[confidence < found.below]
    assert found.quantile == selective.set_quantile(used, alpha=ALPHA)
    above = found.at([found.below, np.nextafter(found.below, 0), threshold])
    assert_array_equal(above, [[np.inf], [found.quantile], [np.inf]])


def test_too_few_examples_to_test_a_threshold_are_all_used():
    rng = np.random.default_rng(0)
    scores, confidence = rng.random((2, 100))
    found = selective.certified_rejected_quantile(
        scores, confidence, np.ones(100, bool), risk=0.01, delta=0.05, alpha=ALPHA
    )
    expected = selective.set_quantile(scores, alpha=ALPHA)
    assert found == (expected, math.inf, 100)


def test_failed_first_test_leaves_out_the_errors_that_raise_the_quantile_most():
    rng = np.random.default_rng(1)
    scores, confidence = rng.random((2, 200))
    correct = rng.random(200) < 0.5
    found = selective.certified_rejected_quantile(
        scores, confidence, correct, risk=0.2, delta=0.05, alpha=ALPHA
    )
    assert found.below == math.inf and found.examples == 200
    # The first test is of a quarter of all examples.
    tested = np.argsort(-confidence)[:50]
    lowest = sorted((i for i in tested if not correct[i]), key=scores.item)
    candidates = [
        selective.set_quantile(np.delete(scores, lowest[:k]), alpha=ALPHA)
        for k in range(len(lowest) + 1)
    ]
    assert found.quantile == max(candidates)
    assert found.quantile >= selective.set_quantile(scores, alpha=ALPHA)


def test_ties_at_a_failed_first_test_leave_only_what_lies_below():
    confidence = np.repeat([0.9, 0.1], [80, 40])
    scores = np.arange(120.0)
    correct = np.arange(120) % 2 == 0
    found = selective.certified_rejected_quantile(
        scores, confidence, correct, risk=0.1, delta=0.05, alpha=ALPHA
    )
    assert found.below == 0.9 and found.examples == 40
    assert found.quantile == selective.set_quantile(scores[80:], alpha=ALPHA)


def test_all_accepted_leaves_nothing_for_a_quantile():
    confidence = np.linspace(0, 1, 100)
    found = selective.certified_rejected_quantile(
        np.zeros(100), confidence, np.ones(100, bool), risk=0.1, delta=0.05, alpha=ALPHA
    )
    assert found == (math.inf, -math.inf, 0)


def test_fixed_threshold_uses_the_rejected_examples():
    rng = np.random.default_rng(0)
    scores, confidence = rng.random((2, 300))
    found = selective.rejected_quantile(scores, confidence, threshold=0.3, alpha=ALPHA)
    expected = selective.set_quantile(scores[confidence < 0.3], alpha=ALPHA)
    assert found == (expected, 0.3, np.sum(confidence < 0.3))
    every = selective.rejected_quantile(scores, confidence, threshold=math.inf, alpha=ALPHA)
    assert every == (selective.set_quantile(scores, alpha=ALPHA), math.inf, 300)


def test_fixed_threshold_misses_at_most_alpha_of_rejected():
    rng = np.random.default_rng(3)
    for _ in range(30):
        scores, confidence = np.round(rng.random((2, 40)), 1)
        rejected = missed = 0
        for new in range(40):
            rest = np.arange(40) != new
            found = selective.rejected_quantile(
                scores[rest], confidence[rest], threshold=0.6, alpha=ALPHA
            )
            rejected += confidence[new] < 0.6
            missed += confidence[new] < 0.6 and scores[new] > found.quantile
        assert missed <= ALPHA * rejected + 1e-9


def test_quantile_of_all_images_misses_too_many_of_the_rejected():
    """What the conditional quantile is for."""
    rng = np.random.default_rng(0)
    confidence = rng.random(20_000)
    # The less confident, the more unusual is the true class.
    scores = rng.random(20_000) + 1 - confidence
    rejected = confidence < 0.2
    marginal = selective.set_quantile(scores[:10_000], alpha=0.1)
    conditional = selective.rejected_quantile(
        scores[:10_000], confidence[:10_000], threshold=0.2, alpha=0.1
    ).quantile
    new = scores[10_000:][rejected[10_000:]]
    assert np.mean(new <= marginal) < 0.75
    assert abs(np.mean(new <= conditional) - 0.9) < 0.02


def test_invalid_samples_raise():
    good = np.linspace(0, 1, 50)
    certificate = {"risk": 0.1, "delta": 0.05, "alpha": 0.1}
    with pytest.raises(InputError, match=r"scores of shape \(49,\)"):
        selective.rejected_quantile(good[1:], good, threshold=0.5, alpha=0.1)
    with pytest.raises(InputError, match="must be boolean"):
        selective.certified_rejected_quantile(good, good, good, **certificate)
    for name in certificate:
        with pytest.raises(InputError, match=name):
            selective.certified_rejected_quantile(
                good, good, good > 0.5, **{**certificate, name: 0.0}
            )


# The stored rule


VALUES = {
    "method": "lac",
    "k_reg": None,
    "penalty": None,
    "rejected": {"quantile": 0.5, "below": 0.3, "examples": 40},
}


def test_stored_rule_gives_the_sets_of_its_quantile():
    logits = np.random.default_rng(0).normal(size=(40, 4))
    confidence = np.linspace(0, 0.6, 40)
    sets = selective.set_rule(VALUES).sets(logits, confidence)
    expected = selective.lac(logits, abstention=False) <= 0.5
    expected[np.arange(40), logits.argmax(axis=1)] = True
    assert_array_equal(sets[confidence < 0.3], expected[confidence < 0.3])
    assert sets[confidence >= 0.3].all()
    assert_array_equal(selective.set_rule(VALUES).sets(logits), expected)


def test_stored_rule_without_a_quantile_puts_all_classes_in_a_set():
    values = {**VALUES, "rejected": {"quantile": None, "below": None, "examples": 3}}
    assert selective.set_rule(values).sets(np.random.default_rng(0).normal(size=(5, 3))).all()


@pytest.mark.parametrize(
    ("method", "options"), [("aps", {}), ("raps", {"k_reg": 2, "penalty": 0.1})]
)
def test_stored_rule_of_each_method_uses_its_scores(method, options):
    logits = np.random.default_rng(0).normal(size=(9, 4))
    rule = selective.set_rule({**VALUES, "method": method, **options})
    expected = getattr(selective, method)(logits, abstention=False, **options)
    assert_array_equal(rule.scores(logits), expected)


@pytest.mark.parametrize(
    ("threshold", "message"), [(np.nan, "threshold must not be NaN"), ([0.1], "need a number")]
)
def test_a_threshold_that_is_no_number_is_refused(threshold, message):
    with pytest.raises(InputError, match=message):
        selective.rejected_quantile([0.5], [0.5], threshold=threshold, alpha=0.1)
