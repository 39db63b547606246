"""The content of results.json against its definition in float64."""

import json

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import entr, logit, logsumexp, softmax
from sklearn.metrics import confusion_matrix, log_loss, roc_auc_score

from kdjax import selective
from kdjax.errors import InputError
from kdjax.evaluation import certification, summary
from kdjax.evaluation.predictions import Predictions

CLASSES = 5
COVERAGES = {"100": 1.0, "95": 0.95, "90": 0.9, "85": 0.85, "80": 0.8, "75": 0.75, "70": 0.7}


def random_split(n, seed):
    """Returns logits that are mostly correct, with distinct confidences."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(CLASSES, size=n)
    logits = 2 * rng.normal(size=(n, CLASSES + 1))
    logits[np.arange(n), labels] += rng.exponential(3, size=n)
    return Predictions(logits.astype(np.float32), labels.astype(np.int32))


DEV, CALIBRATION, TEST = random_split(90, 10), random_split(400, 3), random_split(70, 7)


# The definitions of the numbers, in float64.


def pnorm(logits, p):
    centred = logits[:, :-1] - logits[:, :-1].mean(axis=1, keepdims=True)
    return centred.max(axis=1) / np.linalg.norm(centred, p, axis=1)


def response(z):
    return softmax(z[:, :-1], axis=1).max(axis=1)


def margin(z):
    return -np.diff(np.sort(softmax(z[:, :-1], axis=1))[:, :-3:-1])[:, 0]


CONFIDENCE = {
    "negative_entropy": lambda z: -entr(softmax(z[:, :-1], axis=1)).sum(axis=1),
    "reservation_log_odds": lambda z: -logit(softmax(z, axis=1)[:, -1]),
    "softmax_response_log_odds": lambda z: logit(response(z)),
    "max_probability_log_odds": lambda z: logit(softmax(z, axis=1)[:, :-1].max(axis=1)),
    "margin_log": lambda z: -np.log1p(-margin(z)),
    "doctor": lambda z: logit(np.sum(softmax(z[:, :-1], axis=1) ** 2, axis=1)),
    "energy": lambda z: logsumexp(z[:, :-1], axis=1),
}


def confidence(name, split):
    logits = split.logits.astype(np.float64)
    return CONFIDENCE[name](logits) if name in CONFIDENCE else pnorm(logits, best_power(DEV))


def best_power(split):
    logits, is_wrong = split.logits.astype(np.float64), wrong(split)
    return min(selective.PNORMS, key=lambda p: area(pnorm(logits, p), is_wrong))


def wrong(split):
    return split.logits[:, :-1].argmax(axis=1) != split.labels


def errors(ranks, wrong):
    """Returns the expected errors among the k most confident, k = 1..n, ties in random order."""
    share = np.array([wrong[ranks == rank].mean() for rank in ranks])
    return np.cumsum(share[np.argsort(-ranks)])


def area(ranks, wrong):
    return np.mean(errors(ranks, wrong) / np.arange(1, len(wrong) + 1))


def dev_area(name):
    """AURC on dev; of `max_logit_pnorm`, each error counts with the p that is best without it."""
    is_wrong = wrong(DEV)
    if name in CONFIDENCE:
        return area(confidence(name, DEV), is_wrong)
    if name == "combination":
        return selective.cross_validated_combination_aurc(DEV.logits, DEV.labels)
    logits, total = DEV.logits.astype(np.float64), 0
    ranks = {p: pnorm(logits, p) for p in selective.PNORMS}
    for error in np.flatnonzero(is_wrong):
        others = is_wrong & (np.arange(len(is_wrong)) != error)
        without = {p: area(ranks[p], others) for p in ranks}
        best = min(without, key=without.__getitem__)
        total += area(ranks[best], is_wrong) - without[best]
    return total


def calibration_error(split):
    predicted = response(split.logits.astype(np.float64))
    bins = np.ceil(predicted * 15)
    gaps = [(~wrong(split) - predicted)[bins == b].sum() for b in np.unique(bins)]
    return np.abs(gaps).sum() / len(predicted)


def nll(split):
    return log_loss(
        split.labels,
        softmax(split.logits[:, :-1].astype(np.float64), axis=1),
        labels=range(CLASSES),
    )


def summarize(*, dev=DEV, calibration=CALIBRATION, test=TEST, abstains=True, risk=0.3):
    outputs = {"dev": dev, "calibration": calibration, "test": test}
    return summary.summarize(outputs, abstains=abstains, risk=risk, delta=0.1)


@pytest.fixture(scope="module")
def results():
    return summarize()


@pytest.mark.parametrize(
    ("name", "split"), [("dev", DEV), ("calibration", CALIBRATION), ("test", TEST)]
)
def test_accuracy_nll_and_ece_are_those_of_the_class_logits(results, name, split):
    assert results["classes"] == CLASSES
    assert set(results[name]) == {"examples", "accuracy", "nll", "ece"}
    assert results[name]["examples"] == len(split.labels)
    assert results[name]["accuracy"] == np.mean(~wrong(split))
    assert_allclose(results[name]["nll"], nll(split), rtol=1e-6)
    assert_allclose(results[name]["ece"], calibration_error(split), rtol=1e-5)


each_score = pytest.mark.parametrize("name", [*CONFIDENCE, "max_logit_pnorm"])


@each_score
def test_ranking_metrics_follow_their_definitions(results, name):
    values, ranks, is_wrong = results["scores"][name], confidence(name, TEST), wrong(TEST)
    n = len(is_wrong)
    perfect = area(1.0 - is_wrong, is_wrong)
    heights = np.append(0, errors(ranks, is_wrong)) / n
    expected = {
        "dev_aurc": dev_area(name),
        "aurc": area(ranks, is_wrong),
        "e_aurc": area(ranks, is_wrong) - perfect,
        "augrc": np.mean((heights[1:] + heights[:-1]) / 2),
        "auroc": roc_auc_score(~is_wrong, ranks),
    }
    for key, value in expected.items():
        assert_allclose(values[key], value, rtol=0, atol=1e-12, err_msg=key)


@each_score
def test_error_at_coverage_counts_the_most_confident(results, name):
    counts = errors(confidence(name, TEST), wrong(TEST))
    kept = {key: round(c * len(counts)) for key, c in COVERAGES.items()}
    expected = {key: counts[k - 1] / k for key, k in kept.items()}
    assert results["scores"][name]["error_at_coverage"] == expected


@each_score
def test_thresholds_are_chosen_on_dev_and_evaluated_on_test(results, name):
    ranks, on_test, is_wrong = confidence(name, DEV), confidence(name, TEST), wrong(TEST)
    thresholds = results["scores"][name]["thresholds"]
    assert list(thresholds) == list(COVERAGES)[1:]
    for key, values in thresholds.items():
        k = next(k for k in range(1, 91) if k / 90 >= COVERAGES[key])
        threshold = np.sort(ranks)[[-k, -k - 1]].mean()  # half-way to the first abstention
        accepted = on_test >= threshold
        assert_allclose(values["threshold"], threshold, rtol=2e-6, atol=2e-6)
        assert values["test_coverage"] == np.mean(accepted)
        assert values["test_error"] == np.mean(is_wrong[accepted])


def test_pnorm_is_chosen_on_dev():
    assert best_power(DEV) != best_power(TEST)
    power = selective.best_pnorm(DEV.logits, DEV.labels)
    chosen = selective.numpy_scores(power)["max_logit_pnorm"](TEST.logits)
    assert_allclose(chosen, pnorm(TEST.logits.astype(np.float64), best_power(DEV)), rtol=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_pnorm_does_not_depend_on_rounding(seed):
    # The score does not depend on the scale of the logits, except for rounding.
    split = random_split(70, seed)
    unscaled, scaled = (
        selective.best_pnorm(scale * split.logits, split.labels)
        for scale in (np.float32(1), np.float32(0.3))
    )
    assert unscaled == scaled


def test_combination_is_fitted_on_dev(results):
    labelled = DEV.logits, DEV.labels
    assert results["combination"] == selective.fit_combination(*labelled)
    scores = selective.numpy_scores(results["pnorm"], results["combination"])
    values = results["scores"]["combination"]
    assert values["dev_aurc"] == selective.cross_validated_combination_aurc(*labelled)
    assert_allclose(values["aurc"], area(scores["combination"](TEST.logits), wrong(TEST)))


def test_new_results_have_no_score_that_saturates(results):
    saturating = {"reservation", "softmax_response", "max_probability", "margin"}
    assert set(results["scores"]) == selective.SCORES.keys() - saturating


def test_the_best_score_has_the_lowest_aurc_on_dev(results):
    areas = {name: dev_area(name) for name in results["scores"]}
    assert results["best_score"] == min(areas, key=areas.__getitem__)


def test_nothing_is_chosen_on_test(results):
    other_test = summarize(test=random_split(70, 2))
    for key in ("best_score", "pnorm", "dev", "calibration"):
        assert other_test[key] == results[key]
    assert other_test["test"] != results["test"]
    for name, values in results["scores"].items():
        other_values = other_test["scores"][name]
        assert other_values["aurc"] != values["aurc"]
        assert other_values["dev_aurc"] == values["dev_aurc"]
        for key in COVERAGES.keys() - {"100"}:
            threshold = values["thresholds"][key]["threshold"]
            assert other_values["thresholds"][key]["threshold"] == threshold


def perfect_abstention(split):
    """Returns the split with a high abstention logit exactly where the prediction is wrong."""
    logits = split.logits.copy()
    logits[:, -1] = logits[:, :-1].max(axis=1) + np.where(wrong(split), 5, -5)
    return split._replace(logits=logits)


@pytest.mark.slow
def test_without_abstention_its_logit_is_not_used(results):
    dev, test = perfect_abstention(DEV), perfect_abstention(TEST)
    assert summarize(dev=dev, test=test)["best_score"] in summary.ABSTENTION_SCORES
    no_abstention = summarize(dev=dev, test=test, abstains=False)
    assert set(results["scores"]) - set(no_abstention["scores"]) == {
        "reservation_log_odds",
        "max_probability_log_odds",
        "combination",
    }
    assert no_abstention["combination"] is None
    assert no_abstention["best_score"] in no_abstention["scores"]
    for name, values in no_abstention["scores"].items():
        assert values == results["scores"][name]
    minus_infinity = {
        name: split._replace(logits=selective.append_abstention(split.logits[:, :-1]))
        for name, split in (("dev", DEV), ("calibration", CALIBRATION), ("test", TEST))
    }
    assert summarize(**minus_infinity, abstains=False) == no_abstention


def test_append_abstention_adds_minus_infinity():
    logits = selective.append_abstention(DEV.logits[:, :-1])
    assert logits.dtype == np.float32
    assert_array_equal(logits, np.column_stack([DEV.logits[:, :-1], np.full(90, -np.inf)]))


@pytest.mark.parametrize("columns", [CLASSES, CLASSES + 1])
def test_split_metrics_use_the_class_logits(columns):
    values = selective.split_metrics(TEST.logits[:, :columns], TEST.labels, CLASSES)
    assert set(values) == {"accuracy", "nll", "aurc"}
    assert values["accuracy"] == np.mean(~wrong(TEST))
    assert_allclose(values["nll"], nll(TEST), rtol=1e-6)
    expected = area(response(TEST.logits.astype(np.float64)), wrong(TEST))
    assert_allclose(values["aurc"], expected, rtol=1e-12)


def with_logit(split, column, value):
    logits = split.logits.copy()
    logits[3, column] = value
    return split._replace(logits=logits)


each_bad_value = pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])


@each_bad_value
@pytest.mark.parametrize("column", [0, -1])
def test_split_metrics_of_non_finite_logits_report_divergence(value, column):
    logits, labels, _ = with_logit(TEST, column, value)
    with pytest.raises(FloatingPointError, match="diverged"):
        selective.split_metrics(logits, labels, CLASSES)


@each_bad_value
@pytest.mark.parametrize(
    ("name", "split"), [("dev", DEV), ("calibration", CALIBRATION), ("test", TEST)]
)
def test_non_finite_class_logits_are_rejected(value, name, split):
    with pytest.raises(InputError, match=r"finite|NaN"):
        summarize(**{name: with_logit(split, 0, value)})


def test_the_best_score_is_certified_on_calibration_at_the_requested_risk(results):
    score = results["best_score"]
    ranks = [confidence(score, split) for split in (CALIBRATION, TEST)]
    corrects = [~wrong(split) for split in (CALIBRATION, TEST)]
    expected = certification.certify(*zip(ranks, corrects, strict=True), risk=0.3, delta=0.1)
    assert certification.requested_certificate(expected)["threshold"] is not None
    guarantee = results["guarantee"]
    assert guarantee["certificates"][0]["risk"] == guarantee["risk"] == 0.3
    for entry, expected_entry in zip(
        guarantee["certificates"], expected["certificates"], strict=True
    ):
        for certifier in certification.CERTIFIERS:
            values, expected_values = (
                [-1 if value is None else value for value in certified[certifier].values()]
                for certified in (entry, expected_entry)
            )
            assert_allclose(values, expected_values, rtol=1e-5)


def test_teacher_errors_are_counted_by_class_and_pair():
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(4, size=200), rng.normal(size=(200, 4))
    predicted = logits.argmax(axis=1)
    matrix = confusion_matrix(labels, predicted)
    np.fill_diagonal(matrix, 0)
    teacher = summary.teacher_errors(logits, labels)
    assert (teacher["examples"], teacher["wrong"]) == (200, np.sum(predicted != labels))
    assert teacher["by_class"] == [np.sum(predicted[labels == k] != k) for k in range(4)]
    assert {(i, j): count for i, j, count in teacher["pairs"]} == {
        (i, j): matrix[i, j] for i, j in np.argwhere(matrix)
    }
    counts = [count for _, _, count in teacher["pairs"]]
    assert counts == sorted(counts, reverse=True)
    json.dumps(teacher)


def test_a_teacher_without_errors_has_no_counts():
    teacher = summary.teacher_errors(np.eye(3), np.arange(3))
    assert teacher == {"examples": 3, "wrong": 0, "by_class": [0, 0, 0], "pairs": []}


def test_undefined_values_are_none_in_valid_json():
    all_correct = DEV._replace(labels=DEV.logits[:, :-1].argmax(axis=1))
    results = summarize(dev=all_correct, test=all_correct, risk=0.01)
    assert all(values["auroc"] is None for values in results["scores"].values())
    assert results["guarantee"]["certificates"][-1]["sgr"]["threshold"] is None
    json.dumps(results, allow_nan=False)
