import json

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import entr, softmax
from sklearn.metrics import confusion_matrix, log_loss, roc_auc_score

from kdjax.errors import InputError
from kdjax.report import guarantees, results
from kdjax.report.predictions import Predictions

CLASSES = 5
COVERAGES = {"100": 1.0, "95": 0.95, "90": 0.9, "85": 0.85, "80": 0.8, "75": 0.75, "70": 0.7}


def random_split(n, seed):
    """Logits of a network that is right more often than not, with distinct confidences."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(CLASSES, size=n)
    logits = 2 * rng.normal(size=(n, CLASSES + 1))
    logits[np.arange(n), labels] += rng.exponential(3, size=n)
    return Predictions(logits.astype(np.float32), labels.astype(np.int32))


DEV, CALIBRATION, TEST = random_split(90, 10), random_split(400, 3), random_split(70, 7)


# What every number means, in float64.


def pnorm(logits, p):
    centred = logits[:, :-1] - logits[:, :-1].mean(axis=1, keepdims=True)
    return centred.max(axis=1) / np.linalg.norm(centred, p, axis=1)


CONFIDENCE = {
    "reservation": lambda z: 1 - softmax(z, axis=1)[:, -1],
    "softmax_response": lambda z: softmax(z[:, :-1], axis=1).max(axis=1),
    "max_probability": lambda z: softmax(z, axis=1)[:, :-1].max(axis=1),
    "negative_entropy": lambda z: -entr(softmax(z[:, :-1], axis=1)).sum(axis=1),
    "margin": lambda z: -np.diff(np.sort(softmax(z[:, :-1], axis=1))[:, :-3:-1])[:, 0],
}


def confidence(name, split):
    logits = split.logits.astype(np.float64)
    return CONFIDENCE[name](logits) if name in CONFIDENCE else pnorm(logits, best_power(DEV))


def best_power(split):
    logits, missed = split.logits.astype(np.float64), wrong(split)
    return min(results.PNORMS, key=lambda p: area(pnorm(logits, p), missed))


def wrong(split):
    return split.logits[:, :-1].argmax(axis=1) != split.labels


def errors(ranks, wrong):
    """The expected errors among the k most confident, k = 1..n, tied ones in random order."""
    share = np.array([wrong[ranks == rank].mean() for rank in ranks])
    return np.cumsum(share[np.argsort(-ranks)])


def area(ranks, wrong):
    return np.mean(errors(ranks, wrong) / np.arange(1, len(wrong) + 1))


def calibration_error(split):
    response = CONFIDENCE["softmax_response"](split.logits.astype(np.float64))
    bins = np.ceil(response * 15)
    gaps = [(~wrong(split) - response)[bins == b].sum() for b in np.unique(bins)]
    return np.abs(gaps).sum() / len(response)


def nll(split):
    return log_loss(
        split.labels,
        softmax(split.logits[:, :-1].astype(np.float64), axis=1),
        labels=range(CLASSES),
    )


def summarize(*, dev=DEV, calibration=CALIBRATION, test=TEST, abstains=True, risk=0.3):
    outputs = {"dev": dev, "calibration": calibration, "test": test}
    return results.summarize(outputs, abstains=abstains, risk=risk, delta=0.1)


@pytest.fixture(scope="module")
def found():
    return summarize()


@pytest.mark.parametrize(
    ("name", "split"), [("dev", DEV), ("calibration", CALIBRATION), ("test", TEST)]
)
def test_accuracy_likelihood_and_calibration_are_those_of_the_class_logits(found, name, split):
    assert found["classes"] == CLASSES
    assert set(found[name]) == {"examples", "accuracy", "nll", "ece"}
    assert found[name]["examples"] == len(split.labels)
    assert found[name]["accuracy"] == np.mean(~wrong(split))
    assert_allclose(found[name]["nll"], nll(split), rtol=1e-6)
    assert_allclose(found[name]["ece"], calibration_error(split), rtol=1e-5)


each_score = pytest.mark.parametrize("name", [*CONFIDENCE, "max_logit_pnorm"])


@each_score
def test_rankings_follow_their_definitions(found, name):
    values, ranks, missed = found["scores"][name], confidence(name, TEST), wrong(TEST)
    n = len(missed)
    perfect = area(1.0 - missed, missed)
    heights = np.append(0, errors(ranks, missed)) / n
    expected = {
        "dev_aurc": area(confidence(name, DEV), wrong(DEV)),
        "aurc": area(ranks, missed),
        "e_aurc": area(ranks, missed) - perfect,
        "augrc": np.mean((heights[1:] + heights[:-1]) / 2),
        "auroc": roc_auc_score(~missed, ranks),
    }
    for key, value in expected.items():
        assert_allclose(values[key], value, rtol=0, atol=1e-12, err_msg=key)


@each_score
def test_errors_are_counted_among_the_most_confident(found, name):
    counts = errors(confidence(name, TEST), wrong(TEST))
    kept = {key: round(c * len(counts)) for key, c in COVERAGES.items()}
    expected = {key: counts[k - 1] / k for key, k in kept.items()}
    assert found["scores"][name]["error_at_coverage"] == expected


@each_score
def test_thresholds_come_from_dev_and_are_judged_on_test(found, name):
    ranks, on_test, missed = confidence(name, DEV), confidence(name, TEST), wrong(TEST)
    thresholds = found["scores"][name]["thresholds"]
    assert list(thresholds) == list(COVERAGES)[1:]
    for key, values in thresholds.items():
        k = next(k for k in range(1, 91) if k / 90 >= COVERAGES[key])
        threshold = np.sort(ranks)[-k]
        accepted = on_test >= threshold
        assert_allclose(values["threshold"], threshold, rtol=2e-6, atol=2e-6)
        assert values["test_coverage"] == np.mean(accepted)
        assert values["test_error"] == np.mean(missed[accepted])


def test_the_power_of_pnorm_is_the_best_on_dev_and_not_on_test():
    assert best_power(DEV) != best_power(TEST)
    chosen = results.scores_with(results.best_pnorm(DEV))["max_logit_pnorm"](TEST.logits)
    assert_allclose(chosen, pnorm(TEST.logits.astype(np.float64), best_power(DEV)), rtol=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_rounding_does_not_choose_the_power_of_pnorm(seed):
    # The score is the same at any scale of the logits; only its rounding is another.
    split = random_split(70, seed)
    one, other = (
        results.best_pnorm(split._replace(logits=scale * split.logits))
        for scale in (np.float32(1), np.float32(0.3))
    )
    assert one == other


def test_the_best_score_has_the_lowest_aurc_on_dev(found):
    areas = {name: area(confidence(name, DEV), wrong(DEV)) for name in found["scores"]}
    assert found["best_score"] == min(areas, key=areas.__getitem__)


def test_nothing_is_chosen_on_test(found):
    other = summarize(test=random_split(70, 2))
    for key in ("best_score", "pnorm", "dev", "calibration"):
        assert other[key] == found[key]
    assert other["test"] != found["test"]
    for name, values in found["scores"].items():
        again = other["scores"][name]
        assert again["aurc"] != values["aurc"]
        assert again["dev_aurc"] == values["dev_aurc"]
        for key in COVERAGES.keys() - {"100"}:
            assert again["thresholds"][key]["threshold"] == values["thresholds"][key]["threshold"]


def knowing_when(split):
    """The split, its column of abstention high exactly where the prediction is wrong."""
    logits = split.logits.copy()
    logits[:, -1] = logits[:, :-1].max(axis=1) + np.where(wrong(split), 5, -5)
    return split._replace(logits=logits)


def test_without_abstention_its_column_is_never_read(found):
    dev, test = knowing_when(DEV), knowing_when(TEST)
    assert summarize(dev=dev, test=test)["best_score"] == "reservation"
    silent = summarize(dev=dev, test=test, abstains=False)
    assert set(found["scores"]) - set(silent["scores"]) == {"reservation", "max_probability"}
    assert silent["best_score"] in silent["scores"]
    for name, values in silent["scores"].items():
        assert values == found["scores"][name]
    never = {
        name: split._replace(logits=results.with_abstention(split.logits[:, :-1]))
        for name, split in (("dev", DEV), ("calibration", CALIBRATION), ("test", TEST))
    }
    assert summarize(**never, abstains=False) == silent


def test_a_network_without_abstention_gets_a_column_that_never_wins():
    logits = results.with_abstention(DEV.logits[:, :-1])
    assert logits.dtype == np.float32
    assert_array_equal(logits, np.column_stack([DEV.logits[:, :-1], np.full(90, -np.inf)]))


@pytest.mark.parametrize("columns", [CLASSES, CLASSES + 1])
def test_the_metrics_of_a_split_come_from_the_class_logits(columns):
    values = results.split_metrics(TEST.logits[:, :columns], TEST.labels, CLASSES)
    assert set(values) == {"accuracy", "nll", "aurc"}
    assert values["accuracy"] == np.mean(~wrong(TEST))
    assert_allclose(values["nll"], nll(TEST), rtol=1e-6)
    expected = area(confidence("softmax_response", TEST), wrong(TEST))
    assert_allclose(values["aurc"], expected, rtol=1e-12)


def spoilt(split, column, value):
    logits = split.logits.copy()
    logits[3, column] = value
    return split._replace(logits=logits)


each_bad_value = pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])


@each_bad_value
@pytest.mark.parametrize("column", [0, -1])
def test_logits_that_are_not_finite_are_a_diverged_network(value, column):
    logits, labels = spoilt(TEST, column, value)
    with pytest.raises(FloatingPointError, match="diverged"):
        results.split_metrics(logits, labels, CLASSES)


@each_bad_value
@pytest.mark.parametrize(
    ("side", "split"), [("dev", DEV), ("calibration", CALIBRATION), ("test", TEST)]
)
def test_class_logits_that_are_not_finite_have_no_results(value, side, split):
    with pytest.raises(InputError, match=r"finite|NaN"):
        summarize(**{side: spoilt(split, 0, value)})


def test_the_best_score_is_certified_on_calibration_at_the_risk_asked_for(found):
    score = found["best_score"]
    ranks = [confidence(score, split) for split in (CALIBRATION, TEST)]
    rights = [~wrong(split) for split in (CALIBRATION, TEST)]
    expected = guarantees.guarantee(*zip(ranks, rights, strict=True), risk=0.3, delta=0.1)
    assert guarantees.operating(expected)["threshold"] is not None
    got = found["guarantee"]
    assert got["certificates"][0]["risk"] == got["risk"] == 0.3
    for one, other in zip(got["certificates"], expected["certificates"], strict=True):
        for certifier in guarantees.CERTIFIERS:
            values = [[-1 if v is None else v for v in e[certifier].values()] for e in (one, other)]
            assert_allclose(*values, rtol=1e-5)


def test_a_teacher_is_corrected_where_it_is_wrong():
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(4, size=200), rng.normal(size=(200, 4))
    taught = logits.argmax(axis=1)
    matrix = confusion_matrix(labels, taught)
    np.fill_diagonal(matrix, 0)
    found = results.correction(logits, labels)
    assert (found["examples"], found["wrong"]) == (200, np.sum(taught != labels))
    assert found["by_class"] == [np.sum(taught[labels == k] != k) for k in range(4)]
    assert {(i, j): count for i, j, count in found["pairs"]} == {
        (i, j): matrix[i, j] for i, j in np.argwhere(matrix)
    }
    counts = [count for _, _, count in found["pairs"]]
    assert counts == sorted(counts, reverse=True)
    json.dumps(found)


def test_a_teacher_without_fault_corrects_nothing():
    found = results.correction(np.eye(3), np.arange(3))
    assert found == {"examples": 3, "wrong": 0, "by_class": [0, 0, 0], "pairs": []}


def test_what_has_no_value_is_none_so_that_the_results_are_json():
    right = DEV._replace(labels=DEV.logits[:, :-1].argmax(axis=1))
    found = summarize(dev=right, test=right, risk=0.01)
    assert all(values["auroc"] is None for values in found["scores"].values())
    assert found["guarantee"]["certificates"][-1]["sgr"]["threshold"] is None
    json.dumps(found, allow_nan=False)
