"""The promise about the lists of classes: its values from predictions, and its sentences."""

import json
import math

import numpy as np
import pytest
from support import sample_runs

from kdjax import selective
from kdjax.evaluation import promises
from kdjax.evaluation.promises import sets
from kdjax.selective.set_scores import SET_METHODS

CLASSES = len(sample_runs.CLASSES)


@pytest.fixture(scope="module")
def outputs():
    sizes = {"dev": 150, "calibration": 600, "test": 500}
    return {split: sample_runs.split(n, seed) for seed, (split, n) in enumerate(sizes.items())}


def confidence_of(logits):
    return np.asarray(selective.softmax_response_log_odds(logits, abstention=True))


@pytest.fixture(scope="module")
def evidence_of(outputs):
    """Returns a function: risk, and changes of the evidence -> evidence."""
    calibration = outputs["calibration"]
    sample = confidence_of(calibration.logits), calibration.correct

    def make(risk=0.2, *, settings=None, **changes):
        threshold = selective.learn_then_test(*sample, risk=risk, delta=0.05).threshold
        return promises.Evidence(
            **outputs,
            confidence=confidence_of,
            threshold=threshold,
            source="certificate" if math.isfinite(threshold) else "none",
            risk=risk,
            delta=0.05,
            runs=1,
            class_names=sample_runs.CLASSES,
            settings=settings or {},
        )._replace(**changes)

    return make


def own_scores(split, rule):
    return selective.true_scores(rule.scores(split.logits[:, :-1]), split.labels)


@pytest.mark.slow
@pytest.mark.parametrize("method", SET_METHODS)
@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_quantiles_are_those_of_calibration_and_metrics_those_of_test(evidence_of, method, alpha):
    evidence = evidence_of(settings={"set_method": method, "set_alpha": alpha})
    assert math.isfinite(evidence.threshold)
    values = json.loads(json.dumps(sets.compute(evidence), allow_nan=False))
    rule = selective.set_rule(values)
    assert (values["method"], values["alpha"]) == (method, alpha)
    own = own_scores(evidence.calibration, rule)
    confidence, correct = evidence.sample("calibration")
    found = selective.certified_rejected_quantile(
        own, confidence, correct, risk=0.2, delta=0.05, alpha=alpha
    )
    assert (rule.quantile, rule.below) == (found.quantile, found.below)
    assert values["rejected"]["examples"] == found.examples == np.sum(confidence < found.below)
    marginal = selective.set_quantile(own, alpha=alpha)
    assert values["marginal"] == {"quantile": marginal, "examples": 600}

    logits, labels = evidence.test.logits[:, :-1], evidence.test.labels
    on_test = evidence.sample("test")[0]
    rejected = on_test < evidence.threshold
    for_all = rule._replace(quantile=marginal).sets(logits)
    shown = rule.sets(logits, on_test)
    for name, members, rows in (
        ("all", for_all, np.ones(500, bool)),
        ("accepted", for_all, ~rejected),
        ("rejected_marginal", for_all, rejected),
        ("rejected", shown, rejected),
    ):
        measured, hits = values["test"][name], members[np.arange(500), labels][rows]
        assert measured["examples"] == rows.sum() == sum(measured["sizes"])
        assert measured["coverage"] == pytest.approx(hits.mean())
        assert measured["mean_size"] == pytest.approx(members[rows].sum(axis=1).mean())
        by_class = [hits[labels[rows] == label].mean() for label in range(CLASSES)]
        assert measured["class_coverage"] == pytest.approx(by_class)


def test_only_raps_has_parameters_and_they_come_from_dev(evidence_of):
    evidence = evidence_of(settings={"set_method": "raps"})
    values = sets.compute(evidence)
    expected = selective.fit_raps(
        evidence.dev.logits, evidence.dev.labels, alpha=0.1, abstention=True
    )
    assert (values["k_reg"], values["penalty"]) == expected
    for method in ("lac", "aps"):
        values = sets.compute(evidence_of(settings={"set_method": method}))
        assert values["k_reg"] is values["penalty"] is None


def test_config_of_an_earlier_version_gives_the_default_sets(evidence_of):
    default = {"set_method": "lac", "set_alpha": 0.1}
    assert sets.compute(evidence_of()) == sets.compute(evidence_of(settings=default))


def test_sets_of_a_run_that_accepts_nothing_are_for_all_images(evidence_of):
    values = sets.compute(evidence_of(risk=0.001))
    assert values["rejected"]["below"] is None and values["rejected"]["examples"] == 600
    assert values["test"]["accepted"]["examples"] == 0
    assert values["test"]["accepted"]["coverage"] is None
    assert values["test"]["rejected"]["examples"] == 500


def test_threshold_from_dev_makes_the_rejected_a_group_of_their_own(evidence_of):
    evidence = evidence_of(threshold=1.0, source="dev, 90 % coverage")
    values = sets.compute(evidence)
    confidence = evidence.sample("calibration")[0]
    own = own_scores(evidence.calibration, selective.SetRule("lac"))
    assert values["rejected"] == {
        "quantile": selective.set_quantile(own[confidence < 1], alpha=0.1),
        "below": 1.0,
        "examples": int(np.sum(confidence < 1)),
        "conditional": True,
    }


def test_thresholds_of_the_classes_give_sets_for_all_images(evidence_of):
    evidence = evidence_of(class_thresholds=(0.0, 1.0, math.inf, 2.0))
    values = sets.compute(evidence)
    assert values["rejected"] == {**values["marginal"], "below": None, "conditional": False}
    rejected = values["test"]["rejected"]
    assert rejected == values["test"]["rejected_marginal"] and values["left_out"] is None
    assert rejected["examples"] == np.sum(~evidence.accepted("test"))
    first, *_ = sets.statement(values).sentences
    assert "on average at least 90 % of all new images" in first and "it may be fewer" in first


def joint(evidence, coverage):
    """Returns evidence with the threshold for a requested coverage, as a run would have it."""
    confidence, correct = evidence.sample("calibration")
    found = selective.joint_certificate(
        confidence, correct, risk=evidence.risk, coverage=coverage, delta=0.05
    )
    settings = {**evidence.settings, "coverage": coverage}
    threshold = found.threshold if found.both else evidence.threshold
    return found.both, evidence._replace(settings=settings, threshold=threshold)


@pytest.mark.parametrize(("coverage", "possible"), [(0.1, True), (0.99, False)])
def test_requested_coverage_counts_every_test_that_chose_the_threshold(
    evidence_of, coverage, possible
):
    both, evidence = joint(evidence_of(), coverage)
    assert both == possible
    values = sets.compute(evidence)["rejected"]
    own = own_scores(evidence.calibration, selective.SetRule("lac"))
    found = selective.certified_rejected_quantile(
        own,
        *evidence.sample("calibration"),
        risk=0.2,
        delta=0.05 / 3 if both else 0.05,
        alpha=0.1,
        also_tested=() if both else (0.05 / 3,),
    )
    assert (values["quantile"], values["below"]) == (found.quantile, found.below)
    assert values["conditional"]


@pytest.mark.parametrize(
    "changes",
    [
        {"threshold": 0.123},  # of no test that is known
        {"risk": 0.001, "settings": {"coverage": 0.5}},  # two tests certified nothing
    ],
)
def test_threshold_of_another_test_gives_sets_for_all_images(evidence_of, changes):
    values = sets.compute(evidence_of(**changes))
    assert values["rejected"] == {**values["marginal"], "below": None, "conditional": False}


@pytest.mark.slow
def test_promise_is_registered_and_stored_with_the_others(evidence_of):
    stored = promises.compute_all(evidence_of())
    assert stored["sets"] == sets.compute(evidence_of())
    titles = [statement.title for statement in promises.statements({"promises": stored})]
    assert sets.TITLE in titles


# Sentences


def test_statement_says_how_often_the_right_class_is_in_the_set(evidence_of):
    values = sets.compute(evidence_of())
    statement, rejected = sets.statement(values), values["test"]["rejected"]
    text = " ".join(statement.sentences)
    assert (
        "On average, the set contains the right class for at least 90 % of the new images" in text
    )
    assert "there is no certainty such as 95 %" in text and statement.table is None
    assert f"{rejected['examples']:,} test images" in text
    assert f"{100 * rejected['coverage']:.1f} % of them" in text
    assert f"{rejected['mean_size']:.1f} of 4 classes on average" in text
    shares = [100 * count / rejected["examples"] for count in rejected["sizes"][1:]]
    for size, share in enumerate(shares, 1):
        assert (f"{size} class{'es' if size > 1 else ''}: {share:.1f} %" in text) == (share > 0)
    assert "on average" in statement.scope


def test_calibration_images_that_are_not_used_are_counted(evidence_of):
    evidence = evidence_of()
    values = sets.compute(evidence)
    abstained = int(np.sum(evidence.sample("calibration")[0] < evidence.threshold))
    used = values["rejected"]["examples"]
    assert values["left_out"] == abstained - used > 0
    text = " ".join(sets.statement(values).sentences)
    assert f"based on {used} of the {abstained} calibration images on which it abstains" in text
    # Results of a version that has not counted them, and a threshold that was not certified.
    del values["left_out"]
    given = sets.compute(evidence_of(threshold=1.0, source="given"))
    assert given["left_out"] == 0
    for each in (values, given):
        number = each["rejected"]["examples"]
        assert f"based on {number} calibration images." in " ".join(sets.statement(each).sentences)


def changed(values, **rejected):
    return {**values, "rejected": {**values["rejected"], **rejected}}


@pytest.mark.parametrize(("alpha", "needed"), [(0.1, "9 are needed"), (0.05, "19 are needed")])
def test_statement_without_a_quantile_says_how_many_images_are_needed(evidence_of, alpha, needed):
    values = changed(
        sets.compute(evidence_of(settings={"set_alpha": alpha})), quantile=None, examples=3
    )
    first, *_ = sets.statement(values).sentences
    assert "names all classes" in first and "only 3 were usable" in first and needed in first


def test_statement_of_a_run_that_abstains_on_no_test_image(evidence_of):
    values = sets.compute(evidence_of(threshold=-100.0, source="given"))
    assert values["rejected"]["quantile"] is None and values["rejected"]["examples"] == 0
    assert values["test"]["rejected"]["examples"] == 0
    statement = sets.statement(values)
    assert statement.sentences[-1] == "The model abstains on no test image."


def test_long_sets_are_counted_together(evidence_of):
    values = sets.compute(evidence_of())
    test = {
        "examples": 10,
        "coverage": 0.9,
        "mean_size": 4.1,
        "sizes": [0, 1, 0, 2, 0, 3, 4],
        "class_coverage": [None] * 6,
    }
    values = {**values, "test": {**values["test"], "rejected": {**test, "class_examples": [0] * 6}}}
    text = sets.statement(values).sentences[-1]
    assert text.endswith("(1 class: 10.0 %, 3 classes: 20.0 %, more: 70.0 %).")
