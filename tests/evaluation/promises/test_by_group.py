"""Promises for each group of images, such as devices, from the groups of the predictions files."""

import json

import numpy as np
import pytest
from support import sample_runs

from kdjax import selective
from kdjax.evaluation.promises import by_group
from kdjax.evaluation.promises.base import Evidence, Extras

SIZES = {"dev": 100, "calibration": 1200, "test": 900}


def evidence(groups, threshold=0.5, risk=0.1):
    outputs = {
        name: sample_runs.split(size, seed) for seed, (name, size) in enumerate(SIZES.items())
    }
    return Evidence(
        **outputs,
        confidence=selective.numpy_scores(2.0)["margin"],
        threshold=threshold,
        source="certificate",
        risk=risk,
        delta=0.05,
        runs=1,
        class_names=sample_runs.CLASSES,
        settings={},
        extras=Extras(groups=groups or {}),
    )


def drawn_groups(names=("left", "right", ""), shares=(0.6, 0.3, 0.1)):
    rng = np.random.default_rng(5)
    return {split: rng.choice(names, SIZES[split], p=shares) for split in SIZES}


@pytest.mark.slow
def test_counts_of_each_group_are_those_of_the_predictions():
    groups = drawn_groups()
    given = evidence(groups)
    values = by_group.compute(given)
    assert values["names"] == ["left", "right"]  # "" is no group
    logits, labels, _ = given.test
    confidence, correct = given.confidence(logits), logits[:, :-1].argmax(axis=1) == labels
    for index, (name, own) in enumerate(zip(values["names"], values["threshold"], strict=True)):
        for kind, threshold in (("point", 0.5), ("test", own)):
            kept = (groups["test"] == name) & (confidence >= threshold)
            counts = [values[kind][key][index] for key in ("examples", "accepted", "errors")]
            assert counts == [np.sum(groups["test"] == name), kept.sum(), (kept & ~correct).sum()]
    json.dumps(values, allow_nan=False)


def test_images_in_no_group_have_no_influence():
    groups = drawn_groups()
    given = evidence(groups)
    rows = groups["calibration"] != ""
    rule = selective.classwise(
        given.confidence(given.calibration.logits)[rows],
        given.calibration.correct[rows],
        groups["calibration"][rows],
        risk=0.1,
        delta=0.05,
    )
    values = by_group.compute(given)
    assert values["threshold"] == rule.threshold.tolist()
    assert sum(values["calibration"]["examples"]) == rows.sum()


@pytest.mark.parametrize(
    "groups",
    [
        None,
        {"calibration": drawn_groups()["calibration"]},
        {split: np.full(size, "") for split, size in SIZES.items()},
        # Groups such as patients, whose images stay in one split.
        {split: np.full(size, f"of {split}") for split, size in SIZES.items()},
    ],
)
def test_without_groups_that_occur_again_nothing_is_promised(groups):
    assert by_group.compute(evidence(groups)) is None


def test_statement_names_the_groups_without_a_certificate_and_has_a_row_for_each():
    groups = drawn_groups(("a", "b", "rare"), (0.7, 0.28, 0.02))
    values = by_group.compute(evidence(groups))
    statement = by_group.statement(values)
    assert "for 2 of the 3 groups (a and b)" in statement.sentences[0]
    assert statement.sentences[1] == (
        "For rare no image would be accepted, because there are too few calibration images: even "
        "if none is wrong, it needs 39."
    )
    assert "95 %" in statement.scope and len(statement.table.columns) == 6
    rows = {row[0]: row[1:] for row in statement.table.rows}
    point = {key: values["point"][key][0] for key in ("examples", "accepted", "errors")}
    assert rows["a"][0] == str(point["examples"])
    share = 100 * point["accepted"] / point["examples"]
    assert rows["a"][1] == f"{point['accepted']} ({share:.1f} %)"
    wrong = 100 * point["errors"] / point["accepted"]
    assert rows["a"][2] == f"{point['errors']} ({wrong:.1f} %)"
    assert rows["rare"][3:] == ("0 (0.0 %)", "none")


def test_no_certified_group_is_said_so():
    statement = by_group.statement(by_group.compute(evidence(drawn_groups(), risk=0.001)))
    assert statement.sentences[0].startswith("For none of the 2 groups could it be shown")
    assert not any("results.json" in sentence for sentence in statement.sentences)
