"""The metrics against their definitions over every order of the ties, and against scikit-learn."""

import itertools
import subprocess
import sys
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics import roc_auc_score

from kdjax import selective
from kdjax.errors import InputError

COVERAGES = np.array([0.3, 0.5, 0.8, 1.0])
RISKS = np.array([0.0, 0.2, 0.25, 0.5, 1.0])
METRICS = {
    "aurc": selective.aurc,
    "e_aurc": selective.e_aurc,
    "augrc": selective.augrc,
    "auroc": selective.auroc,
    "fpr_at_tpr": partial(selective.fpr_at_tpr, tpr=0.6),
    "error_at_coverage": partial(selective.error_at_coverage, coverages=COVERAGES),
    "coverage_at_risk": partial(selective.coverage_at_risk, risks=RISKS),
}
tied_samples = st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=2, max_size=6)


# The metrics of one strict order, most confident first, from their definitions.


def risk(hits, k):
    return sum(not hit for hit in hits[:k]) / k


def aurc_of_order(hits):
    return np.mean([risk(hits, k) for k in range(1, len(hits) + 1)])


def e_aurc_of_order(hits):
    return aurc_of_order(hits) - aurc_of_order(sorted(hits, reverse=True))


def augrc_of_order(hits):
    n = len(hits)
    heights = [0, *(risk(hits, k) * k / n for k in range(1, n + 1))]
    return sum((a + b) / 2 for a, b in itertools.pairwise(heights)) / n


def auroc_of_order(hits):
    pairs = [first for first, second in itertools.combinations(hits, 2) if first != second]
    return np.mean(pairs) if pairs else np.nan


def fpr_of_order(hits):
    if all(hits) or not any(hits):
        return np.nan
    k = next(k for k in range(1, len(hits) + 1) if sum(hits[:k]) / sum(hits) >= 0.6)
    return (k - sum(hits[:k])) / (len(hits) - sum(hits))


def error_at_coverage_of_order(hits):
    return np.array([risk(hits, round(c * len(hits))) for c in COVERAGES])


OF_ORDER = {
    "aurc": aurc_of_order,
    "e_aurc": e_aurc_of_order,
    "augrc": augrc_of_order,
    "auroc": auroc_of_order,
    "fpr_at_tpr": fpr_of_order,
    "error_at_coverage": error_at_coverage_of_order,
}


def every_tie_order(confidence, correct):
    groups = [
        [hit for c, hit in zip(confidence, correct, strict=True) if c == value]
        for value in sorted(set(confidence), reverse=True)
    ]
    for parts in itertools.product(*map(itertools.permutations, groups)):
        yield [hit for part in parts for hit in part]


@pytest.mark.parametrize("name", OF_ORDER)
@settings(deadline=None, max_examples=30)
@given(rows=tied_samples)
def test_metrics_are_means_over_every_order_of_the_ties(name, rows):
    confidence, correct = zip(*rows, strict=True)
    orders = every_tie_order(confidence, correct)
    expected = np.mean([OF_ORDER[name](hits) for hits in orders], axis=0)
    assert_allclose(METRICS[name](confidence, correct), expected, rtol=0, atol=1e-12)


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(rows=tied_samples)
def test_curve_and_coverage_at_risk_follow_from_the_accepted_predictions(rows):
    confidence, correct = map(np.array, zip(*rows, strict=True))
    points = []
    for threshold in sorted(set(confidence), reverse=True):
        accepted = confidence >= threshold
        points.append((accepted.mean(), 1 - correct[accepted].mean(), threshold))
    curve = selective.risk_coverage_curve(confidence, correct)
    assert_allclose(np.stack(curve, axis=1), points, rtol=0, atol=1e-15)
    best = [max([c for c, r, _ in points if r <= bound + 1e-12], default=0) for bound in RISKS]
    assert_array_equal(selective.coverage_at_risk(confidence, correct, RISKS), best)


@pytest.mark.parametrize("name", METRICS)
@settings(deadline=None, max_examples=30)
@given(data=st.data(), rows=tied_samples)
def test_row_order_and_increasing_transforms_do_not_change_metrics(name, data, rows):
    confidence, correct = map(np.array, zip(*rows, strict=True))
    order = data.draw(st.permutations(range(len(rows))))
    transformed = np.exp(3 * confidence[order] - 1)
    assert_array_equal(
        METRICS[name](transformed, correct[order]), METRICS[name](confidence, correct)
    )


def large_sample(n, ties, seed=0):
    rng = np.random.default_rng(seed)
    confidence = np.round(rng.random(n) * ties) / ties
    return confidence, rng.random(n) < 0.4 + 0.5 * confidence


@pytest.mark.parametrize("ties", [3, 50, 10**9])
def test_auroc_equals_scikit_learn_and_gives_augrc_in_closed_form(ties):
    confidence, correct = large_sample(2000, ties)
    expected, accuracy = roc_auc_score(correct, confidence), correct.mean()
    assert_allclose(selective.auroc(confidence, correct), expected, rtol=0, atol=1e-9)
    augrc = (1 - expected) * accuracy * (1 - accuracy) + (1 - accuracy) ** 2 / 2
    assert_allclose(selective.augrc(confidence, correct), augrc, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("hits", "wrong"), [(1, 1), (7, 3), (3, 7), (90, 10)])
def test_perfect_worst_and_tied_rankings_equal_their_closed_forms(hits, wrong):
    n, error = hits + wrong, wrong / (hits + wrong)
    k = np.arange(1, n + 1)
    correct = k <= hits
    perfect = np.sum(np.maximum(0, k - hits) / k) / n
    worst = (wrong + wrong * np.sum(1 / k[wrong:])) / n
    for confidence, area, auroc, fpr in [
        (-k, perfect, 1, 0),
        (k, worst, 0, 1),
        (np.zeros(n), error, 0.5, np.ceil(0.95 * hits) / (hits + 1)),
    ]:
        assert_allclose(selective.aurc(confidence, correct), area, rtol=1e-12)
        assert_allclose(selective.auroc(confidence, correct), auroc)
        assert_allclose(selective.fpr_at_tpr(confidence, correct), fpr)
    assert selective.e_aurc(-k, correct) == 0
    assert selective.e_aurc(correct, correct) == 0


def test_aurc_of_a_perfect_ranking_approaches_its_large_sample_limit():
    n, error = 100_000, 0.2
    confidence = -np.arange(n)
    limit = error + (1 - error) * np.log(1 - error)
    area = selective.aurc(confidence, confidence > -(1 - error) * n)
    assert_allclose(area, limit, rtol=0, atol=2 / n)


@pytest.mark.parametrize("confidence", [[3.0], [1.0, 1.0, 2.0], [-np.inf, 0.0, np.inf]])
@pytest.mark.parametrize("hit", [True, False])
def test_all_correct_and_all_wrong_have_constant_risk_and_no_auroc(confidence, hit):
    correct, error = np.full(len(confidence), hit), float(not hit)
    assert selective.aurc(confidence, correct) == error
    assert selective.e_aurc(confidence, correct) == 0
    assert selective.augrc(confidence, correct) == error / 2
    assert np.isnan(selective.auroc(confidence, correct))
    assert np.isnan(selective.fpr_at_tpr(confidence, correct))
    assert_array_equal(selective.risk_coverage_curve(confidence, correct).risk, error)
    assert_array_equal(selective.coverage_at_risk(confidence, correct, [0, 1]), [hit, 1])


# Tie groups, most confident first: 4 correct; 4 with 2 wrong; 2 wrong.
TIED = (np.repeat([3.0, 2.0, 1.0], [4, 4, 2]), np.repeat([1, 0, 1, 0], [4, 2, 2, 2]))


@pytest.mark.parametrize(
    ("coverage", "error"),
    [(0.1, 0), (0.4, 0), (0.5, 0.5 / 5), (0.6, 1 / 6), (0.8, 2 / 8), (0.9, 3 / 9), (1, 0.4)],
)
def test_expected_errors_rise_linearly_within_a_tie_group(coverage, error):
    assert_allclose(selective.error_at_coverage(*TIED, coverage), error, rtol=1e-15)


@pytest.mark.parametrize(
    ("coverage", "size", "kept"),
    [
        (0.7, 45, 32),  # 31.5, but 0.7 * 45 < 31.5 in float64
        (0.35, 90, 32),  # 31.5
        (0.15, 30, 4),  # 4.5
        (0.55, 10, 6),  # 5.5, but 0.55 * 10 > 5.5
        (np.float32(0.7), 45, 32),
        (np.float16(0.9), 10, 9),
        (1, 7, 7),
    ],
)
def test_accepted_count_is_rounded_from_the_stated_decimal(coverage, size, kept):
    # Only the last of `kept` predictions is wrong.
    correct = np.arange(size) != kept - 1
    assert selective.error_at_coverage(-np.arange(size), correct, coverage) == 1 / kept
    correct = np.arange(size) != kept
    assert kept == size or selective.error_at_coverage(-np.arange(size), correct, coverage) == 0


def test_fractions_of_float32_are_the_decimals_that_were_stated():
    confidence = -np.arange(10)  # float32 0.1 > 0.1 would accept 2
    threshold = selective.threshold_at_coverage(confidence, coverage=np.float32(0.1))
    assert threshold == selective.threshold_at_coverage(confidence, coverage=0.1)


def test_coverage_at_risk_accepts_complete_tie_groups_only():
    coverages = selective.coverage_at_risk(*TIED, [[0.0, 0.2], [0.25, 1.0]])
    assert_array_equal(coverages, [[0.4, 0.4], [0.8, 1.0]])
    assert selective.coverage_at_risk([1.0, 1.0], [True, False], 0.49) == 0


def test_risks_of_float32_are_the_decimals_that_were_stated():
    correct = np.arange(100) != 99  # float32 0.01 < 0.01
    for risk in (np.float32(0.01), np.float16(0.01), jnp.float32(0.01)):
        assert selective.coverage_at_risk(-np.arange(100), correct, risk) == 1


@pytest.mark.parametrize(("count", "size"), [(19, 20), (7, 100), (55, 100), (110, 200)])
def test_fractions_are_compared_as_quotients(count, size):
    # 0.07 * 100 > 7 and 0.55 * 100 > 55 in float64: a product would accept one too many.
    confidence = -np.arange(size)
    threshold = selective.threshold_at_coverage(confidence, coverage=count / size)
    assert np.sum(confidence >= threshold) == count
    # One wrong prediction, just less confident than the correct ones that are needed.
    ranks, correct = np.append(confidence, 0.5 - count), np.arange(size + 1) < size
    assert selective.fpr_at_tpr(ranks, correct, tpr=count / size) == 0


@pytest.mark.parametrize(
    ("confidence", "coverage", "expected"),
    [([np.inf, np.inf, 1], 0.5, np.inf), ([np.inf] * 3, 1, np.inf), ([-np.inf] * 3, 1, -np.inf)],
)
def test_threshold_of_infinite_confidences_is_infinite_and_accepts_them(
    confidence, coverage, expected
):
    threshold = selective.threshold_at_coverage(confidence, coverage=coverage)
    assert threshold == expected
    assert selective.accept_at(confidence, [True] * 3, threshold)[0] >= coverage


@settings(deadline=None, max_examples=100)
@given(rows=tied_samples, coverage=st.floats(0.01, 1))
def test_threshold_at_coverage_accepts_the_least_that_is_enough(rows, coverage):
    confidence, correct = map(np.array, zip(*rows, strict=True))
    threshold = selective.threshold_at_coverage(confidence, coverage=coverage)
    covered, error = selective.accept_at(confidence, correct, threshold)
    accepted = confidence >= threshold
    assert covered == np.mean(accepted) >= coverage
    assert_allclose(error, selective.error_at_coverage(confidence, correct, covered), atol=1e-15)
    assert np.mean(confidence > confidence[accepted].min()) < coverage
    below = confidence[~accepted]
    if below.size and np.isfinite([below.max(), confidence[accepted].min()]).all():
        assert threshold == (below.max() + confidence[accepted].min()) / 2


def test_error_is_nan_if_nothing_is_accepted():
    covered, error = selective.accept_at([0.1, 0.2], [True, False], np.inf)
    assert covered == 0 and np.isnan(error)


def test_low_precision_jax_arrays_are_accepted():
    confidence = jnp.array([0.5, 0.25, 0.25, 0.1], jnp.bfloat16)
    assert selective.auroc(confidence, jnp.array([True, True, False, False])) == 0.875


@pytest.mark.parametrize("metric", [*METRICS.values(), selective.risk_coverage_curve])
@pytest.mark.parametrize(
    ("confidence", "correct", "message"),
    [
        ([], [], r"confidence of shape \(0,\)"),
        ([[0.1]], [[True]], r"confidence of shape \(1, 1\)"),
        ([0.1, 0.2], [True], r"correct of shape \(1,\).*\(2,\)"),
        ([0.1, np.nan], [True, False], "got nan"),
        ([0.1, 0.2], [1, 2], "boolean or 0 and 1: got 2"),
        ([0.1, 0.2], [1, np.nan], "boolean or 0 and 1: got nan"),
    ],
)
def test_a_bad_sample_raises_an_error_with_its_value(metric, confidence, correct, message):
    with pytest.raises(InputError, match=message):
        metric(confidence, correct)


@pytest.mark.parametrize("bad", [0.0, -0.1, 1.01, np.nan])
def test_a_fraction_out_of_range_raises_an_error_with_its_value(bad):
    with pytest.raises(InputError, match=rf"coverages .*\(0, 1\]: got {bad}"):
        selective.error_at_coverage(*TIED, [0.5, bad])
    with pytest.raises(InputError, match=rf"coverage .*\(0, 1\]: got {bad}"):
        selective.threshold_at_coverage(TIED[0], coverage=bad)
    with pytest.raises(InputError, match=rf"tpr .*\(0, 1\]: got {bad}"):
        selective.fpr_at_tpr(*TIED, tpr=bad)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: selective.coverage_at_risk(*TIED, [-0.1]), InputError, "got -0.1"),
        (lambda: selective.coverage_at_risk(*TIED, 1.5), InputError, "got 1.5"),
        (lambda: selective.error_at_coverage(*TIED, 0.04), InputError, "one of 10: got 0.04"),
        (lambda: selective.accept_at(*TIED, np.nan), InputError, "threshold must not be NaN"),
        (lambda: selective.accept_at(*TIED, [0.5, 0.9]), InputError, "threshold of shape"),
        (lambda: selective.fpr_at_tpr(*TIED, tpr=[0.5, 0.9]), InputError, "tpr of shape"),
        (
            lambda: selective.threshold_at_coverage(TIED[0], coverage=[0.5, 0.9]),
            InputError,
            "coverage of shape",
        ),
        (lambda: selective.aurc(["a"], [True]), TypeError, "confidence of dtype <U1"),
        (lambda: selective.aurc([1j], [True]), TypeError, "confidence of dtype complex128"),
        (lambda: selective.aurc([1.0], ["yes"]), TypeError, "correct of dtype <U3"),
    ],
)
def test_other_bad_arguments_raise_an_error_with_their_value(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.slow
def test_importing_the_package_does_not_import_scikit_learn():
    code = "import sys, kdjax.selective; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
