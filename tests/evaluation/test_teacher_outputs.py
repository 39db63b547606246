"""Errors, adjustment and disagreement of teachers, by brute force on random logits."""

import numpy as np
import pytest
import scipy.special

from kdjax import config as configs
from kdjax.evaluation import teacher_outputs
from kdjax.evaluation.predictions import Predictions
from kdjax.evaluation.teacher_outputs import TeacherOutputs
from kdjax.objectives import Hyperparameters

MEMBERS, EXAMPLES, CLASSES = 3, 60, 4


@pytest.fixture
def logits() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(MEMBERS, EXAMPLES, CLASSES)).astype(np.float32)


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, CLASSES, EXAMPLES).astype(np.int32)


def test_errors_of_folds_are_those_of_seen_and_unseen_images(logits, labels) -> None:
    folds = np.random.default_rng(2).integers(0, MEMBERS, EXAMPLES)
    errors = teacher_outputs.fold_errors(logits, labels, folds)
    all_unseen = 0
    for number, fold in enumerate(errors["folds"]):
        wrong = {True: [0, 0], False: [0, 0]}
        for index in range(EXAMPLES):
            counts = wrong[bool(folds[index] == number)]
            counts[0] += int(np.argmax(logits[number, index]) != labels[index])
            counts[1] += 1
        assert fold["examples"] == wrong[True][1]
        assert fold["out_of_fold_error"] == pytest.approx(wrong[True][0] / wrong[True][1])
        assert fold["in_sample_error"] == pytest.approx(wrong[False][0] / wrong[False][1])
        all_unseen += wrong[True][0]
    assert errors["out_of_fold_error"] == pytest.approx(all_unseen / EXAMPLES)
    mean = sum(fold["in_sample_error"] for fold in errors["folds"]) / MEMBERS
    assert errors["in_sample_error"] == pytest.approx(mean)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("adjustment", ["probability_shift", "label_smooth_regularization"])
def test_adjustment_changes_the_distributions_of_misclassified_images(
    logits, labels, adjustment, temperature
) -> None:
    hyper = Hyperparameters(adjustment=adjustment, temperature=temperature)
    wrong = (logits[0].argmax(axis=1) != labels).sum()
    assert teacher_outputs.count_adjusted(logits[0], labels, hyper) == wrong > 0
    right = logits[0].argmax(axis=1)
    assert teacher_outputs.count_adjusted(logits[0], right, hyper) == 0


@pytest.mark.parametrize(
    ("changes", "counted"),
    [
        ({"objective.method": "ka"}, True),
        ({"objective.method": "kd"}, False),
        ({"objective.method": "ka", "objective.adjustment": "none"}, False),
    ],
)
def test_adjusted_images_are_counted_for_methods_that_adjust(
    logits, labels, changes, counted
) -> None:
    config = configs.base()
    config.update_from_flattened_dict(changes)
    outputs = TeacherOutputs({"train": Predictions(logits[0], labels)}, {}, None)
    correction = teacher_outputs.correction(outputs, configs.resolve(config))
    assert correction["adjusted"] == (correction["wrong"] if counted else None)
    assert "folds" not in correction


def test_disagreement_separates_the_wrong_predictions_as_far_as_it_ranks_them(
    logits, labels
) -> None:
    average = scipy.special.log_softmax(logits, axis=-1).mean(axis=0)
    outputs = TeacherOutputs(
        {split: Predictions(average, labels) for split in ("dev", "test")},
        dict.fromkeys(("dev", "test"), logits),
        None,
    )
    student = np.random.default_rng(3).normal(size=(EXAMPLES, CLASSES + 1)).astype(np.float32)
    predictions = {split: Predictions(student, labels) for split in ("dev", "test")}
    measured = teacher_outputs.disagreement(outputs, predictions)
    assert measured is not None and measured["members"] == MEMBERS
    probs = scipy.special.softmax(np.float64(logits), axis=-1)
    mean = probs.mean(axis=0)
    divergence = scipy.special.rel_entr(probs, mean).sum(axis=-1).mean(axis=0)
    for network, predicted in (("teacher", average), ("student", student[:, :-1])):
        wrong = predicted.argmax(axis=1) != labels
        above = divergence[wrong][:, None] > divergence[~wrong]
        assert measured["test"][f"{network}_auroc"] == pytest.approx(above.mean())
    assert measured["dev"]["mean"] == pytest.approx(divergence.mean())


def test_one_network_has_no_disagreement_and_a_perfect_one_no_auroc(logits, labels) -> None:
    assert teacher_outputs.disagreement(TeacherOutputs({}, {}, None), {}) is None
    right = logits[0].argmax(axis=1).astype(np.int32)
    splits = {split: Predictions(logits[0], right) for split in ("dev", "test")}
    student = {
        split: Predictions(np.pad(logits[0], ((0, 0), (0, 1)), constant_values=-9), labels)
        for split in splits
    }
    outputs = TeacherOutputs(splits, dict.fromkeys(splits, np.stack([logits[0]] * 2)), None)
    measured = teacher_outputs.disagreement(outputs, student)
    assert measured is not None
    assert measured["test"]["mean"] == pytest.approx(0, abs=1e-15)
    assert measured["test"]["teacher_auroc"] is None
