"""Scores, quantiles, sets and metrics against their equations, brute force and simulation."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import softmax

from kdjax import selective
from kdjax.errors import InputError
from kdjax.selective.set_scores import SET_METHODS

RULE = {"k_reg": 2, "penalty": 0.1}


def draw(n, classes=5, seed=0, scale=2.0):
    """Returns logits, and labels that are drawn from less confident probabilities."""
    rng = np.random.default_rng(seed)
    logits = scale * rng.normal(size=(n, classes))
    sums = softmax(0.7 * logits, axis=1).cumsum(axis=1)
    return logits, np.minimum((sums < rng.random((n, 1))).sum(axis=1), classes - 1)


def scores_of(method, logits, uniform=None):
    if method == "lac":
        return selective.lac(logits, abstention=False)
    if method == "aps":
        return selective.aps(logits, abstention=False, uniform=uniform)
    return selective.raps(logits, abstention=False, uniform=uniform, **RULE)


def message(call, *arguments, **options):
    with pytest.raises((InputError, TypeError)) as raised:
        call(*arguments, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# Scores


def test_lac_is_the_log_odds_against_each_class():
    logits, _ = draw(50)
    r = softmax(logits, axis=1)
    assert_allclose(selective.lac(logits, abstention=False), np.log((1 - r) / r), rtol=1e-9)


@pytest.mark.parametrize("u", [None, 0.3, 1.0])
def test_aps_and_raps_are_sums_of_probabilities_in_their_order(u):
    logits, _ = draw(40)
    uniform = None if u is None else np.full(40, u)
    aps = selective.aps(logits, abstention=False, uniform=uniform)
    raps = selective.raps(logits, abstention=False, uniform=uniform, **RULE)
    for i, r in enumerate(softmax(logits, axis=1)):
        for y in range(5):
            total = math.fsum(p for p in r if p >= r[y]) - (u or 0) * r[y]
            rank = sum(p >= r[y] for p in r)
            assert_allclose(aps[i, y] + 1, total, atol=1e-12)
            penalty = RULE["penalty"] * max(0, rank - RULE["k_reg"])
            assert_allclose(raps[i, y] + 1, total + penalty, atol=1e-12)


def test_raps_without_a_penalty_is_aps():
    logits, _ = draw(20)
    raps = selective.raps(logits, abstention=False, k_reg=3, penalty=0)
    assert_array_equal(raps, selective.aps(logits, abstention=False))


@pytest.mark.parametrize("method", SET_METHODS)
def test_scores_do_not_read_the_abstention_column(method):
    logits, _ = draw(30)
    padded = np.concatenate([logits, np.full((30, 1), 99.0)], axis=1)
    options = RULE if method == "raps" else {}
    score = getattr(selective, method)
    expected = score(logits, abstention=False, **options)
    assert_array_equal(score(padded, abstention=True, **options), expected)
    minus_infinity = np.concatenate([logits, np.full((30, 1), -np.inf)], axis=1)
    assert_array_equal(score(minus_infinity, abstention=True, **options), expected)


@pytest.mark.parametrize("method", SET_METHODS)
def test_scores_take_any_leading_dimensions_and_float_dtypes(method):
    logits = draw(12)[0].astype(np.float32)
    whole = scores_of(method, logits)
    assert whole.dtype == np.float64
    assert_allclose(scores_of(method, logits.reshape(3, 4, 5)).reshape(12, 5), whole)
    assert_allclose(scores_of(method, logits[0]), whole[0])


@pytest.mark.parametrize("method", SET_METHODS)
def test_confident_images_have_no_ties(method):
    # In float32 all of these probabilities are 1, in float64 those from 37 on.
    gaps = np.arange(20.0, 700.0, 5.0)
    logits = np.stack([gaps, np.zeros_like(gaps), np.full_like(gaps, -1.0)], axis=1)
    first = scores_of(method, logits)[:, 0]
    steps = np.diff(first)
    assert np.all(steps < 0) if method == "lac" else np.all(steps > 0)
    assert np.isfinite(scores_of(method, logits)).all()


def test_lac_is_finite_where_the_other_classes_underflow():
    scores = selective.lac(np.array([[800.0, 0.0, -50.0]]), abstention=False)
    assert_allclose(scores, [[np.log1p(np.exp(-50)) - 800, 800, 850]])


@pytest.mark.parametrize("method", SET_METHODS)
def test_more_probable_classes_have_lower_scores(method):
    logits, _ = draw(60, classes=7)
    order = np.argsort(-logits, axis=1)
    ordered = np.take_along_axis(scores_of(method, logits), order, axis=1)
    assert np.all(np.diff(ordered, axis=1) > 0)


# Quantile


def kth_smallest(values, alpha):
    """Returns the ceil((n + 1)(1 - alpha))-th smallest, counted with exact fractions."""
    rank = math.ceil((len(values) + 1) * (1 - Fraction(str(alpha))))
    return sorted(values)[rank - 1] if rank <= len(values) else math.inf


@given(st.lists(st.integers(-5, 5), max_size=40), st.sampled_from([0.05, 0.1, 0.2, 0.29, 0.5, 0.9]))
@settings(max_examples=100, deadline=None)
def test_quantile_is_that_of_exact_arithmetic(values, alpha):
    assert selective.set_quantile(np.array(values, float), alpha=alpha) == kth_smallest(
        values, alpha
    )


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.2, 0.01, 0.3])
def test_quantile_is_infinite_if_there_are_too_few_scores(alpha):
    needed = math.ceil(1 / Fraction(str(alpha)) - 1)
    assert selective.set_quantile(np.arange(needed - 1.0), alpha=alpha) == math.inf
    assert selective.set_quantile(np.arange(float(needed)), alpha=alpha) == needed - 1
    assert selective.set_quantile(np.arange(float(needed)), alpha=np.float32(alpha)) == needed - 1


def test_quantile_covers_each_of_n_plus_one_scores_as_often_as_promised():
    """Exchangeability: each of n + 1 scores is the new one once."""
    rng = np.random.default_rng(0)
    for n in (3, 9, 10, 19, 40):
        for values in (rng.normal(size=n + 1), np.round(rng.normal(size=n + 1))):
            for alpha in (0.1, 0.25, 0.5):
                others = (np.delete(values, i) for i in range(n + 1))
                covered = sum(
                    value <= selective.set_quantile(rest, alpha=alpha)
                    for value, rest in zip(values, others, strict=True)
                )
                assert covered >= (1 - alpha) * (n + 1) - 1e-9
                if len(set(values)) == n + 1:
                    assert covered <= (1 - alpha) * (n + 1) + 1


def test_class_quantiles_are_those_of_the_examples_of_each_class():
    logits, labels = draw(100, classes=3)
    scores = selective.lac(logits, abstention=False)
    labels[labels == 2] = 1
    labels[:4] = 2
    quantiles = selective.class_quantiles(scores, labels, alpha=0.1)
    for label in (0, 1):
        own = scores[labels == label, label]
        assert quantiles[label] == kth_smallest(own.tolist(), 0.1)
    assert quantiles[2] == math.inf


# Sets and metrics


def test_sets_hold_the_classes_up_to_the_quantile_and_those_to_include():
    scores = np.array([[0.1, 0.2, 0.3], [0.5, 0.4, 0.6], [0.9, 0.2, 0.1]])
    expected = [[True, True, False], [False, False, False], [False, True, True]]
    assert selective.prediction_sets(scores, 0.2).tolist() == expected
    by_class = selective.prediction_sets(scores, [0.1, 0.2, 0.6])
    assert by_class.tolist() == [[True, True, True], [False, False, True], [False, True, True]]
    by_image = selective.prediction_sets(scores, [[np.inf], [0.4], [-np.inf]])
    assert by_image.tolist() == [[True] * 3, [False, True, False], [False] * 3]
    included = selective.prediction_sets(scores, 0.2, include=[0, 1, 2])
    assert included.sum(axis=1).tolist() == [2, 1, 2]


def test_lac_sets_hold_the_classes_above_a_probability():
    logits, labels = draw(300)
    scores = selective.lac(logits, abstention=False)
    quantile = selective.set_quantile(selective.true_scores(scores, labels), alpha=0.1)
    least = selective.least_probability(quantile)
    r = softmax(logits, axis=1)
    assert_array_equal(selective.prediction_sets(scores, quantile), r >= least * (1 - 1e-12))
    assert selective.least_probability(math.inf) == 0


def test_metrics_are_counts_over_images():
    sets = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 1, 1]], bool)
    metrics = selective.set_metrics(sets, [0, 2, 0, 0])
    assert metrics.examples == 4 and metrics.coverage == 0.5 and metrics.mean_size == 1.5
    assert metrics.sizes.tolist() == [1, 1, 1, 1]
    assert metrics.class_examples.tolist() == [3, 0, 1]
    assert_allclose(metrics.class_coverage, [2 / 3, np.nan, 0])
    empty = selective.set_metrics(np.zeros((0, 3), bool), np.zeros(0, int))
    assert empty.examples == 0 and math.isnan(empty.coverage) and math.isnan(empty.mean_size)


@pytest.mark.parametrize("method", SET_METHODS)
@pytest.mark.parametrize("randomized", [False, True])
def test_coverage_is_at_least_that_promised_and_close_to_it_if_randomized(method, randomized):
    logits, labels = draw(60_000, classes=4, seed=1)
    rng = np.random.default_rng(2)
    uniform = rng.random(len(labels)) if randomized else None
    scores = scores_of(method, logits, uniform)
    own = selective.true_scores(scores, labels)
    # Each group of 60 is a calibration split of 59 and a new image.
    groups = own.reshape(-1, 60)
    covered = [row[-1] <= selective.set_quantile(row[:-1], alpha=0.2) for row in groups]
    error = math.sqrt(0.2 * 0.8 / len(groups))
    assert np.mean(covered) >= 0.8 - 3 * error
    if randomized or method == "lac":
        assert np.mean(covered) <= 0.8 + 1 / 60 + 3 * error


def test_class_quantiles_cover_each_class_where_one_quantile_does_not():
    rng = np.random.default_rng(0)
    n = 4000
    labels = rng.integers(2, size=2 * n)
    # Class 1 is often taken for class 0.
    logits = np.stack([np.zeros(2 * n), rng.normal(size=2 * n) + np.where(labels, 0, -3)], axis=1)
    scores = selective.lac(logits, abstention=False)
    first, second = slice(None, n), slice(n, None)
    own = selective.true_scores(scores[first], labels[first])
    pooled = selective.set_quantile(own, alpha=0.1)
    single = selective.class_quantiles(scores[first], labels[first], alpha=0.1)
    coverage = [
        selective.set_metrics(
            selective.prediction_sets(scores[second], quantile), labels[second]
        ).class_coverage
        for quantile in (pooled, single)
    ]
    assert coverage[0][1] < 0.85
    assert np.all(np.abs(coverage[1] - 0.9) < 0.03)


# Parameters of RAPS


def test_fitted_raps_takes_the_rank_quantile_and_the_penalty_of_the_smallest_sets():
    logits, labels = draw(400, classes=8, scale=1.5)
    k_reg, penalty = selective.fit_raps(logits, labels, alpha=0.1, abstention=False)
    ranks = [sum(row >= row[label]) for row, label in zip(logits, labels, strict=True)]
    assert k_reg == kth_smallest(ranks, 0.1)
    sizes = {}
    for candidate in (0.001, 0.01, 0.1, 0.2, 0.5):
        scores = selective.raps(logits, abstention=False, k_reg=k_reg, penalty=candidate)
        quantile = selective.set_quantile(selective.true_scores(scores, labels), alpha=0.1)
        sizes[candidate] = (scores <= quantile).sum(axis=1).mean()
    assert penalty == min(sizes, key=sizes.get)


def test_fitted_raps_with_too_few_examples_penalizes_no_class():
    logits, labels = draw(5)
    k_reg, penalty = selective.fit_raps(logits, labels, alpha=0.1, abstention=False)
    assert (k_reg, penalty) == (5, 0.001)


# Arguments


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda z: selective.lac(z), "abstention is None"),
        (lambda z: selective.lac(z[:, :1], abstention=False), "at least 2 classes"),
        (lambda z: selective.aps(z[:, :2], abstention=True), "at least 2 classes"),
        (lambda z: selective.lac(np.float64(1), abstention=False), "at least 2 classes"),
        (lambda z: selective.lac(z.astype(int), abstention=False), "need floats"),
        (lambda z: selective.lac(z * np.inf, abstention=False), "must be finite"),
        (lambda z: selective.aps(z, abstention=False, uniform=[0.5]), "one for each image"),
        (lambda z: selective.aps(z, abstention=False, uniform=[0.5, 1.5, 0]), "got 1.5"),
        (lambda z: selective.raps(z, abstention=False, k_reg=-1, penalty=0), "k_reg"),
        (lambda z: selective.raps(z, abstention=False, k_reg=1, penalty=-0.1), "got -0.1"),
        (lambda z: selective.raps(z, abstention=False, k_reg=1, penalty=np.nan), "got nan"),
        (lambda z: selective.set_quantile(z[0], alpha=0), "alpha must lie in (0, 1)"),
        (lambda z: selective.set_quantile(z, alpha=0.1), "need 1 dimension"),
        (lambda z: selective.set_quantile([np.nan], alpha=0.1), "must not be NaN"),
        (lambda z: selective.true_scores(z, [0, 1]), "labels of shape (2,)"),
        (lambda z: selective.true_scores(z, [0, 1, 9]), "labels must lie in 0..4"),
        (lambda z: selective.true_scores(z, [0.0, 1.0, 2.0]), "need integers"),
        (lambda z: selective.prediction_sets(z[0], 0.1), "need [n, m]"),
        (lambda z: selective.prediction_sets(z, np.nan), "quantile must not be NaN"),
        (lambda z: selective.prediction_sets(z, [0.1, 0.2]), "quantile of shape (2,)"),
        (lambda z: selective.prediction_sets(z, np.zeros((5, 1, 1))), "need (), (5,) or (3, 1)"),
        (
            lambda z: selective.fit_raps(z[0], [0], alpha=0.1, abstention=False),
            "logits of shape (5,)",
        ),
        (
            lambda z: selective.fit_raps(z[:0], [], alpha=0.1, abstention=False),
            "logits of shape (0, 5)",
        ),
        (lambda z: selective.set_metrics(z, [0, 1, 2]), "need bool [n, m]"),
        (lambda z: selective.SetRule("lca").sets(z), "lac"),
    ],
)
def test_invalid_arguments_raise_with_the_value_and_the_rule(call, part):
    assert part in message(call, draw(3)[0])
