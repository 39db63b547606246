"""Counts, predictions and the choice of p, against scikit-learn and brute force."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
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
