"""Cascades against their definition, exact binomial tails of scipy.stats, and simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from experiments.guarantees import cascade as simulation
from kdjax import selective
from kdjax.errors import InputError
from kdjax.selective import cascade

SIZE, GRID = 600, (math.inf, 0.9, 0.6, 0.3, 0.1, cascade.LOWEST)


def sample(seed=0, n=SIZE, student=0.2, fallback=0.03, levels=10**9):
    """Returns confidences, and whether student and fallback are correct; the risks are means."""
    rng = np.random.default_rng(seed)
    confidence = np.floor(rng.random(n) * levels) / levels
    return confidence, rng.random(n) < 1 - 2 * student * (1 - confidence), rng.random(n) > fallback


def answers(confidence, correct, fallback_correct, threshold):
    """Returns whether each answer of the whole is correct, one example after the other."""
    rows = zip(confidence, correct, fallback_correct, strict=True)
    return [student if c >= threshold else fallback for c, student, fallback in rows]


def upper_bound(errors, n, delta):
    return stats.beta.ppf(1 - delta, errors + 1, n - errors) if errors < n else 1.0


def error_message(call, *arguments, **options):
    with pytest.raises(InputError) as raised:
        call(*arguments, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# Counts and bounds at fixed thresholds


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.booleans()), min_size=1, max_size=12),
    st.sampled_from([math.inf, 5, 4, 2.5, 2, 0, -1, cascade.LOWEST]),
)
def test_each_answer_comes_from_the_student_from_the_threshold_on(rows, threshold):
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    (point,) = selective.cascade_bounds(
        *columns, thresholds=[threshold], student_cost=2, fallback_cost=10
    )
    right, passed_on = answers(*columns, threshold), np.mean(columns[0] < threshold)
    errors, n = len(right) - sum(right), len(right)
    assert (point.errors, point.risk, point.answered) == (errors, errors / n, 1)
    assert_allclose([point.passed_on, point.cost], [passed_on, 2 + 10 * passed_on])
    assert_allclose(point.risk_bound, upper_bound(errors, n, 0.05), rtol=1e-9)


def test_bounds_of_several_thresholds_share_delta():
    points = selective.cascade_bounds(*sample(), thresholds=GRID, delta=0.1)
    assert [point.threshold for point in points] == list(GRID)
    for point in points:
        assert_allclose(point.risk_bound, upper_bound(point.errors, SIZE, 0.1 / 6), rtol=1e-9)


def test_ends_are_the_fallback_alone_and_the_student_alone():
    confidence, correct, fallback = sample()
    first, *_, last = selective.cascade_bounds(confidence, correct, fallback, thresholds=GRID)
    assert (first.errors, first.passed_on) == (np.sum(~fallback), 1)
    assert (last.errors, last.passed_on) == (np.sum(~correct), 0)


def test_with_a_fallback_that_abstains_the_risk_is_that_of_the_answers():
    confidence, correct, fallback = sample()
    accepted = np.random.default_rng(1).random(SIZE) < 0.7
    (point,) = selective.cascade_bounds(
        confidence, correct, fallback, thresholds=[0.5], fallback_accepted=accepted
    )
    by_student = confidence >= 0.5
    answered = by_student | accepted
    errors = np.sum(~np.where(by_student, correct, fallback) & answered)
    assert (point.errors, point.answered) == (errors, answered.mean())
    assert point.risk == errors / answered.sum()
    assert_allclose(point.risk_bound, upper_bound(errors, answered.sum(), 0.05), rtol=1e-9)


def test_without_any_answer_nothing_is_known():
    confidence, correct, fallback = sample()
    options = {"thresholds": [math.inf], "fallback_accepted": np.zeros(SIZE)}
    (point,) = selective.cascade_bounds(confidence, correct, fallback, **options)
    assert (point.answered, point.errors, point.risk_bound) == (0, 0, 1)
    assert math.isnan(point.risk)
    result = selective.cascade_certificate(confidence, correct, fallback, risk=0.5, **options)
    assert (result.point, result.reason) == (None, cascade.FEW_EXAMPLES)


# The certificate


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("levels", "abstains"), [(10**9, False), (4, False), (10**9, True)])
def test_thresholds_are_certified_in_their_order_up_to_the_first_that_fails(seed, levels, abstains):
    columns = sample(seed, levels=levels)
    accepted = np.random.default_rng(seed).random(SIZE) < (0.8 if abstains else 1.1)
    options = {"fallback_accepted": accepted} if abstains else {}
    expected = None
    for threshold in GRID:
        right = np.array(answers(*columns, threshold))[(columns[0] >= threshold) | accepted]
        if stats.binom.cdf(np.sum(~right), right.size, 0.08) > 0.05:
            break
        expected = threshold
    point = selective.cascade_certificate(*columns, thresholds=GRID, risk=0.08, **options).point
    assert (point and point.threshold) == expected
    assert point is None or point.risk_bound == 0.08


def test_the_certified_threshold_with_the_least_cost_is_returned():
    columns = sample(student=0.1)
    result = selective.cascade_certificate(
        *columns, thresholds=GRID, risk=0.08, student_cost=3, fallback_cost=100
    )
    bounds = selective.cascade_bounds(*columns, thresholds=GRID, student_cost=3, fallback_cost=100)
    assert result.reason == ""
    assert result.point.cost == 3 + 100 * result.point.passed_on
    stricter = [point for point in bounds if point.threshold >= result.point.threshold]
    assert result.point.cost == min(point.cost for point in stricter)


def test_fallback_that_errs_too_often_certifies_nothing():
    confidence, correct, fallback = sample(fallback=0.15)
    result = selective.cascade_certificate(confidence, correct, fallback, thresholds=GRID, risk=0.1)
    assert (result.point, result.reason) == (None, cascade.TOO_MANY_ERRORS)
    assert (result.first.threshold, result.first.errors) == (math.inf, np.sum(~fallback))
    assert_allclose(result.first.risk_bound, upper_bound(np.sum(~fallback), SIZE, 0.05), rtol=1e-9)


@pytest.mark.parametrize(("n", "reason"), [(58, cascade.FEW_EXAMPLES), (59, "")])
def test_too_few_examples_are_told_from_too_many_errors(n, reason):
    # 0.95^58 = 0.051, 0.95^59 = 0.0485
    columns = np.arange(n), np.ones(n), np.ones(n)
    result = selective.cascade_certificate(*columns, thresholds=[math.inf], risk=0.05)
    assert (result.reason, result.point is None) == (reason, bool(reason))


def test_starting_at_the_best_threshold_certifies_where_the_fallback_is_worse():
    dev, columns = (sample(seed, student=0.05, fallback=0.3) for seed in (1, 2))
    best = selective.cascade_start(*dev, thresholds=GRID)
    errors = [len(dev[0]) - sum(answers(*dev, threshold)) for threshold in GRID]
    assert best == GRID[int(np.argmin(errors))]
    assert selective.cascade_certificate(*columns, thresholds=GRID, risk=0.1).point is None
    rest = [threshold for threshold in GRID if threshold <= best]
    assert selective.cascade_certificate(*columns, thresholds=rest, risk=0.1).point is not None


# Thresholds


@pytest.mark.parametrize("levels", [1, 2, 7, 10**9])
@pytest.mark.parametrize("count", [1, 4, 100])
def test_thresholds_divide_a_sample_evenly_as_far_as_ties_allow(levels, count):
    confidence = sample(levels=levels, n=400)[0]
    thresholds = selective.cascade_thresholds(confidence, count=count)
    shares = [np.mean(confidence < threshold) for threshold in thresholds]
    assert (thresholds[0], thresholds[-1]) == (math.inf, cascade.LOWEST)
    assert np.all(np.diff(thresholds) < 0)
    assert len(thresholds) <= count + 1
    assert not np.isin(thresholds, confidence).any()
    if levels > 400:
        assert_allclose(shares, np.arange(count, -1, -1) / count, atol=1e-12)


# The bound for all thresholds at once


@pytest.mark.parametrize("threshold", [math.inf, 0.95, 0.45, 0.11, -1, cascade.LOWEST])
def test_bound_anywhere_counts_the_errors_of_both_within_the_interval(threshold):
    confidence, correct, fallback = columns = sample(levels=50)
    high, low = next(pair for pair in itertools.pairwise(GRID) if pair[1] <= threshold <= pair[0])
    point = selective.cascade_bound_anywhere(*columns, threshold=threshold, thresholds=GRID)
    errors = 0
    for c, student, other in zip(confidence, correct, fallback, strict=True):
        if c >= high:
            errors += not student
        elif c < low:
            errors += not other
        else:
            errors += not (student and other)
    assert_allclose(point.risk_bound, upper_bound(errors, SIZE, 0.05 / 5), rtol=1e-9)
    (fixed,) = selective.cascade_bounds(*columns, thresholds=[threshold])
    assert point.risk_bound > fixed.risk_bound
    assert point._replace(risk_bound=0) == fixed._replace(risk_bound=0)


# What is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"risk": 0}, "risk must lie in (0, 1): got 0.0"),
        ({"delta": 1}, "delta must lie in (0, 1): got 1.0"),
        ({"thresholds": [0.5, 0.5]}, "thresholds must decrease: got 0.5"),
        ({"thresholds": [0.5, math.nan]}, "thresholds must not be NaN: got nan"),
        ({"thresholds": []}, "thresholds of shape (0,): need 1 dimension(s), none empty"),
        ({"student_cost": -1}, "student_cost -1: must be at least 0"),
        ({"fallback_cost": math.inf}, "fallback_cost inf: must be at least 0"),
        ({"fallback_accepted": [1]}, f"fallback_accepted of shape (1,): need ({SIZE},)"),
        ({"fallback_correct": [1]}, f"fallback_correct of shape (1,): need ({SIZE},)"),
        ({"fallback_correct": [2] * SIZE}, "fallback_correct must be boolean or 0 and 1: got 2.0"),
    ],
)
def test_invalid_arguments_are_refused_in_one_line(changes, message):
    names = ("confidence", "correct", "fallback_correct")
    options = dict(zip(names, sample(), strict=True)) | {"thresholds": GRID, "risk": 0.1}
    assert error_message(selective.cascade_certificate, **options | changes) == message


def test_threshold_outside_the_given_ones_is_refused():
    message = error_message(
        selective.cascade_bound_anywhere, *sample(), threshold=0.95, thresholds=[0.9, 0.1]
    )
    assert message == "threshold 0.95: must lie between two of the given thresholds"
    with pytest.raises(InputError, match="must be below infinity: got inf"):
        selective.cascade_thresholds([1, math.inf])


@pytest.mark.parametrize(
    "function", [selective.cascade_certificate, selective.cascade_bounds, selective.cascade_start]
)
def test_an_infinite_confidence_is_refused_because_an_infinite_threshold_answers_nothing(function):
    confidence, correct, fallback_correct = sample()
    options = {"risk": 0.1} if function is selective.cascade_certificate else {}
    with pytest.raises(InputError, match="confidence must be below infinity: got inf"):
        function(
            np.append(confidence[1:], np.inf), correct, fallback_correct, thresholds=GRID, **options
        )


# Simulation


@pytest.mark.slow
def test_statements_fail_at_most_as_often_as_delta_allows():
    rows = simulation.simulate(draws=200, seed=0)
    assert [row.setting for row in rows if row.exceeds(standard_errors=3)] == []


def test_true_risk_of_the_simulated_populations_is_that_of_a_large_sample():
    rng = np.random.default_rng(0)
    for population in simulation.POPULATIONS.values():
        draws = [population.draw(rng) for _ in range(50)]
        confidence, *correct = (np.concatenate(column) for column in zip(*draws, strict=True))
        threshold = population.student.size / 3
        measured = 1 - np.mean(answers(confidence, *correct, threshold))
        assert_allclose(measured, population.risk(threshold), atol=0.012)


def test_thresholds_of_another_sample_are_the_same_array():
    confidence = sample()[0]
    assert_array_equal(
        selective.cascade_thresholds(confidence), selective.cascade_thresholds(confidence[::-1])
    )


@pytest.mark.parametrize(
    ("threshold", "text"),
    [(None, "none"), (math.inf, "none"), (cascade.LOWEST, "all"), (0.53904837, "0.539048")],
)
def test_thresholds_are_shown_with_six_digits_or_by_who_answers(threshold, text):
    assert cascade.threshold_text(threshold) == text
