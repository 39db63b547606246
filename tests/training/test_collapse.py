"""Students that abstain on nearly every image: when it is reported, and what is advised."""

import json
import pathlib
from typing import Any

import numpy as np
import pytest
from support.runs import log_lines, stop_at_step, tiny

from kdjax import config as configs
from kdjax import pipeline
from kdjax.errors import Preempted
from kdjax.evaluation import evaluate
from kdjax.report import console
from kdjax.training import collapse
from kdjax.training.spec import TrainSpec, train_spec

STEPS = 4  # in an epoch
METADATA = {"class_names": list("0123456789"), "train_examples": 4 * 32, "image_shape": [8, 8, 1]}


def spec(**fields: Any) -> TrainSpec:
    config = configs.base()
    config.update_from_flattened_dict({"student.batch_size": 32, **fields})
    return train_spec(configs.resolve(config), "student", METADATA)


def reported(shares: list[float], **fields: Any) -> list[int]:
    """Returns the epochs after which a collapse is reported, counted from 1."""
    fields = {"student.epochs": len(shares), **fields}
    monitor = collapse.Monitor(spec(**fields))
    return [
        epoch for epoch, share in enumerate(shares, start=1) if monitor.update(STEPS * epoch, share)
    ]


def test_the_share_counts_the_images_on_which_abstention_is_the_largest_output() -> None:
    logits = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)
    expected = np.mean([row[3] > max(row[:3]) for row in logits])
    assert collapse.abstained_share(logits) == expected


@pytest.mark.parametrize(
    ("shares", "epochs"),
    [
        ([1.0, 1.0, 1.0, 1.0], [2]),  # once
        ([1.0, 0.9, 1.0, 0.9, 0.9], []),  # never twice in a row
        ([0.0, 0.0, 0.96, 0.96, 0.0], [4]),
        ([0.0, 0.95, 0.95, 0.95], []),  # not above the limit
        ([0.0, 0.0, 1.0], [3]),  # at the end one evaluation is enough
    ],
)
def test_a_collapse_is_reported_once_and_after_two_evaluations(
    shares: list[float], epochs: list[int]
) -> None:
    assert reported(shares) == epochs


def test_evaluations_of_pre_training_do_not_count() -> None:
    fields = {"objective.pretrain_epochs": 3}
    assert reported([1.0] * 6, **fields) == [5]
    assert reported([1.0, 1.0, 1.0], **fields) == []  # all epochs are pre-training


def test_long_training_has_more_patience() -> None:
    assert reported([1.0] * 19 + [0.0] * 181, **{}) == []
    assert reported([1.0] * 21 + [0.0] * 179) == [20]


@pytest.mark.parametrize(
    ("fields", "present", "absent"),
    [
        ({"method": "gambler"}, ["raise objective.payoff (2.2)", "pretrain_epochs (0)"], ["temp"]),
        ({"method": "ka_gambler_soft"}, ["objective.temperature to 1", "payoff"], []),
        ({"method": "ka_gambler_soft", "temperature": 1.0}, ["payoff"], ["temperature"]),
        ({"method": "self_adaptive"}, ["objective.pretrain_epochs"], ["payoff", "teacher"]),
        ({"method": "reservation_distillation"}, ["a better teacher"], ["payoff"]),
    ],
)
def test_advice_names_only_fields_that_the_method_has(
    fields: dict[str, Any], present: list[str], absent: list[str]
) -> None:
    config = configs.base()
    config.objective.update(fields)
    line = collapse.warning(0.975, configs.resolve(config).to_dict())
    assert "abstains outright on 97.5 % of the dev images" in line and "\n" not in line
    assert all(part in line for part in present) and not any(part in line for part in absent)


COLLAPSING = {
    "smoke": False,
    "selective.risk": 0.2,
    "data.limit": 64,
    "data.pad": 0,
    "student.epochs": 6,
    "student.batch_size": 16,
    "student.learning_rate": 0.5,
    "objective.pretrain_epochs": 1,
    "objective.method": "gambler",
}
STUDENTS = (
    {"objective.payoff": 1.01},
    {"objective.payoff": 9.5},
    {"objective.method": "ce", "objective.payoff": 1.01},
)


@pytest.mark.slow
def test_only_the_student_with_a_low_payoff_collapses_and_it_is_said_once(
    data_dir: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny(data_dir, students=STUDENTS, **COLLAPSING)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Preempted):
        stop_at_step(patch, 16)  # after the epoch that reports it
        pipeline.train(config, tmp_path / "run")
    dataset = pipeline.train(config, tmp_path / "run")
    folders = list(pipeline.student_workdirs(config, tmp_path / "run"))
    results = evaluate.evaluate_all(folders, dataset)
    printed = capsys.readouterr().out.splitlines()
    (line,) = [line for line in printed if "has collapsed" in line]
    assert line.startswith("student  payoff=1.01 has collapsed") and "payoff (1.01)" in line
    shares = [
        [entry.get("abstained") for entry in log_lines(folder) if entry["split"] == "dev"]
        for folder in folders
    ]
    assert min(shares[0][2:4]) > collapse.LIMIT > max(shares[1]) and set(shares[2]) == {None}
    for folder, each in zip(folders, results.values(), strict=True):
        assert ("collapse" in each) == (folder == folders[0])
        logits = np.load(folder / "predictions" / "dev.npz")["logits"]
        assert each["dev"].get("abstained") in (None, np.mean(logits.argmax(axis=1) == 10))
    assert json.loads((folders[0] / "results.json").read_text())["collapse"]
    console.show(results[folders[0]], "run")
    assert "warning: the student has collapsed" in capsys.readouterr().out


def test_a_teacher_and_methods_without_abstention_are_exempt() -> None:
    config = configs.resolve(configs.base()).to_dict()
    assert collapse.trains_abstention("student", config)
    assert not collapse.trains_abstention("teacher", config)
    config["objective"]["method"] = "kd"
    assert not collapse.trains_abstention("student", config)
