"""Counts, predictions and the choice of p, against scikit-learn and brute force."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix

from kdjax import selective
from kdjax.errors import InputError
from kdjax.selective import ranking, summary


def test_confusion_matrix_equals_scikit_learn():
    rng = np.random.default_rng(1)
    labels, predicted = rng.integers(4, size=(2, 100))
    counts = selective.confusion_matrix(labels, predicted, 5)  # class 4 does not occur
    assert_array_equal(counts, confusion_matrix(labels, predicted, labels=range(5)))


def random_split(n, seed, classes=4):
    """Returns logits [n, m+1] and labels, mostly correct where the logits are large."""
    rng = np.random.default_rng(seed)
    labels, logits = rng.integers(classes, size=n), rng.normal(size=(n, classes + 1))
    logits[np.arange(n), labels] += rng.exponential(1.5, size=n)
    return logits.astype(np.float32), labels


@pytest.mark.parametrize(
    ("labels", "predicted", "message"),
    [
        ([0, 0], [0, 3], r"predicted must lie in 0\.\.1: got 3"),
        ([0, -1], [0, 0], r"labels must lie in 0\.\.1: got -1"),
        ([0, 1], [0], r"predicted of shape \(1,\): need \(2,\)"),
    ],
)
def test_confusion_matrix_refuses_what_would_be_counted_elsewhere(labels, predicted, message):
    with pytest.raises(InputError, match=message):
        selective.confusion_matrix(labels, predicted, 2)


def test_predictions_of_float64_logits_have_the_precision_of_float64():
    logits = np.array([[1.0, 1 + 1e-9, -np.inf], [1 + 1e-9, 1.0, 5.0]])  # ties in float32
    assert selective.predicted_classes(logits).tolist() == [1, 0]
    assert selective.is_correct(logits, np.array([1, 1])).tolist() == [True, False]
    assert selective.predicted_classes(logits[0]) == 1
    with pytest.raises(InputError, match="k >= 3"):
        selective.predicted_classes(logits[:, :2])
    with pytest.raises(TypeError, match="need floats"):
        selective.predicted_classes(np.ones((2, 3), int))


def test_class_only_logits_are_refused_where_abstention_is_expected():
    """Labels of the last of m columns cannot be those of m - 1 classes."""
    logits, labels = random_split(50, 0)
    with pytest.raises(InputError, match=r"label 3 is out of range: 3 classes allow 0\.\.2"):
        selective.is_correct(logits[:, :-1], labels)
    correct = selective.is_correct(logits, labels)
    assert_array_equal(correct, logits[:, :-1].argmax(axis=1) == labels)


def area_without(logits, correct, left_out, p):
    """AURC of the errors except one, with all predictions in the ranking."""
    confidence = np.asarray(selective.max_logit_pnorm(logits, p=p, abstention=True))
    kept = correct.copy()
    kept[left_out] = True
    return selective.aurc(confidence, kept)


@pytest.mark.slow
def test_cross_validated_aurc_chooses_p_without_each_error():
    logits, labels = random_split(60, 3)
    correct = selective.is_correct(logits, labels)
    total, chosen = 0, set()
    for error in np.flatnonzero(~correct):
        areas = {p: area_without(logits, correct, error, p) for p in selective.PNORMS}
        best = min(areas, key=areas.__getitem__)
        chosen.add(best)
        confidence = np.asarray(selective.max_logit_pnorm(logits, p=best, abstention=True))
        total += selective.aurc(confidence, correct) - areas[best]
    assert len(chosen) > 1
    actual = selective.cross_validated_pnorm_aurc(logits, labels)
    assert_allclose(actual, total, rtol=1e-9)
    tuned = np.asarray(
        selective.max_logit_pnorm(logits, p=selective.best_pnorm(logits, labels), abstention=True)
    )
    assert actual > selective.aurc(tuned, correct)


@pytest.mark.slow
def test_cross_validated_aurc_without_errors_is_zero():
    logits, _ = random_split(20, 2)
    assert selective.cross_validated_pnorm_aurc(logits, logits[:, :-1].argmax(axis=1)) == 0


def test_p_that_only_fits_noise_wins_no_more_often_than_another_score():
    """Among 9 scores without information, the tuned one of 8 must win about half of the time.

    With the AURC of the best p it wins 8 of 9 times.
    """
    rng, wins, tuned_wins, draws = np.random.default_rng(0), 0, 0, 300
    weights = ranking.aurc_weights(200)
    for _ in range(draws):
        correct = rng.random(200) >= 0.1
        terms = np.stack(
            [
                ranking.contributions(ranking.rank(rng.random(200), correct), weights)
                for _ in range(9)
            ]
        )
        candidates, other = terms[:8], terms[8].sum()
        wins += summary.leave_one_out(candidates) < other
        tuned_wins += candidates.sum(axis=1).min() < other
    assert tuned_wins > 0.8 * draws
    assert wins < 0.6 * draws


# The fit of `combination`.


def log_odds(logits):
    scores = (selective.softmax_response_log_odds, selective.reservation_log_odds)
    return np.stack([np.asarray(s(logits, abstention=True), float) for s in scores], axis=1)


def fit_by_scikit_learn(inputs, correct):
    """Returns (b, w_s, w_r) of a regression with C = 1 on standardized inputs."""
    mean, std = inputs.mean(axis=0), inputs.std(axis=0)
    model = LogisticRegression(C=1.0, tol=1e-10, max_iter=1000)
    model.fit((inputs - mean) / std, correct)
    weights = model.coef_[0] / std
    return np.array([model.intercept_[0] - weights @ mean, *weights])


@pytest.mark.slow
def test_combination_is_the_logistic_regression_of_scikit_learn():
    logits, labels = random_split(300, 5)
    correct = selective.is_correct(logits, labels)
    coefficients = selective.fit_combination(logits, labels)
    assert_allclose(coefficients, fit_by_scikit_learn(log_odds(logits), correct), rtol=1e-4)
    scores = selective.numpy_scores(2.0, coefficients)["combination"](logits)
    inputs = np.column_stack([np.ones(300), log_odds(logits)])
    assert_allclose(scores, inputs @ np.array(coefficients), rtol=1e-4, atol=1e-5)
    # Its sigmoid estimates the probability of being correct.
    assert selective.shown("combination", scores).mean() == pytest.approx(correct.mean(), abs=1e-4)


@pytest.mark.slow
def test_combination_finds_the_score_that_separates():
    """The reservation tells right from wrong; the softmax response has no information."""
    logits, _ = random_split(400, 6)
    labels = logits[:, :-1].argmax(axis=1)
    labels[::4] = (labels[::4] + 1) % 4
    logits[:, -1] = logits[:, :-1].max(axis=1) - 2
    logits[::4, -1] += 4
    _, response, reservation = selective.fit_combination(logits, labels)
    assert reservation > 1 > 0.5 > abs(response)
    assert selective.cross_validated_combination_aurc(logits, labels) < selective.aurc(
        log_odds(logits)[:, 0], selective.is_correct(logits, labels)
    )


@pytest.mark.parametrize("wrong", [False, True])
def test_combination_has_equal_weights_where_nothing_can_be_fitted(wrong):
    logits, _ = random_split(20, 2)
    labels = (logits[:, :-1].argmax(axis=1) + wrong) % 4
    assert selective.fit_combination(logits, labels) == (0.0, 1.0, 1.0)
    area = selective.cross_validated_combination_aurc(logits, labels)
    assert area == pytest.approx(float(wrong))


@pytest.mark.slow
def test_combination_is_finite_at_extreme_logits():
    logits, labels = random_split(50, 8)
    coefficients = selective.fit_combination(1e4 * logits, labels)
    scores = selective.numpy_scores(2.0, coefficients)["combination"](1e4 * logits)
    assert np.all(np.isfinite(coefficients)) and np.all(np.isfinite(scores))


@pytest.mark.slow
def test_cross_validated_aurc_of_combination_fits_without_the_fold_of_each_error():
    logits, labels = random_split(95, 4)
    inputs, correct = log_odds(logits), selective.is_correct(logits, labels)
    total = 0.0
    for fold in range(10):
        rest = np.arange(95) % 10 != fold
        bias, *weights = fit_by_scikit_learn(inputs[rest], correct[rest])
        confidence = bias + inputs @ np.array(weights)
        # Errors of the fold count as the difference that they make.
        without = selective.aurc(confidence, correct | ~rest)
        total += selective.aurc(confidence, correct) - without
    actual = selective.cross_validated_combination_aurc(logits, labels)
    assert_allclose(actual, total, rtol=1e-3)


@pytest.mark.parametrize("shape", [(0,), (1,), (1024,), (1025,), (3, 5), (2**16 + 1,)])
def test_score_of_a_split_is_that_of_each_of_its_rows(shape):
    logits = np.random.default_rng(5).normal(size=(*shape, 4)).astype(np.float32) * 3
    logits[..., :1][logits[..., :1] > 4] = -np.inf  # masked classes
    for p in (1.5, 4.0):
        actual = selective.numpy_score(selective.max_logit_pnorm, logits, p=p)
        expected = np.asarray(selective.max_logit_pnorm(logits, p=p, abstention=True))
        assert actual.dtype == expected.dtype == np.float32
        assert_allclose(actual, expected, rtol=1e-6, atol=1e-7)


def test_splits_of_similar_size_share_a_compiled_program():
    traced = []

    def score(logits, *, abstention, factor=1.0):
        traced.append(logits.shape)
        return factor * logits[..., -1]

    for rows in (10, 700, 1024):
        logits = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
        assert_array_equal(selective.numpy_score(score, logits, factor=rows), rows * logits[:, -1])
    assert traced == [(1024, 3)]
    selective.numpy_score(score, np.zeros((1025, 3), np.float32), factor=1)
    selective.numpy_score(score, np.zeros((2048, 3), np.float32), factor=2)
    assert traced == [(1024, 3), (2048, 3)]
