"""Intervals against resampled arrays, the distributions of scipy.stats, and their coverage."""

import importlib.util

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from support.blaker import blaker_interval
from support.commands import ROOT

from kdjax import selective
from kdjax.errors import InputError
from kdjax.selective import bootstrap, compare

COVERAGES = (1.0, 0.8, 0.6)
COVERED = (0.95, 0.9, 0.8, 0.7)
NAMES = ["accuracy", "aurc", "augrc", "error_at_1.0", "error_at_0.8", "error_at_0.6"]


@pytest.fixture(scope="module")
def experiment():
    """experiments/intervals.py, which measures the coverage of the intervals."""
    path = ROOT / "experiments" / "intervals.py"
    spec = importlib.util.spec_from_file_location("measured_intervals", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def metrics(confidence, correct):
    errors = selective.error_at_coverage(confidence, correct, COVERAGES)
    areas = [selective.aurc(confidence, correct), selective.augrc(confidence, correct)]
    return np.array([np.mean(correct), *areas, *errors])


def resampled_metrics(confidence, correct, resamples, seed):
    """Returns the metrics `[R, M]` of explicitly resampled arrays."""
    rng, n = np.random.default_rng(seed), len(confidence)
    draws = [rng.integers(n, size=n) for _ in range(resamples)]
    return np.array([metrics(confidence[rows], correct[rows]) for rows in draws])


def large_sample(n, ties=10**9, seed=0):
    """Returns predictions wrong with probability 0.6 u^2, u = 1 - confidence uniform."""
    rng = np.random.default_rng(seed)
    u = np.ceil(rng.random(n) * ties) / ties
    return 1 - u, rng.random(n) >= 0.6 * u**2


def ends(intervals):
    return np.array(list(intervals.values()))


def exact_interval(errors, n, level=0.95):
    """Blaker's interval of errors of n; that of a fraction of an error is interpolated."""
    below = int(np.floor(errors + 1e-9))
    part = max(errors - below, 0)
    ends = np.array(blaker_interval(below, n, level))
    return (
        ends
        if part < 1e-9
        else (1 - part) * ends + part * np.array(blaker_interval(below + 1, n, level))
    )


def gamma_interval(terms, unseen, level=0.95):
    """The interval of a weighted sum of Poisson events; see `intervals.weighted_sum`."""
    tail, y, v = (1 - level) / 2, np.sum(terms), np.sum(np.square(terms))
    low = stats.gamma.ppf(tail, y**2 / v, scale=v / y) if y else 0
    y, v = y + np.mean(unseen), v + np.mean(np.square(unseen))
    return low, stats.gamma.isf(tail, y**2 / v, scale=v / y)


def expected_bounds(confidence, correct, level):
    """The intervals of a run, from their equations, without the bootstrap; `[M, 2]`."""
    n = len(correct)
    low, high = exact_interval(np.sum(~correct), n, level)
    counts = selective.error_at_coverage(confidence, correct, COVERAGES)
    kept = np.array([n, round(0.8 * n), round(0.6 * n)])
    at_coverage = [exact_interval(e, k, level) for e, k in zip(counts * kept, kept, strict=True)]
    return np.array([(1 - high, 1 - low), *areas(confidence, correct, level), *at_coverage])


def areas(confidence, correct, level):
    """The intervals of AURC and AUGRC; the weight of an error is its effect on the metric."""
    n = len(correct)
    for metric in (selective.aurc, selective.augrc):
        # The metric of a sample with a single error at each rank.
        weights = np.array([metric(-np.arange(n), np.arange(n) != j) for j in range(n)])
        ranks = stats.rankdata(-confidence, method="min").astype(int) - 1
        sizes = np.array([np.sum(confidence == c) for c in confidence])
        means = [weights[r : r + s].mean() for r, s in zip(ranks, sizes, strict=True)]
        yield gamma_interval(np.array(means)[~correct], weights, level)


@pytest.mark.parametrize("ties", [4, 10**9])
@pytest.mark.parametrize("level", [0.5, 0.95])
@pytest.mark.parametrize("n", [20, 90])
def test_intervals_contain_those_of_few_errors_and_of_the_bootstrap(ties, level, n):
    options = {"coverages": COVERAGES, "resamples": 60, "seed": 3, "level": level}
    run = large_sample(n, ties)
    estimates, low, high = ends(bootstrap(*run, **options)).T
    assert_allclose(estimates, metrics(*run), rtol=0, atol=1e-14)
    expected = expected_bounds(*run, level)
    errors = np.array([np.sum(~run[1])] * 3 + [np.sum(~run[1]), *errors_at(run, COVERAGES[1:])])
    resampled = resampled_metrics(*run, 60, 3)
    quantiles = np.percentile(resampled, [50 * (1 - level), 50 * (1 + level)], axis=0).T
    widened = (errors >= 10) & ~np.isin(NAMES, ["accuracy", "error_at_1.0"])
    quantiles[~widened] = estimates[~widened, None]
    assert_allclose(low, np.minimum(expected[:, 0], quantiles[:, 0]), rtol=0, atol=1e-6)
    assert_allclose(high, np.maximum(expected[:, 1], quantiles[:, 1]), rtol=0, atol=1e-6)
    assert widened.any() == (n == 90)


def errors_at(run, coverages):
    """The number of errors that can be among the most confident."""
    confidence, correct = run
    kept = [round(c * len(correct)) for c in coverages]
    return [np.sum(~correct & (confidence >= np.sort(confidence)[-k])) for k in kept]


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_intervals_of_differences_combine_those_of_both_signs(level):
    # Ten of 40 examples differ, as areas need. A single resample has no standard error to add.
    n, confidence = 40, -np.arange(40.0)
    only_a, only_b = [3, 11, 25, 27, 28, 29], [8, 17, 22, 24]
    a, b = (~np.isin(np.arange(n), [*rows, 20]) for rows in (only_a, only_b))
    options = {"coverages": (0.75,), "level": level, "resamples": 1}
    differences = compare(confidence, a, confidence, b, **options)
    for name, metric in {
        "accuracy": lambda correct: np.mean(correct),
        "aurc": lambda correct: selective.aurc(confidence, correct),
        "error_at_0.75": lambda correct: selective.error_at_coverage(confidence, correct, 0.75),
    }.items():
        sign = -1 if name == "accuracy" else 1
        weights = np.array([sign * metric(np.arange(n) != j) for j in range(n)])
        weights -= sign * metric(np.ones(n, bool))
        p, q = weights[only_a].sum(), weights[only_b].sum()
        unseen = sorted(weights[[*only_a, *only_b]], key=abs)[5:]
        p_low, p_high = gamma_interval(weights[only_a], unseen, level)
        q_low, q_high = gamma_interval(weights[only_b], unseen, level)
        expected = np.array(
            [
                p - q,
                p - q - np.hypot(p - p_low, q_high - q),
                p - q + np.hypot(p_high - p, q - q_low),
            ]
        )
        if name == "accuracy":
            expected = -expected[[0, 2, 1]]
        assert_allclose(differences[name], expected, rtol=0, atol=1e-12, err_msg=name)


def test_differences_with_many_errors_contain_students_interval_of_the_paired_bootstrap():
    a, b = large_sample(300), large_sample(300, seed=1)
    estimates, low, high = ends(compare(*a, *b, coverages=COVERAGES, resamples=60, seed=3)).T
    values = resampled_metrics(*a, 60, 3) - resampled_metrics(*b, 60, 3)
    for name, estimate, lower, upper, resampled in zip(
        NAMES, estimates, low, high, values.T, strict=True
    ):
        if name not in ("accuracy", "error_at_1.0"):
            kept = round(300 * float(name.rpartition("_")[2])) if "at" in name else 300
            freedom = differing(a, b, kept) - 1
            assert freedom >= 10
            width = stats.t.ppf(0.975, freedom) * np.std(resampled, ddof=1)
            assert lower <= estimate - width + 1e-12 and upper >= estimate + width - 1e-12
            assert min(lower - estimate + width, estimate + width - upper) > -width / 3


def differing(a, b, kept):
    """The number of examples that add something else to the metric of run a than to that of b."""
    ranks = [np.where(correct, -1, stats.rankdata(-c) - 1) for c, correct in (a, b)]
    if kept < len(a[0]):
        ranks = [np.where((rank >= 0) & (rank < kept), 0, -1) for rank in ranks]
    return np.sum(ranks[0] != ranks[1])


@pytest.mark.parametrize("errors", [0, 3, 200, 400])
def test_accuracy_has_the_exact_interval(errors):
    interval = bootstrap(np.arange(400.0), np.arange(400) >= errors, resamples=1)["accuracy"]
    assert_allclose(interval[1:], blaker_interval(400 - errors, 400), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_intervals_contain_the_true_value_at_about_their_level():
    # The true risk at coverage u is R(u) = 0.2 u^2. Accuracy 1 - R(1), AURC = integral of R,
    # AUGRC = integral of u R, and R(0.8).
    truth = np.array([0.8, 0.2 / 3, 0.2 / 4, 0.2 * 0.8**2])
    covered = []
    for seed in range(200):
        runs = bootstrap(*large_sample(200, seed=seed), coverages=[0.8], resamples=200, seed=seed)
        _, low, high = ends(runs).T
        covered.append((low <= truth) & (truth <= high))
    # 0.046 is 3 standard errors of a proportion of 200.
    assert_allclose(np.mean(covered, axis=0), 0.95, rtol=0, atol=0.046)


@pytest.mark.slow
@pytest.mark.parametrize("measure", ["single", "paired"])
def test_intervals_of_few_errors_contain_the_true_value(experiment, measure):
    """3 errors among 359 examples, where the bootstrap alone covers 31 to 89 %."""
    options = {"draws": 300 if measure == "single" else 600, "resamples": 100}
    measured = getattr(experiment, measure)(experiment.FEW_ERRORS, **options)
    band = experiment.BAND if measure == "single" else ()
    names = {"accuracy", "aurc", "augrc", *map("error_at_{}".format, (*COVERED, *band))}
    assert set(measured) == names
    for name, (covered, printed) in measured.items():
        assert printed == 300 if measure == "single" else printed < 600
        # 3 standard errors below 0.95.
        assert not printed or covered > 0.95 - 3 * np.sqrt(0.05 * 0.95 / printed), name


def test_no_error_gives_an_interval_of_positive_width():
    n = 359
    intervals = bootstrap(np.arange(n), np.ones(n, bool), coverages=[0.8], resamples=20)
    high = blaker_interval(0, n)[1]
    assert 0.05 ** (1 / n) > 1 - high > 0.025 ** (1 / n)
    assert_allclose(intervals["accuracy"], [1, 1 - high, 1], rtol=1e-6)
    assert_allclose(intervals["error_at_0.8"], [0, 0, blaker_interval(0, 287)[1]], atol=1e-6)
    for name in ("aurc", "augrc"):
        assert intervals[name][:2] == (0, 0) and 1 / n / 3 < intervals[name].high < 6 / n


def test_a_run_compared_with_itself_has_zero_difference_without_an_interval():
    run = large_sample(100, ties=7)
    confidence, correct = run
    for other in (confidence, 3 * confidence - 5):
        differences = compare(confidence, correct, other, correct, resamples=50)
        assert_array_equal(ends(differences)[:, 0], 0)
        assert not any(interval.exists for interval in differences.values())


@pytest.mark.parametrize(("level", "least"), [(0.5, 2), (0.9, 5), (0.95, 6), (0.99, 8)])
def test_fewer_differing_examples_than_can_be_significant_give_no_interval(level, least):
    """If all of d differing examples favour the same run, the sign test has p = 2^(1 - d)."""
    assert stats.binomtest(least, least).pvalue <= 1 - level + 1e-12
    assert stats.binomtest(least - 1, least - 1).pvalue > 1 - level
    confidence, correct = np.arange(90.0), np.ones(90, bool)
    for count in (least - 1, least):
        worse = np.arange(90) >= count
        interval = compare(confidence, correct, confidence, worse, level=level)["accuracy"]
        assert interval.estimate == pytest.approx(count / 90)
        assert interval.exists == (count == least)
        assert not interval.exists or 0 < interval.low < interval.estimate < interval.high


def test_examples_that_differ_by_rounding_only_do_not_count():
    """The sums of weights of a run in another order differ in their last bits."""
    rng = np.random.default_rng(0)
    correct = rng.random(359) >= 0.05
    runs = [(rng.random(359), correct) for _ in range(2)]
    differences = compare(*runs[0], *runs[1], coverages=[0.5])
    assert differences["accuracy"].estimate == 0 and not differences["accuracy"].exists
    assert differences["aurc"].exists


def test_exchanging_the_runs_negates_the_difference():
    a, b = large_sample(100), large_sample(100, ties=5, seed=1)
    a_minus_b, b_minus_a = (ends(compare(*x, *y, resamples=101)) for x, y in [(a, b), (b, a)])
    assert_allclose(a_minus_b, -b_minus_a[:, [0, 2, 1]], rtol=0, atol=1e-15)


def test_pairing_cancels_the_errors_common_to_both_runs():
    # Run b has the errors of run a and 10 more.
    confidence, correct = large_sample(1000)
    worse = correct & (np.cumsum(correct) > 10)
    _, low, high = compare(confidence, correct, confidence, worse)["accuracy"]
    unpaired = bootstrap(confidence, correct)["accuracy"]
    assert 0 < low <= 0.01 <= high
    assert high - low < (unpaired.high - unpaired.low) / 3


@pytest.mark.parametrize("n", [1, 30])
@pytest.mark.parametrize("hit", [True, False])
def test_all_correct_and_all_wrong_have_intervals_within_the_range_of_the_metric(n, hit):
    intervals = bootstrap(np.arange(n), np.full(n, hit), coverages=[1], resamples=20)
    estimates, low, high = ends(intervals).T
    assert_allclose(estimates, [hit, not hit, (not hit) / 2, not hit], atol=1e-14)
    largest = np.array([1, 1, 0.5, 1])
    assert np.all(low >= 0) and np.all(high <= largest + 1e-15) and np.all(low < high)


def test_equal_seeds_give_equal_intervals():
    run = large_sample(200)
    first, again, other = (ends(bootstrap(*run, resamples=20, seed=s)) for s in (0, 0, 1))
    assert_array_equal(first, again)
    assert_array_equal(first[:, 0], other[:, 0])
    assert np.any(first != other)


def test_runs_of_unequal_lengths_are_rejected():
    with pytest.raises(InputError, match="run b has 3 predictions: run a needs 2"):
        compare([0.1, 0.2], [True, False], [0.1, 0.2, 0.3], [True, False, True])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ({"level": 0}, InputError, r"level must lie in \(0, 1\): got 0"),
        ({"level": 95}, InputError, r"level must lie in \(0, 1\): got 95"),
        ({"resamples": 0}, InputError, "resamples: need an integer >= 1: got 0"),
        ({"resamples": 1.5}, InputError, "resamples: need an integer >= 1: got 1.5"),
        ({"resamples": np.inf}, InputError, "resamples: need an integer >= 1: got inf"),
        ({"resamples": "many"}, TypeError, "resamples of dtype <U4"),
        ({"seed": -1}, InputError, "seed: need an integer >= 0: got -1"),
        ({"coverages": [0.5, 1.5]}, InputError, r"coverages must lie in \(0, 1\]: got 1.5"),
        ({"coverages": [0.1]}, InputError, "at least one of 2: got 0.1"),
        ({"coverages": 0.9}, InputError, "coverages 0.9: need a sequence of numbers"),
    ],
)
def test_bad_options_raise_an_error_with_their_value(call, error, message):
    run = ([0.1, 0.2], [True, False])
    options = {"resamples": 5, "coverages": [1.0], **call}
    with pytest.raises(error, match=message):
        bootstrap(*run, **options)
    with pytest.raises(error, match=message):
        compare(*run, *run, **options)


@pytest.mark.parametrize(
    ("confidence", "correct", "message"),
    [([], [], r"\(0,\)"), ([0.1], [1, 0], r"\(2,\).*\(1,\)"), ([np.nan], [1], "got nan")],
)
def test_a_bad_sample_raises_an_error_with_its_value(confidence, correct, message):
    with pytest.raises(InputError, match=message):
        bootstrap(confidence, correct)
    with pytest.raises(InputError, match=message):
        compare(confidence, correct, [0.5], [True])


def test_a_metric_of_errors_only_is_exactly_its_largest_value():
    result = bootstrap(np.arange(20.0), np.zeros(20), coverages=(1,))
    assert result["accuracy"][:2] == (0, 0) and result["error_at_1"].high == 1
    better = compare(np.arange(20.0), np.ones(20), np.arange(20.0), np.zeros(20), coverages=(1,))
    assert better["accuracy"].estimate == 1 and better["error_at_1"].estimate == -1


def test_coverages_of_any_dtype_name_the_same_metrics():
    names = {
        tuple(bootstrap(range(20), [1] * 20, coverages=coverages, resamples=1))
        for coverages in ([0.9, 0.7], np.array([0.9, 0.7]), np.array([0.9, 0.7], np.float32))
    }
    assert names == {("accuracy", "aurc", "augrc", "error_at_0.9", "error_at_0.7")}
