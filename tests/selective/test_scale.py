"""Large samples: the same results as without the shortcuts that make them fast."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import special, stats

from experiments import metrics_scale
from kdjax import selective
from kdjax.selective import calibration, certificates, ranking, resamples, threads

COVERAGES = (1.0, 0.8, 0.55)


def sample(n, ties, error_rate, seed=0):
    """Returns predictions that are wrong more often the less confident they are."""
    rng = np.random.default_rng(seed)
    u = np.ceil(rng.random(n) * ties) / ties
    return 1 - u, rng.random(n) >= error_rate * 2 * u


def metrics_of(confidence, correct):
    """The metrics of `resamples.metrics_by_name`, from the public functions."""
    areas = [selective.aurc(confidence, correct), selective.augrc(confidence, correct)]
    errors = selective.error_at_coverage(confidence, correct, COVERAGES)
    return np.array([1 - np.mean(correct), *areas, *errors])


def resampled(runs, resample_count, seed):
    """The metrics of resampled arrays, `[M, R]`; of two runs the difference at the same rows."""
    rng, n = np.random.default_rng(seed), len(runs[0][0])
    columns = []
    for _ in range(resample_count):
        rows = rng.integers(n, size=n)
        first, *second = (metrics_of(scores[rows], hits[rows]) for scores, hits in runs)
        columns.append(first - second[0] if second else first)
    return np.stack(columns, axis=1)


def resample(runs, resample_count, seed):
    metrics = resamples.metrics_by_name(COVERAGES, len(runs[0][0]))
    ranked = [ranking.rank(*run) for run in runs]
    rng = np.random.default_rng(seed)
    return resamples.resample(ranked, list(metrics.values()), resample_count, rng)


@pytest.fixture(params=[1, 10**9], ids=["counted", "sorted"])
def counted_from(request, monkeypatch):
    """Both ways to evaluate resamples, whatever the number of predictions."""
    monkeypatch.setattr(resamples, "COUNTED_FROM", request.param)


@pytest.mark.usefixtures("counted_from")
@pytest.mark.parametrize("error_rate", [0.0, 0.05, 0.5])
@pytest.mark.parametrize("ties", [1, 7, 10**9])
def test_resampled_metrics_are_those_of_resampled_arrays(ties, error_rate):
    run = sample(83, ties, error_rate)
    assert_allclose(resample([run], 6, seed=3), resampled([run], 6, seed=3), atol=1e-14)


@pytest.mark.usefixtures("counted_from")
@pytest.mark.parametrize("ties", [7, 10**9])
def test_two_runs_are_resampled_at_the_same_rows(ties):
    runs = [sample(83, ties, 0.3), sample(83, 10**9, 0.1, seed=1)]
    assert_allclose(resample(runs, 6, seed=3), resampled(runs, 6, seed=3), atol=1e-14)


def test_all_predictions_wrong_or_infinitely_confident(monkeypatch):
    monkeypatch.setattr(resamples, "COUNTED_FROM", 1)
    confidence = np.repeat([np.inf, 0.0, -np.inf], 7)
    for correct in (np.zeros(21, bool), np.arange(21) % 2 == 0):
        run = confidence, correct
        assert_allclose(resample([run], 5, seed=0), resampled([run], 5, seed=0), atol=1e-14)


def test_the_way_of_evaluation_does_not_change_an_interval(monkeypatch):
    a, b = sample(700, 10**9, 0.2), sample(700, 50, 0.3, seed=1)
    results = []
    for counted_from in (1, 10**9):
        monkeypatch.setattr(resamples, "COUNTED_FROM", counted_from)
        both = selective.bootstrap(*a, resamples=60), selective.compare(*a, *b, resamples=60)
        results.append([np.array(list(intervals.values())) for intervals in both])
    for counted, by_sorting in zip(*results, strict=True):
        assert_allclose(counted, by_sorting, rtol=0, atol=1e-13)


@pytest.mark.parametrize("chunk", [1, 200, 1 << 22])
def test_the_drawn_rows_do_not_depend_on_the_size_of_a_batch(chunk, monkeypatch):
    run = sample(90, 10**9, 0.2)
    expected = resample([run], 9, seed=5)
    monkeypatch.setattr(resamples, "CHUNK", chunk)
    assert_allclose(resample([run], 9, seed=5), expected, atol=1e-15)


@pytest.mark.slow
def test_resamples_of_many_predictions_are_normal_with_the_delta_methods_variance():
    n = resamples.COUNTED_FROM
    confidence, correct = sample(n, 10**9, 0.05)
    values = resample([(confidence, correct)], 300, seed=0)
    rate = 1 - correct.mean()
    scaled = (values[0] - rate) / np.sqrt(rate * (1 - rate) / n)
    assert stats.kstest(scaled, "norm").pvalue > 0.01
    assert_allclose(values[3], values[0], atol=1e-15)  # the error at full coverage


# Certificates


def certified_count(confidence, correct, risk, delta):
    """How many predictions `learn_then_test` accepts, from the p-values of all thresholds."""
    order = np.argsort(-confidence, kind="stable")
    levels, errors = confidence[order], np.cumsum(~correct[order])
    ends = np.flatnonzero(np.append(levels[1:] != levels[:-1], True))
    counts = np.arange(30, len(levels) + 1)
    tolerated = 30 + np.sum(stats.binom.cdf(10, counts, risk) > delta)
    least = 30 + np.sum(stats.binom.cdf(0, counts, risk) > delta)
    start = max(least, min(tolerated, len(levels) // 4))
    accepted = ends[ends + 1 >= start] + 1
    passes = stats.binom.cdf(errors[accepted - 1], accepted, risk) <= delta
    certified = int(np.sum(np.logical_and.accumulate(passes)))
    return int(accepted[certified - 1]) if certified else 0


@pytest.mark.parametrize("block", [5, 37, 1 << 14])
@pytest.mark.parametrize("ties", [9, 200, 10**9])
@pytest.mark.parametrize(("error_rate", "risk"), [(0.02, 0.05), (0.1, 0.1), (0.048, 0.05)])
def test_learn_then_test_equals_the_test_of_every_threshold(
    block, ties, error_rate, risk, monkeypatch
):
    monkeypatch.setattr(certificates, "BLOCK", block)
    for seed in range(4):
        run = sample(1200, ties, error_rate, seed)
        for delta in (0.01, 0.1, 0.6):
            certificate = selective.learn_then_test(*run, risk=risk, delta=delta)
            assert round(certificate.coverage * 1200) == certified_count(*run, risk, delta)


def test_a_sequence_gives_the_certificate_of_every_level_between_its_lowest_and_highest():
    run = sample(2000, 10**9, 0.05)
    sequence = certificates.fixed_sequence(*run, risk=0.03, level=0.01, highest=0.4)
    shares = [sequence.certificate(level).coverage for level in (0.01, 0.05, 0.1, 0.4)]
    assert shares == sorted(shares) and shares[0] < shares[-1]
    alone = certificates.fixed_sequence(*run, risk=0.03, level=0.01)
    assert alone.certificate(0.01) == sequence.certificate(0.01)


def test_few_binomial_tails_are_computed(monkeypatch):
    sizes = []

    def counting(errors, accepted, risk):
        sizes.append(np.size(errors))
        return special.bdtr(errors, accepted, risk)

    monkeypatch.setattr(certificates, "bdtr", counting)
    run = sample(200_000, 10**9, 0.05)
    certificate = selective.learn_then_test(*run, risk=0.03)
    assert 0.3 < certificate.coverage < 1 and sum(sizes) < 5_000


# Scoring rules


@pytest.mark.parametrize("rows", [1, 7, 1 << 15])
def test_scoring_rules_do_not_depend_on_the_rows_computed_together(rows, monkeypatch):
    rng = np.random.default_rng(0)
    logits, labels = 5 * rng.normal(size=(50, 6)).astype(np.float32), rng.integers(6, size=50)
    log_probs = special.log_softmax(logits.astype(np.float64), axis=1)
    one_hot = np.eye(6)[labels]
    monkeypatch.setattr(calibration, "ROWS", rows)
    nll = selective.negative_log_likelihood(logits, labels)
    assert nll == -np.mean(np.sum(log_probs * one_hot, axis=1))
    distance = np.sum((np.exp(log_probs) - one_hot) ** 2, axis=1)
    assert selective.brier(np.exp(log_probs), labels) == pytest.approx(distance.mean(), rel=1e-14)


def test_a_confusion_matrix_counts_every_pair():
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(4, size=(2, 300))
    expected = [[np.sum((labels == i) & (predicted == j)) for j in range(5)] for i in range(5)]
    assert_array_equal(selective.confusion_matrix(labels, predicted, 5), expected)


# Threads


@pytest.mark.parametrize("count", [0, 1, 50])
def test_results_of_threads_are_in_the_order_of_the_arguments(count):
    assert threads.map_in_threads(lambda x: x * x, range(count)) == [x * x for x in range(count)]


def test_an_error_in_a_thread_is_raised():
    with pytest.raises(ZeroDivisionError):
        threads.map_in_threads(lambda x: 1 // x, range(9))


# The measurement


@pytest.mark.parametrize("name", metrics_scale.all_work(1, 1))
def test_every_function_of_the_measurement_runs(name):
    measured = metrics_scale.measure(name, 900, 900)
    assert measured.seconds > 0 and measured.data < 1 < measured.peak


def test_a_results_page_has_a_row_for_each_function():
    work = metrics_scale.all_work(10_000_000, 1_000_000)
    runs = [metrics_scale.Measured(seconds, 300.0, 80.0) for seconds in (1.0, 2.0, 4.0)]
    page = metrics_scale.report({"aurc": runs, "bootstrap, 1,000 resamples": runs}, work, 3)
    assert "| aurc | 10,000,000 | 2.00 (1.00 to 4.00) | 3 | 300 | 80 |" in page
    assert (
        "| bootstrap, 1,000 resamples | 1,000,000 | 2.00 (1.00 to 4.00) | 30 | 300 | 80 |" in page
    )
