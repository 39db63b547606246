"""The same sets as MAPIE and crepes make from the same probabilities."""

import numpy as np
import pytest
from crepes import WrapClassifier
from mapie.classification import SplitConformalClassifier
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import StratifiedShuffleSplit

from kdjax import selective

pytestmark = pytest.mark.slow  # the packages take seconds to import

CLASSES, CALIBRATION, NEW = 6, 300, 200
ALPHAS = (0.1, 0.2)
SEED = 3


class Probabilities(ClassifierMixin, BaseEstimator):
    """A trained classifier for scikit-learn whose inputs are its probabilities."""

    def fit(self, inputs, labels=None):
        self.classes_ = np.arange(CLASSES)
        return self

    def predict_proba(self, inputs):
        return inputs

    def predict(self, inputs):
        return inputs.argmax(axis=1)


def draw(n, seed):
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(n, CLASSES))
    sums = softmax(0.8 * logits, axis=1).cumsum(axis=1)
    return logits, np.minimum((sums < rng.random((n, 1))).sum(axis=1), CLASSES - 1)


@pytest.fixture(scope="module")
def samples():
    return (*draw(CALIBRATION, 0), draw(NEW, 1)[0])


def mapie(score, samples, **options):
    """Returns MAPIE's sets [n, m, levels], and its score with what it has fitted."""
    logits, labels, new = samples
    classifier = SplitConformalClassifier(
        estimator=Probabilities().fit(None),
        prefit=True,
        conformity_score=score,
        confidence_level=[1 - alpha for alpha in ALPHAS],
        random_state=SEED,
    )
    classifier.conformalize(softmax(logits, axis=1), labels)
    parameters = {"conformity_score_params": options} if options else {}
    _, sets = classifier.predict_set(softmax(new, axis=1), **parameters)
    return sets, classifier._mapie_classifier.conformity_score_function_


def uniform(n):
    """Returns the random numbers that MAPIE draws for n images."""
    return np.random.RandomState(SEED).uniform(size=n)


def test_lac_sets_are_those_of_mapie(samples):
    sets, fitted = mapie("lac", samples)
    logits, labels, new = samples
    own = selective.true_scores(selective.lac(logits, abstention=False), labels)
    for level, alpha in enumerate(ALPHAS):
        quantile = selective.set_quantile(own, alpha=alpha)
        theirs = fitted.quantiles_[level]
        assert_allclose(1 - selective.least_probability(quantile), theirs, rtol=0, atol=1e-9)
        expected = selective.prediction_sets(selective.lac(new, abstention=False), quantile)
        assert_array_equal(sets[..., level], expected)


@pytest.mark.parametrize("last", ["randomized", False])
def test_aps_sets_are_those_of_mapie(samples, last):
    """`False` leaves out the class that passes the quantile, but never the most probable one."""
    sets, fitted = mapie("aps", samples, include_last_label=last)
    logits, labels, new = samples
    scores = selective.aps(logits, abstention=False, uniform=uniform(CALIBRATION))
    own = selective.true_scores(scores, labels)
    random = last == "randomized"
    on_new = selective.aps(new, abstention=False, uniform=uniform(NEW) if random else None)
    include = None if random else new.argmax(axis=1)
    for level, alpha in enumerate(ALPHAS):
        quantile = selective.set_quantile(own, alpha=alpha)
        assert_allclose(quantile + 1, fitted.quantiles_[level], rtol=0, atol=1e-9)
        expected = selective.prediction_sets(on_new, quantile, include=include)
        assert_array_equal(sets[..., level], expected)


def test_raps_sets_are_those_of_mapie_with_its_parameters(samples):
    sets, fitted = mapie("raps", samples, include_last_label=False)
    logits, labels, new = samples
    # MAPIE sets some of the calibration images aside to choose the parameters.
    split = StratifiedShuffleSplit(1, test_size=len(fitted.X_raps), random_state=SEED)
    kept, aside = next(split.split(logits, labels))
    for level, alpha in enumerate(ALPHAS):
        rule = {"k_reg": int(fitted.k_star[level]), "penalty": float(fitted.lambda_star[level])}
        k_reg, _ = selective.fit_raps(logits[aside], labels[aside], alpha=alpha, abstention=False)
        assert k_reg == rule["k_reg"]
        scores = selective.raps(logits[kept], abstention=False, uniform=uniform(len(kept)), **rule)
        own = selective.true_scores(scores, labels[kept])
        quantile = selective.set_quantile(own, alpha=alpha)
        assert_allclose(quantile + 1, fitted.quantiles_[level], rtol=0, atol=1e-9)
        on_new = selective.raps(new, abstention=False, **rule)
        expected = selective.prediction_sets(on_new, quantile, include=new.argmax(axis=1))
        assert_array_equal(sets[..., level], expected)


def crepes(samples, alpha, **options):
    """Returns the sets of crepes without random tie-breaking, bool [n, m]."""
    logits, labels, new = samples
    classifier = WrapClassifier(Probabilities().fit(None))
    classifier.calibrate(softmax(logits, axis=1), labels, **options)
    inputs = softmax(new, axis=1)
    sets = classifier.predict_set(inputs, labels=False, confidence=1 - alpha, smoothing=False)
    return sets.astype(bool)


# At 0.1 and 0.2 the number of examples of a class, plus 1, may be a multiple of 1 / alpha; crepes
# then includes one score more.
@pytest.mark.parametrize("alpha", [0.053, 0.107, 0.213])
def test_class_conditional_sets_are_those_of_crepes(samples, alpha):
    logits, labels, new = samples
    scores = selective.lac(logits, abstention=False)
    quantiles = selective.class_quantiles(scores, labels, alpha=alpha)
    expected = selective.prediction_sets(selective.lac(new, abstention=False), quantiles)
    assert_array_equal(crepes(samples, alpha, class_cond=True), expected)
    pooled = selective.set_quantile(selective.true_scores(scores, labels), alpha=alpha)
    expected = selective.prediction_sets(selective.lac(new, abstention=False), pooled)
    assert_array_equal(crepes(samples, alpha), expected)


def test_sets_of_rejected_are_those_of_crepes_with_rejection_as_the_category(samples):
    logits, labels, new = samples
    threshold, alpha = 1.0, 0.107

    def is_rejected(probabilities):
        return (probabilities.max(axis=1) < 1 / (1 + np.exp(-threshold))).astype(int)

    confidence = [
        np.asarray(selective.softmax_response_log_odds(each, abstention=False), np.float64)
        for each in (logits, new)
    ]
    own = selective.true_scores(selective.lac(logits, abstention=False), labels)
    found = selective.rejected_quantile(own, confidence[0], threshold=threshold, alpha=alpha)
    expected = selective.prediction_sets(selective.lac(new, abstention=False), found.quantile)
    rejected = confidence[1] < threshold
    assert 20 < rejected.sum() < NEW - 20
    assert_array_equal(crepes(samples, alpha, mc=is_rejected)[rejected], expected[rejected])
