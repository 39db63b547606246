"""Whole runs on the embedded digits, as small as possible."""

import functools
import json
import os
import pathlib
import re
import shutil
import signal
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from support import forked
from support.commands import ROOT, start
from support.config_effects import training_effects
from support.runs import checkpoint, final_arrays, get_config, log_lines, stop_at_step, tiny
from support.tiny_network import TINY_NETWORK

import kdjax.config
from kdjax import pipeline
from kdjax.config import base, resolve
from kdjax.config_fields import field_names
from kdjax.errors import InputError, Preempted
from kdjax.evaluation import evaluate
from kdjax.evaluation.summary import ABSTENTION_SCORES
from kdjax.runs import restore, workdir
from kdjax.training import spec

CONFIGS = sorted(ROOT.glob("configs/*.py"))


@pytest.fixture(scope="module")
def run(data_dir: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A finished run with averaged weights and an epoch of pre-training."""
    folder = tmp_path_factory.mktemp("run") / "digits"
    changes = {
        "student.average": "swa",
        "student.average_start": 0.0,
        "student.schedule": "step",
        "student.step_every": 1,
        "teacher.average": "ema",
        "objective.pretrain_epochs": 1,
        "objective.adjustment": "label_smooth_regularization",
        "selective.delta": 0.1,
    }
    dataset = pipeline.train(tiny(data_dir, **changes), folder)
    evaluate.evaluate(folder, dataset)
    return folder


@pytest.mark.slow
def test_run_writes_all_files_and_results(run: pathlib.Path) -> None:
    for name in ("config.json", "metrics.jsonl", "results.json", "predictions/dev.npz"):
        assert (run / name).is_file(), name
        assert (run / "teacher" / name).is_file(), name
    assert list(run.glob("tensorboard/events*"))
    results = json.loads((run / "results.json").read_text())
    assert results["classes"] == 10
    for split in ("dev", "calibration", "test"):
        assert results[split]["examples"] == results["teacher"][split]["examples"] == 64
    for network in (results, results["teacher"]):  # both differ from the defaults
        assert (network["guarantee"]["risk"], network["guarantee"]["delta"]) == (0.03, 0.1)
    assert results["correction"]["examples"] == 64
    assert results["promises"]["selective_risk"]["requested"] == 0.03
    assert {"joint", "ladder"} <= results["promises"].keys()
    of_teacher = json.loads((run / "teacher" / "results.json").read_text())["promises"]
    assert of_teacher["joint"]["delta"] == 0.1 and "promises" not in results["teacher"]
    assert set(results["scores"]) > {"reservation_log_odds", "softmax_response_log_odds"}
    assert set(results["teacher"]["scores"]).isdisjoint(ABSTENTION_SCORES)


@pytest.mark.slow
def test_a_coverage_is_requested_of_a_finished_run(
    run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    copy = shutil.copytree(run, tmp_path / "run", symlinks=True)
    dataset = restore.load_dataset(copy)
    results = evaluate.evaluate(copy, dataset, risk=0.99, delta=0.2, coverage=0.4)
    guarantee = results["guarantee"]
    assert (guarantee["coverage"], guarantee["joint"]["both"]) == (0.4, True)
    assert results["promises"]["joint"] == {**guarantee["joint"], "used": True, "certified": True}
    # The threshold of the run is the one for both.
    threshold = guarantee["joint"]["at_risk"]["threshold"]
    assert results["promises"]["selective_risk"]["threshold"] == threshold
    assert results["per_class"]["threshold"] == threshold
    assert json.loads((copy / "results.json").read_text()) == json.loads(json.dumps(results))


@pytest.mark.slow
def test_certificates_of_one_of_several_students_stay_those_of_all(
    run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    copy = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("teacher"))
    dataset = restore.load_dataset(copy)
    first = evaluate.evaluate(copy, dataset, risk=0.9, runs=3)
    again = evaluate.evaluate(copy, dataset, risk=0.9)
    assert again["guarantee"] == first["guarantee"] and again["guarantee"]["runs"] == 3
    assert again["promises"]["ladder"] == first["promises"]["ladder"]
    (copy / "results.json").write_text("{")  # damaged: what is not known cannot be kept
    assert evaluate.evaluate(copy, dataset, risk=0.9)["guarantee"]["runs"] == 1


@pytest.mark.slow
def test_interrupted_evaluation_leaves_no_results(
    run: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise Preempted

    copy = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("results.json"))
    monkeypatch.setattr(evaluate, "predict_teacher", interrupt)
    with pytest.raises(Preempted):
        evaluate.evaluate(copy, restore.load_dataset(run))
    assert not list(copy.rglob("results.json"))


@pytest.mark.slow
def test_log_has_a_dev_line_per_epoch_and_the_loss_terms(run: pathlib.Path) -> None:
    lines = log_lines(run)
    dev = [line for line in lines if line["split"] == "dev"]
    assert [line["step"] for line in dev] == [4, 8]  # 64 images in batches of 16
    assert {"accuracy", "nll", "aurc"} <= set(dev[0])
    first, last = (line for line in lines if line["split"] == "train")
    assert first["loss"] == pytest.approx(first["cross_entropy"])  # pre-training
    assert last["loss"] == pytest.approx(last["gambler"] + last["distillation"])
    assert 0 <= last["teacher_error"] <= 1


# Every field of the config with another value and, where it has an effect only together with
# other fields, those. Fields of both stages are listed once.
STAGE_CHANGES: dict[str, tuple[Any, dict[str, Any]]] = {
    "model": ("resnet14", {}),
    "width": (3, {}),
    "stem": ("large", {"model": "resnet8"}),
    "model_args": ('{"strides": 4}', {"model": TINY_NETWORK}),
    "compute_dtype": ("bfloat16", {}),
    "epochs": (11, {}),
    "batch_size": (64, {}),
    "learning_rate": (0.3, {}),
    "momentum": (0.5, {}),
    "nesterov": (False, {}),
    "weight_decay": (0.1, {}),
    "decay_all": (True, {}),
    "warmup_epochs": (3.0, {}),
    "schedule": ("step", {"step_every": 2}),
    "step_every": (3, {"schedule": "step"}),
    "step_factor": (0.3, {"schedule": "step", "step_every": 2}),
    "average": ("swa", {}),
    "average_start": (0.1, {"average": "swa"}),
    "ema_decay": (0.5, {"average": "ema", "average_start": 0.0}),
    "bn_batches": (7, {"average": "ema"}),
    "optimizer": ("muon", {}),
    "sam_rho": (0.2, {"optimizer": "sam"}),
    "bn_bias_factor": (8.0, {}),
}
STAGES = ("teacher", "student")


def of_both_stages(context: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of a stage in both stages: they are the context of either."""
    return {f"{stage}.{key}": value for stage in STAGES for key, value in context.items()}


WARMUP = {"objective.distill_warmup_epochs": 1.0}
CHANGES: dict[str, tuple[Any, dict[str, Any]]] = {
    "seed": (1, {"order_seed": 0}),
    "order_seed": (1, {}),
    "setting": ("depth", {"teacher.model": "", "student.model": ""}),
    "size": ("laptop", {"teacher.model": "", "student.model": ""}),
    "cpu_tuning": (False, {}),
    "smoke": (True, {}),
    "best_metric": ("nll", {}),
    "log_every": (7, {}),
    "metric_writers": (("wandb",), {}),
    "eval_batch_size": (32, {}),
    "eval_every": (3, {}),
    "data.name": ("svhn_cropped", {}),
    "data.dir": ("elsewhere", {}),
    "data.train_split": ("train+extra", {}),
    "data.test_split": ("extra", {}),
    "data.image_size": (16, {}),
    "data.fit": ("crop", {}),
    "data.strict": (True, {}),
    "data.test_fraction": (0.3, {}),
    "data.dev_fraction": (0.2, {}),
    "data.calibration_fraction": (0.2, {}),
    "data.split_seed": (1, {}),
    "data.limit": (500, {}),
    "data.pipeline": ("stream", {}),
    "data.placement": ("sharded", {}),
    "data.pad": (1, {}),
    "data.flip": (False, {}),
    "data.flip_mode": ("alternating", {}),
    "objective.method": ("ka_gambler_soft", {"objective.temperature": 1.0}),
    "objective.payoff": (1.5, {}),
    "objective.distill_weight": (0.5, {}),
    "objective.temperature": (2.0, {}),
    "objective.adjustment": ("label_smooth_regularization", {}),
    "objective.epsilon": (0.2, {"objective.adjustment": "label_smooth_regularization"}),
    "objective.distill_warmup_epochs": (3.0, {}),
    "objective.logit_standardization": (True, {}),
    "objective.target_weight": (2.0, {"objective.method": "dkd", **WARMUP}),
    "objective.non_target_weight": (2.0, {"objective.method": "dkd", **WARMUP}),
    "objective.inter_class_weight": (1.0, {"objective.method": "dist"}),
    "objective.intra_class_weight": (1.0, {"objective.method": "dist"}),
    "objective.target_momentum": (0.5, {"objective.method": "self_adaptive"}),
    "objective.pretrain_epochs": (2, {}),
    "objective.rank_weight_start": (0.5, {"teacher.folds": 5}),
    "teacher.folds": (2, {}),
    "teacher.workdir": ("<teacher>", {}),
    "teacher.cache": ("off", {}),
    "teacher.label_smoothing": (0.2, {}),
    "teacher.views": (4, {}),
    "students": (({"seed": 1}, {"seed": 2}), {}),
    "sweep": ('{"seed": [1, 2]}', {}),
    **{
        f"{stage}.{field}": (value, of_both_stages(context))
        for stage in STAGES
        for field, (value, context) in STAGE_CHANGES.items()
    },
}
# The default workdir: tests/test_commands.py. The certificate: the test of a run's results above.
# Teachers that are given: tests/runs/test_teachers.py and tests/training/external. Initial weights:
# tests/runs/test_initial_weights.py. The choice of a sweep: tests/test_sweep.py. Recipes:
# tests/test_recipes.py.
GIVEN_TEACHER = {f"teacher.{name}" for name in workdir.SOURCE_FIELDS if name != "workdir"}
TESTED_ELSEWHERE = {
    "name",
    "recipe",
    "selective.views",
    "selective.risk",
    "selective.delta",
    "selective.coverage",
    "selective.set_alpha",
    "selective.set_method",
    "selective.gate",
    "selective.gate_acceptance",
    "student.init",
    "sweep_metric",
    "sweep_seeds",
}


def test_every_field_is_in_the_test_of_its_effect() -> None:
    assert set(CHANGES) | TESTED_ELSEWHERE | GIVEN_TEACHER == set(field_names(base()))


def effects(folder: pathlib.Path, changes: dict[str, Any]) -> dict[str, Any]:
    """Returns the effects of the default config with some changes."""
    config = base()
    config.update_from_flattened_dict(changes)
    with pytest.MonkeyPatch.context() as patch:
        return training_effects(resolve(config), folder, patch)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Returns a function: context of a field -> the workdir and the effects without its change."""

    @functools.cache
    def run(context: tuple[tuple[str, Any], ...]) -> tuple[pathlib.Path, dict[str, Any]]:
        folder = tmp_path_factory.mktemp("effects")
        expected = effects(folder / "unchanged", dict(context))
        assert effects(folder / "again", dict(context)) == expected
        return folder / "unchanged", expected

    return run


# Both stages read the fields that they share in the same way.
WITH_SLOW = [
    pytest.param(field, marks=pytest.mark.slow)
    if field.startswith("teacher.") and field.removeprefix("teacher.") in STAGE_CHANGES
    else field
    for field in CHANGES
]


@pytest.mark.parametrize("field", WITH_SLOW)
def test_every_field_of_the_config_has_an_effect(
    field: str, reference: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    value, context = CHANGES[field]
    small = {"teacher.model": TINY_NETWORK, "student.model": TINY_NETWORK, **context}
    small |= {f"{stage}.epochs": 10 for stage in STAGES}
    folder, expected = reference(tuple(small.items()))
    if field == "teacher.workdir":
        value = str(folder / "teacher")
    changed = effects(tmp_path / "changed", {**small, field: value})
    assert changed != expected, f"{field} has no effect"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective.payoff": 12.0}, "payoff 12.0 .* never pays; choose a payoff between 1 and 10"),
        (
            {"students": ({"objective.method": "ka_gambler_soft"}, {"objective.method": "ce"})},
            r"objective.temperature 4.0 with ka_gambler_soft: .* 1 / payoff = 0.45",
        ),
        (
            {"objective.method": "rld", "objective.temperature": 2.0},
            "rld without warm-up: .* up to 16 times those of .*distill_warmup_epochs=20",
        ),
        (
            {"objective.method": "reservation_distillation", "objective.payoff": 12.0},
            "reservation_distillation with a teacher that is trained on the same .*folds=5",
        ),
        (
            {"objective.method": "kd", "objective.rank_weight_start": 0.5},
            "^objective.rank_weight_start 0.5 with a teacher that is trained on the same",
        ),
        (
            {"objective.method": "kd", "teacher.warmup_epochs": 9.0, "teacher.epochs": 9},
            "^teacher.warmup_epochs 9 is not below teacher.epochs 9: the learning rate",
        ),
        (
            {"objective.method": "ce", "student.warmup_epochs": 9.5, "student.epochs": 9},
            "^student.warmup_epochs 9.5 is not below student.epochs 9: the learning rate",
        ),
        (
            {"selective.risk": 0.01},
            "risk 0.01 cannot be certified with delta 0.05 from 200 calibration images: 299 are",
        ),
    ],
)
def test_settings_that_cannot_work_are_one_warning_before_training(
    changes: dict[str, Any], message: str, tmp_path: pathlib.Path
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        effects(tmp_path / "run", {"size": "laptop", **changes})
    (line,) = [str(warning.message) for warning in caught]
    assert re.search(message, line)


def test_smoke_run_says_nothing_about_the_calibration_split(tmp_path: pathlib.Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        effects(tmp_path / "run", {"size": "laptop", "smoke": True, "selective.risk": 0.01})


@pytest.mark.slow
def test_end_of_pre_training_is_said(
    data_dir: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = {"objective.method": "gambler", "objective.pretrain_epochs": 1}
    pipeline.train(tiny(data_dir, **fields), tmp_path / "run")
    lines = [line.partition("  ")[2] for line in capsys.readouterr().out.splitlines()]
    note = lines.index("pre-training has ended: epoch 2 has another loss")
    assert lines[note - 1].startswith("epoch 1/2") and lines[note + 1].startswith("epoch 2/2")


def test_setting_and_size_choose_the_networks() -> None:
    config = get_config(ROOT / "configs" / "digits.py")
    config.setting, config.size = "depth", "paper"
    resolved = resolve(config)
    assert (resolved.teacher.model, resolved.student.model) == ("resnet50", "resnet18")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_each_config_resolves_and_documents_its_command(path: pathlib.Path) -> None:
    text = path.read_text()
    assert f"python -m kdjax.main --config=configs/{path.name}" in text
    config = get_config(path)
    assert config.name == path.stem
    for setting, size in kdjax.config.PAIRS:
        config.setting, config.size = setting, size
        resolved = resolve(config)
        assert resolved.is_locked
        outputs = spec.create_network(resolved, "student", 10).num_outputs  # type: ignore[attr-defined]
        assert outputs == 11


@pytest.mark.slow
def test_best_checkpoint_is_not_one_of_pretraining(run: pathlib.Path) -> None:
    assert checkpoint(run, "best").step == 8  # the first epoch, to step 4, was pre-training


@pytest.mark.slow
def test_evaluation_every_third_epoch_changes_no_weights(
    data_dir: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {
        "smoke": False,
        "data.limit": 64,
        "selective.risk": 0.2,
        "objective.method": "gambler",
        "objective.pretrain_epochs": 1,  # the losses that are logged change between evaluations
        "student.epochs": 4,
        "student.batch_size": 32,
        "student.average": "swa",
    }

    def train(every: int, folder: pathlib.Path) -> None:
        pipeline.train(tiny(data_dir, **changes, eval_every=every), folder)

    def dev_steps(folder: pathlib.Path) -> list[int]:
        return [line["step"] for line in log_lines(folder) if line["split"] == "dev"]

    often, seldom = tmp_path / "often", tmp_path / "seldom"
    train(1, often)
    with monkeypatch.context() as patch:
        stop_at_step(patch, 4)  # the end of the second epoch, which is not evaluated
        with pytest.raises(Preempted):
            train(3, seldom)
    assert final_arrays(seldom)[0] == 4 and dev_steps(seldom) == []
    train(3, seldom)
    assert dev_steps(often) == [2, 4, 6, 8] and dev_steps(seldom) == [6, 8]
    for expected, actual in zip(final_arrays(often)[1], final_arrays(seldom)[1], strict=True):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.slow
def test_average_is_evaluated_instead_of_the_last_weights(run: pathlib.Path) -> None:
    best = checkpoint(run, "best")
    variables = restore.restore(run).variables
    jax.tree.map(np.testing.assert_array_equal, variables, best.state.average)
    # The average over the ends of both epochs differs from the last weights.
    last, averaged = (
        np.asarray(v["params"]["Dense_0"]["kernel"]) for v in (best.state.variables, variables)
    )
    assert np.any(last != averaged)


@pytest.mark.slow
def test_method_without_a_teacher_trains_none(
    data_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    config = tiny(data_dir, **{"objective.method": "ce"})
    dataset = pipeline.train(config, tmp_path)
    assert not (tmp_path / "teacher").exists()
    results = evaluate.evaluate(tmp_path, dataset)
    # The abstention output was not trained.
    assert set(results["scores"]).isdisjoint(ABSTENTION_SCORES)
    assert "teacher" not in results


@pytest.mark.slow
def test_non_finite_loss_stops_the_run(data_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    changes = {
        "objective.method": "gambler",
        "objective.pretrain_epochs": 0,
        "student.learning_rate": 1e30,
    }
    message = r"student's loss is not finite at step \d.*gambler"
    with pytest.raises(FloatingPointError, match=message):
        pipeline.train(tiny(data_dir, **changes), tmp_path)
    assert not (tmp_path / "results.json").exists()


def test_payoff_above_the_number_of_classes_warns(
    data_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    changes = {"objective.method": "gambler", "objective.payoff": 10.0, "student.batch_size": 5000}
    config = tiny(data_dir, smoke=False, **changes)
    with pytest.warns(RuntimeWarning, match="payoff 10.0 .*classes, 10"), pytest.raises(InputError):
        pipeline.train(config, tmp_path)


def test_batch_larger_than_the_data_is_refused(
    data_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    changes = {"smoke": False, "student.batch_size": 5000, "objective.method": "ce"}
    with pytest.raises(InputError, match=r"student.batch_size 5000 .* largest that fits is 1150$"):
        pipeline.train(tiny(data_dir, **changes), tmp_path)
    both = changes | {"teacher.batch_size": 1152, "objective.method": "kd"}
    with pytest.raises(InputError, match=r"fits is 1150, also for teacher\.batch_size$"):
        pipeline.train(tiny(data_dir, **both), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student.batch_size": 5000}, "student.batch_size 5000 is more than the 1150"),
        (
            {"objective.adjustment": "label_smooth_regularization", "objective.epsilon": 0.95},
            r"objective.epsilon 0.95 is out of range: it must lie in \[0, 0.9\)",
        ),
        ({"student.epochs": 2**31}, "student.epochs 2147483648 is out of range"),
        (
            {
                "students": ({"seed": 1}, {"objective.epsilon": 0.95}),
                **{"objective.adjustment": "label_smooth_regularization"},
            },
            "objective.epsilon 0.95",
        ),
    ],
)
def test_what_the_data_set_does_not_allow_is_refused_before_the_teacher_is_trained(
    changes: dict[str, Any], message: str, data_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(InputError, match=message):
        pipeline.train(tiny(data_dir, smoke=False, **changes), tmp_path)
    assert list(tmp_path.iterdir()) == []


# Runs of the command that are stopped and resumed.

FIELDS = {
    "smoke": False, "log_every": 1, "objective.pretrain_epochs": 1,
    "teacher.model": TINY_NETWORK, "teacher.epochs": 1, "teacher.warmup_epochs": 0.0,
    "student.model": TINY_NETWORK, "student.epochs": 2,
    "student.batch_size": 16, "student.average": "ema", "student.average_start": 0.3,
    "student.bn_batches": 2,
}  # fmt: skip


def start_run(folder: pathlib.Path, data_dir: pathlib.Path) -> forked.Forked:
    """Starts a run with 71 steps per epoch, all of them logged, and averaged weights.

    It has the devices of this process; without matplotlib it writes no report.
    """
    paths = [f"--workdir={folder}", f"--config.data.dir={data_dir}"]
    fields = [f"--config.{name}={value}" for name, value in FIELDS.items()]
    devices = f"--xla_force_host_platform_device_count={jax.device_count()}"
    return start(
        *("main", "--config=configs/digits.py", *paths, *fields),
        absent=["matplotlib"],
        XLA_FLAGS=f"{devices} {os.environ['XLA_FLAGS']}",
    )


def finish(folder: pathlib.Path, data_dir: pathlib.Path) -> None:
    """Runs the run, or what is left of it, to its end, as the command does."""
    config = tiny(data_dir, **FIELDS)
    evaluate.evaluate_all([folder], pipeline.train(config, folder))


def stop_at(
    process: forked.Forked, metrics: pathlib.Path, count: int, stop_signal: signal.Signals
) -> tuple[int, str]:
    """Sends the signal once the file has this many lines; returns exit status and output."""
    deadline = time.monotonic() + 300
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < count:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(stop_signal)
    output, errors = process.communicate(timeout=60)
    status = process.returncode
    assert status is not None
    return status, output + errors


def saved_steps(folder: pathlib.Path) -> list[int]:
    return sorted(int(path.name) for path in (folder / "checkpoints").glob("[0-9]*"))


@pytest.fixture(scope="module")
def uninterrupted(data_dir: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    finish(folder, data_dir)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("stop_signal", [signal.SIGKILL, signal.SIGTERM])
def test_resume_within_an_epoch_is_bit_identical(
    stop_signal: signal.Signals,
    uninterrupted: pathlib.Path,
    data_dir: pathlib.Path,
    tmp_path: pathlib.Path,
) -> None:
    folder = tmp_path / "interrupted"
    # The teacher is finished: others are interrupted in training/test_preemption.py.
    shutil.copytree(uninterrupted / "teacher", folder / "teacher")
    process = start_run(folder, data_dir)
    status, output = stop_at(process, folder / "metrics.jsonl", 120, stop_signal)
    stopped = log_lines(folder)[-1]["step"]
    assert 71 < stopped < 142 and not (folder / "results.json").exists()
    if stop_signal == signal.SIGTERM:
        assert saved_steps(folder) == [71, stopped] and status == 75
        assert f"kdjax: error: student stopped by SIGTERM at step {stopped}" in output
    else:
        assert saved_steps(folder) == [71] and status == -stop_signal
    finish(folder, data_dir)

    (steps, expected), (resumed_steps, actual) = final_arrays(uninterrupted), final_arrays(folder)
    assert steps == resumed_steps == 142
    for expected_leaf, leaf in zip(expected, actual, strict=True):
        np.testing.assert_array_equal(leaf, expected_leaf)
    for name in ("predictions/test.npz", "results.json"):
        assert (uninterrupted / name).read_bytes() == (folder / name).read_bytes()
    # The log has each step once, as without the interruption.
    logged = [
        [(line["step"], line["split"]) for line in log_lines(path)]
        for path in (uninterrupted, folder)
    ]
    assert logged[0] == logged[1]
