"""kdjax.selective.outliers against closed forms, brute force and float64 equations."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis as scipy_mahalanobis
from scipy.stats import beta, betabinom, binom, rankdata

from kdjax.errors import InputError
from kdjax.selective import outliers

CLASSES = 4


def features(n: int = 300, size: int = 6, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features with class means, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n)
    mixing, means = rng.normal(size=(size, size)), 3 * rng.normal(size=(CLASSES, size))
    return rng.normal(size=(n, size)) @ mixing + means[labels] + 50, labels


def within_covariance(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    residuals = np.concatenate(
        [values[labels == c] - values[labels == c].mean(axis=0) for c in np.unique(labels)]
    )
    return residuals.T @ residuals / len(values)


@pytest.mark.parametrize("n", [58, 59, 93, 100, 500, 2000])
@pytest.mark.parametrize(("acceptance", "delta"), [(0.95, 0.05), (0.9, 0.1), (0.99, 0.3)])
def test_tolerance_limit_is_the_strictest_order_statistic_with_its_probability(
    n, acceptance, delta
):
    scores = np.random.default_rng(n).permutation(n).astype(float)
    # The share that passes the k-th smallest of n is 1 - Beta(k, n - k + 1).
    sure = [beta.cdf(1 - acceptance, k, n - k + 1) >= 1 - delta for k in range(1, n + 1)]
    threshold = outliers.acceptance_threshold(scores, acceptance=acceptance, delta=delta)
    if not any(sure):
        assert threshold is None
        return
    rank = max(k for k, is_sure in enumerate(sure, start=1) if is_sure)
    assert np.sum(scores >= threshold) == n - rank + 1
    assert rank == 1 or threshold == rank - 1.5


def test_few_images_have_no_tolerance_limit_as_their_number_says():
    for acceptance, delta in ((0.95, 0.05), (0.8, 0.01), (0.5, 0.5)):
        least = outliers.least_examples(acceptance, delta)
        assert acceptance**least <= delta < acceptance ** (least - 1)
        options = {"acceptance": acceptance, "delta": delta}
        assert outliers.acceptance_threshold(np.arange(least), **options) is not None
        if least > 1:
            assert outliers.acceptance_threshold(np.arange(least - 1), **options) is None


def test_tied_scores_pass_together():
    scores = np.repeat([1.0, 2.0, 3.0], [1, 30, 200])
    # 6 of 231 may be stopped, but the 30 at 2 are equal.
    threshold = outliers.acceptance_threshold(scores, acceptance=0.95)
    assert threshold == 1.5
    assert outliers.acceptance_threshold(np.ones(300), acceptance=0.95) < 1


@pytest.mark.parametrize(("n", "other"), [(180, 180), (500, 200), (200, 800)])
def test_threshold_to_certify_is_the_strictest_that_is_probably_certified(n, other):
    acceptance, delta, power = 0.9, 0.05, 0.9
    may_stop = max(f for f in range(other) if binom.cdf(f, other, 1 - acceptance) <= delta)
    # Of N new scores the number below the k-th smallest of n is beta-binomial.
    likely = [k for k in range(1, n + 1) if betabinom.cdf(may_stop, other, k, n - k + 1) >= power]
    threshold = outliers.threshold_to_certify(
        np.arange(n), acceptance=acceptance, examples=other, delta=delta, power=power
    )
    assert np.sum(np.arange(n) >= threshold) == n - max(likely) + 1


def test_threshold_to_certify_needs_enough_images_of_both_samples():
    assert outliers.threshold_to_certify(range(500), acceptance=0.95, examples=58) is None
    assert outliers.threshold_to_certify(range(20), acceptance=0.95, examples=60) is None
    assert outliers.threshold_to_certify(range(500), acceptance=0.95, examples=100) is not None


def test_certified_share_is_the_bound_of_clopper_and_pearson():
    passed = np.arange(200) >= 7
    found = outliers.acceptance_bound(passed, delta=0.1)
    assert found[:2] == (200, 193)
    assert found.bound == pytest.approx(beta.ppf(0.1, 193, 8), rel=1e-12)
    assert outliers.acceptance_bound(np.zeros(9), delta=0.1).bound == 0


def test_separation_is_the_rank_statistic_and_the_share_above_a_quantile():
    rng = np.random.default_rng(1)
    inside, outside = rng.normal(size=400), np.round(rng.normal(-1, 1, 300), 1)
    found = outliers.separation(inside, outside)
    ranks = rankdata(np.concatenate([inside, outside]))[:400].sum()
    assert found.auroc == pytest.approx((ranks - 400 * 401 / 2) / (400 * 300), rel=1e-12)
    limit = np.sort(inside)[400 - 380]  # 380 = 95 % pass
    assert found.fpr == pytest.approx(np.mean(outside >= limit))
    assert outliers.separation([2.0], [1.0]) == (1.0, 0.0)


def test_score_is_the_distance_to_the_nearest_class_mean():
    values, labels = features()
    fitted = outliers.fit_gaussian(values, labels, num_classes=CLASSES)
    size, within = values.shape[1], within_covariance(values, labels)
    trace, squares, n = np.trace(within), np.sum(within**2), len(values)
    weight = ((1 - 2 / size) * squares + trace**2) / (
        (n + 1 - 2 / size) * (squares - trace**2 / size)
    )
    covariance = (1 - weight) * within + weight * trace / size * np.eye(size)
    inverse = np.linalg.inv(covariance)
    expected = [
        -min(
            scipy_mahalanobis(row, values[labels == c].mean(axis=0), inverse) ** 2
            for c in range(CLASSES)
        )
        for row in values[:50]
    ]
    assert fitted.shrinkage == pytest.approx(weight, rel=1e-9)
    np.testing.assert_allclose(outliers.mahalanobis(values[:50], fitted), expected, rtol=1e-9)


def test_batches_give_the_same_distributions_as_all_at_once():
    values, labels = features(500)
    sums = None
    for rows in np.array_split(np.arange(500), 7):
        sums = outliers.moments(values[rows], labels[rows], num_classes=CLASSES, earlier=sums)
    whole = outliers.fit_gaussian(values, labels, num_classes=CLASSES)
    scores = outliers.mahalanobis(values, outliers.gaussian(sums))
    np.testing.assert_allclose(scores, outliers.mahalanobis(values, whole), rtol=1e-8)


def test_a_class_without_images_is_left_out():
    values, labels = features()
    fitted = outliers.fit_gaussian(values, labels, num_classes=CLASSES + 3)
    same = outliers.fit_gaussian(values, labels, num_classes=CLASSES)
    assert len(fitted.means) == CLASSES
    np.testing.assert_array_equal(
        outliers.mahalanobis(values, fitted), outliers.mahalanobis(values, same)
    )


@pytest.mark.parametrize("n", [8, 40])
def test_collinear_constant_and_too_many_features_give_finite_scores(n):
    values, labels = features(n, size=20, seed=3)
    values[:, 1], values[:, 2] = values[:, 0], 7.0
    fitted = outliers.fit_gaussian(values, labels % 2, num_classes=2)
    scores = outliers.mahalanobis(values, fitted)
    assert np.isfinite(scores).all()
    assert 0 < fitted.shrinkage <= 1
    far = values[:1] + 100 * np.eye(20)[2]  # a feature that was constant
    assert outliers.mahalanobis(far, fitted)[0] < scores.min()


def test_equal_variances_shrink_entirely():
    values = np.concatenate([np.eye(3), -np.eye(3)])
    fitted = outliers.fit_gaussian(values, np.zeros(6, int), num_classes=1)
    assert fitted.shrinkage == 1
    expected = -3 * np.sum(np.array([[1.0, 2.0, 0.0]]) ** 2)  # variance 1 / 3
    np.testing.assert_allclose(outliers.mahalanobis(np.array([[1.0, 2, 0]]), fitted), expected)


def test_jax_in_float32_agrees_with_numpy_in_float64():
    values, labels = features(400, size=64)
    fitted = outliers.fit_gaussian(values, labels, num_classes=CLASSES)
    exact = outliers.mahalanobis(values, fitted)
    narrow = outliers.mahalanobis(jnp.asarray(values, jnp.float32), fitted.as_float32())
    assert narrow.dtype == jnp.float32
    np.testing.assert_allclose(narrow, exact, rtol=2e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: outliers.acceptance_threshold([], acceptance=0.9), "scores of shape .0,."),
        (lambda: outliers.acceptance_threshold([math.nan], acceptance=0.9), "must be finite"),
        (lambda: outliers.acceptance_threshold([1.0], acceptance=1), "acceptance must lie"),
        (lambda: outliers.acceptance_threshold([1.0], acceptance=0.5, delta=0), "delta must lie"),
        (
            lambda: outliers.threshold_to_certify([1.0], acceptance=0.5, examples=0),
            "examples: need an integer >= 1",
        ),
        (lambda: outliers.acceptance_bound([2, 0]), "passed must be boolean"),
        (lambda: outliers.separation([1.0], []), "scores of shape .0,."),
        (
            lambda: outliers.fit_gaussian([[1.0, math.inf]], [0], num_classes=1),
            "features must be finite: got inf",
        ),
        (
            lambda: outliers.fit_gaussian([[1.0, 2.0]], [0, 1], num_classes=2),
            r"labels of shape \(2,\)",
        ),
        (
            lambda: outliers.fit_gaussian([[1.0, 2.0]] * 2, [0, 3], num_classes=3),
            r"labels must lie in 0\.\.2: got 3",
        ),
        (
            lambda: outliers.fit_gaussian([[1.0, 2.0]] * 2, [0, -1], num_classes=3),
            r"labels must lie in 0\.\.2: got -1",
        ),
        (
            lambda: outliers.fit_gaussian([[1.0, 2.0], [5.0, 6.0]], [0, 1], num_classes=2),
            "do not vary within the classes",
        ),
        (
            lambda: outliers.mahalanobis(
                np.zeros((2, 1)),
                outliers.fit_gaussian(np.eye(3)[[0, 1, 2, 0]], [0, 0, 1, 1], num_classes=2),
            ),
            r"features of shape \(2, 1\): need \[n, 3\]",
        ),
    ],
)
def test_bad_input_raises_one_line(call, message):
    with pytest.raises(InputError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)
