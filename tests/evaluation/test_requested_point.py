"""The operating point that is requested at export: by risk, coverage, threshold and score."""

import jax
import numpy as np
import pytest
from support import sample_runs

from kdjax import selective
from kdjax.errors import InputError
from kdjax.evaluation import certification, per_class, summary
from kdjax.evaluation.requested_point import (
    PointRequest,
    acceptance,
    check_request,
    requested_point,
    risk_bound,
)
from kdjax.selective.scales import LOG_FORMS


@pytest.fixture(scope="module")
def outputs():
    return {
        name: sample_runs.split(size, seed)
        for seed, (name, size) in enumerate(sample_runs.SPLITS.items())
    }


@pytest.fixture(scope="module")
def results(outputs):
    return summary.summarize(outputs, abstains=True, risk=0.1, delta=0.05)


def confidence_of(point, split):
    return selective.numpy_scores(point.pnorm, point.combination)[point.score](split.logits)


def error_message(call, *arguments):
    with pytest.raises(InputError) as raised:
        call(*arguments)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_without_a_request_the_point_is_that_of_the_run(results, outputs):
    assert requested_point(results, outputs, PointRequest()) == certification.operating_point(
        results
    )


def test_risk_and_delta_are_certified_on_calibration(results, outputs):
    point = requested_point(results, outputs, PointRequest(risk=0.2, delta=0.1))
    confidence = confidence_of(point, outputs["calibration"])
    correct = outputs["calibration"].correct
    expected = selective.learn_then_test(confidence, correct, risk=0.2, delta=0.1)
    assert point.certified and point.threshold == expected.threshold
    assert (point.guarantee["risk"], point.guarantee["delta"]) == (0.2, 0.1)


@pytest.mark.parametrize("coverage", [0.25, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("score", [None, "margin", "reservation"])
def test_coverage_determines_a_threshold_between_two_confidences_of_dev(
    results, outputs, coverage, score
):
    point = requested_point(results, outputs, PointRequest(coverage=coverage, score=score))
    confidence = np.sort(confidence_of(point, outputs["dev"]).astype(np.float64))[::-1]
    count = int(np.sum(confidence >= point.threshold))
    assert count == round(coverage * 120)
    if coverage < 1:
        expected = (confidence[count - 1] + confidence[count]) / 2
        assert point.threshold == pytest.approx(expected, rel=1e-12)
    assert point.score == LOG_FORMS.get(score, results["best_score"])  # without ties near 1
    assert not point.certified and point.guarantee is None
    assert point.source == f"dev, {100 * coverage:g} % coverage"


def test_coverage_does_not_depend_on_calibration_and_test(results, outputs):
    others = {**outputs, "test": outputs["dev"], "calibration": outputs["dev"]}
    request = PointRequest(coverage=0.8)
    assert requested_point(results, others, request) == requested_point(results, outputs, request)


def test_threshold_is_used_as_given(results, outputs):
    point = requested_point(results, outputs, PointRequest(threshold=0.75, score="margin"))
    assert (point.score, point.threshold, point.source) == ("margin", 0.75, "given")
    assert not point.certified and point.guarantee is None


def test_a_threshold_without_a_score_is_a_probability(results, outputs):
    run = {**results, "best_score": "softmax_response_log_odds"}
    point = requested_point(run, outputs, PointRequest(threshold=0.9))
    assert (point.score, point.threshold) == ("softmax_response", 0.9)
    request = PointRequest(threshold=0.9, score="softmax_response_log_odds")
    assert requested_point(run, outputs, request).score == "softmax_response_log_odds"
    assert requested_point(run, outputs, PointRequest()).score == "softmax_response_log_odds"


def test_acceptance_counts_accepted_images_and_errors(results, outputs):
    point = requested_point(results, outputs, PointRequest(coverage=0.6))
    counts = acceptance(point, outputs["test"])
    confidence = confidence_of(point, outputs["test"])
    correct = outputs["test"].correct
    coverage, error = selective.accept_at(confidence, correct, point.threshold)
    assert (counts["coverage"], counts["error"]) == (coverage, error)
    assert counts["images"] == 200 and counts["accepted"] == round(200 * coverage)
    assert counts["errors"] == round(error * counts["accepted"])
    nothing = acceptance(point._replace(threshold=np.inf), outputs["test"])
    assert (nothing["accepted"], nothing["error"]) == (0, None)
    assert risk_bound(nothing, 0.05) is None


def test_risk_bound_of_a_fixed_threshold_holds_with_probability_1_minus_delta():
    rng = np.random.default_rng(0)
    wrong = rng.binomial(200, 0.07, size=3000)
    bounds = [risk_bound({"accepted": 200, "errors": int(count)}, 0.1) for count in wrong]
    failures = np.mean(np.array(bounds) < 0.07)
    assert 0.03 < failures <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / 3000)


@pytest.mark.parametrize(
    ("request_fields", "part"),
    [
        ({"risk": 0.1, "coverage": 0.9}, "--risk=0.1 and --coverage=0.9 exclude each other"),
        ({"coverage": 0.9, "threshold": 1.5}, "--coverage=0.9 and --threshold=1.5 exclude"),
        ({"risk": 1.0}, "risk must lie in (0, 1): got 1.0"),
        ({"coverage": 0.9, "delta": 0.0}, "delta must lie in (0, 1): got 0.0"),
        ({"coverage": 0.0}, "coverage 0: must lie in (0, 1]"),
        ({"coverage": 90}, "coverage 90: must lie in (0, 1]; 90 % is 0.9"),
        ({"coverage": float("nan")}, "coverage nan: must lie in (0, 1]"),
        ({"threshold": float("inf")}, "threshold inf: must be a finite number"),
        ({"classwise": True, "coverage": 0.9}, "--classwise and --coverage=0.9 exclude each other"),
        ({"classwise": True, "threshold": 0.5}, "--classwise and --threshold=0.5 exclude"),
    ],
)
def test_invalid_request_raises_before_anything_is_computed(request_fields, part):
    assert part in error_message(check_request, PointRequest(**request_fields))


def test_scores_of_this_version_can_be_requested_of_results_of_an_earlier_one(results, outputs):
    old = {**results, "best_score": "margin", "scores": {"reservation": {}, "margin": {}}}
    del old["combination"]
    assert requested_point(old, outputs, PointRequest()).score == "margin"
    for score in ("energy", "doctor", "reservation_log_odds"):
        point = requested_point(old, outputs, PointRequest(coverage=0.5, score=score))
        assert point.score == score
        assert np.mean(confidence_of(point, outputs["dev"]) >= point.threshold) == 0.5


def test_unknown_score_raises_with_the_nearest_one(results, outputs):
    line = error_message(requested_point, results, outputs, PointRequest(score="margins"))
    assert "unknown score 'margins': did you mean 'margin'?" in line


def test_score_of_an_untrained_abstention_output_raises(outputs):
    results = summary.summarize(outputs, abstains=False, risk=0.1, delta=0.05)
    line = error_message(requested_point, results, outputs, PointRequest(score="reservation"))
    assert "'reservation' reads the abstention output, which this run has not trained" in line
    assert "softmax_response" in line.partition("valid: ")[2]


def test_threshold_that_accepts_nothing_of_dev_raises_with_the_range(results, outputs):
    request = PointRequest(threshold=95, score="margin")
    line = error_message(requested_point, results, outputs, request)
    assert "threshold 95 accepts no image of dev: there margin lies between 0." in line


# Thresholds of the classes


@pytest.fixture(scope="module")
def many():
    """Predictions with enough calibration images of each class."""
    sizes = {"dev": 120, "calibration": 1600, "test": 400}
    return {name: sample_runs.split(size, seed) for seed, (name, size) in enumerate(sizes.items())}


@pytest.fixture(scope="module")
def classwise_point(many):
    results = summary.summarize(many, abstains=True, risk=0.1, delta=0.05)
    return requested_point(results, many, PointRequest(risk=0.12, classwise=True))


def test_each_class_gets_its_certified_threshold(classwise_point, many):
    confidence = confidence_of(classwise_point, many["calibration"])
    predicted = many["calibration"].logits[:, :-1].argmax(axis=1)
    correct = predicted == many["calibration"].labels
    expected = selective.classwise(confidence, correct, predicted, risk=0.12, delta=0.05)
    assert classwise_point.class_thresholds == tuple(expected.threshold)
    assert classwise_point.threshold == min(classwise_point.class_thresholds)
    assert classwise_point.certified and classwise_point.source == "certificate of each class"
    assert classwise_point.guarantee["risk"] == 0.12


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_prediction_is_accepted_by_the_threshold_of_its_class(classwise_point, dtype):
    thresholds = np.array([0.1, 0.7, np.inf, 0.3])
    point = classwise_point._replace(class_thresholds=tuple(thresholds))
    rng = np.random.default_rng(0)
    predicted = rng.integers(0, 4, 500)
    confidence = rng.random(500).astype(dtype)
    confidence[:3] = thresholds[[0, 1, 3]]  # float32(0.1) > 0.1, float32(0.7) < 0.7
    predicted[:3] = 0, 1, 3
    expected = confidence.astype(np.float64) >= thresholds[predicted]
    assert point.accepts(confidence, predicted).tolist() == expected.tolist()
    traced = jax.jit(point.accepts)(confidence.astype(np.float32), predicted)
    of_float32 = confidence.astype(np.float32).astype(np.float64) >= thresholds[predicted]
    assert np.asarray(traced).tolist() == of_float32.tolist()


def test_figures_and_classes_are_those_of_the_class_thresholds(classwise_point, many):
    test, names = many["test"], list(sample_runs.CLASSES)
    predicted = test.logits[:, :-1].argmax(axis=1)
    limits = np.array(classwise_point.class_thresholds)[predicted]
    kept = confidence_of(classwise_point, test).astype(np.float64) >= limits
    assert classwise_point.decide(test).tolist() == kept.tolist()
    assert acceptance(classwise_point, test)["accepted"] == kept.sum()
    rates = per_class.at_operating_point(classwise_point, test, names)
    assert rates["predicted"]["accepted"] == np.bincount(predicted[kept], minlength=4).tolist()
    assert rates["risk"] == 0.12


def test_without_the_predicted_classes_nothing_is_decided(classwise_point):
    line = error_message(classwise_point.accepts, np.ones(2))
    assert "each class has a threshold of its own" in line


def test_if_no_class_is_certified_nothing_is_accepted(many):
    results = summary.summarize(many, abstains=True, risk=0.1, delta=0.05)
    point = requested_point(results, many, PointRequest(risk=1e-4, classwise=True))
    assert not point.certified and point.source == "none" and point.threshold == np.inf
    assert point.class_thresholds == (np.inf,) * 4
    assert acceptance(point, many["test"])["accepted"] == 0
